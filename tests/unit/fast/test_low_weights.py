"""Weights that a layer casts at once: the numbers are those of autocast, in fewer launches."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from mtlcli.fast.low_weights import cast_together
from mtlcli.models.backbone import Backbone
from mtlcli.training.step import Backward
from tests.families import family_backbone, family_batch
from tests.launches import Launches
from tests.small import small_data, small_model, small_step
from tests.unit.training.test_step import ALONE, batches


def gradients(backbone: Backbone, launches: Launches | None = None) -> dict[str, torch.Tensor]:
    """The gradients of a pass in bf16."""
    backbone.zero_grad()
    torch.manual_seed(0)
    batch = family_batch()
    with ExitStack() as stack:
        if launches is not None:
            launches.put([*backbone.parameters(), *backbone.buffers(), *batch.tensors()])
            stack.enter_context(launches.counting())
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        encoded = backbone(batch)
        (encoded.hidden.float().square().sum() + encoded.pooled.float().sum()).backward()
    return {
        name: parameter.grad
        for name, parameter in backbone.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "llama", "t5", "deberta-v2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_autocast_to_the_bit(family: str, checkpointing: bool) -> None:
    backbone = family_backbone(family, "mean").train()
    if checkpointing and backbone.network.supports_gradient_checkpointing:
        backbone.network.gradient_checkpointing_enable({"use_reentrant": False})
    names = list(backbone.state_dict())
    frozen = next(name for name in reversed(names) if name.endswith("weight"))
    backbone.get_parameter(frozen).requires_grad = False
    expected = gradients(backbone)
    cast_together(backbone)
    found = gradients(backbone)
    assert list(backbone.state_dict()) == names and frozen not in found
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_a_layer_launches_two_casts() -> None:
    backbone = family_backbone("bert", "cls")
    before, after = Launches(), Launches()
    gradients(backbone, before)
    cast_together(backbone)
    gradients(backbone, after)
    # Twelve weights and biases, forwards and backwards, in each of two layers.
    assert before.total - after.total == 2 * (2 * 12 - 2)
    assert after.operators["_foreach_copy_"] == 4


@pytest.mark.parametrize("sharing", ["lora", "mmoe", "none", "cross_stitch"])
def test_a_step_of_a_strategy_is_the_same_to_the_bit(sharing: str) -> None:
    """Also where copies of layers run under vmap, which are left alone."""
    _, _, features, _ = small_data()
    found = []
    for change in (False, True):
        model, weighting = small_model(sharing, fast=False)
        for module in list(model.modules()):
            if change and isinstance(module, Backbone):
                cast_together(module)
        given = batches(model, features)
        step = Backward(model, weighting, ALONE, bf16=True)
        losses = step(given, small_step(given)).losses
        named = {name: each.grad for name, each in model.named_parameters()}
        found.append({"losses": losses} | {k: v for k, v in named.items() if v is not None})
    first, second = found
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
