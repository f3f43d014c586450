"""Gradient checkpointing: the same losses and gradients with every strategy, with layers computed
again instead of kept."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mtlcli.config import Model, sharings
from mtlcli.config.sharing import Stitching
from tests import small
from tests.unit.training.test_step import batches, gradients, run_step


def kept(run) -> int:  # type: ignore[no-untyped-def]
    """Numbers that autograd keeps for the backward pass while `run` goes on."""
    total = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return total


@pytest.mark.parametrize(
    "sharing", [name for name in sharings if not issubclass(sharings.configs[name], Stitching)]
)
def test_the_step_is_the_same(sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, features, _ = small.small_data()
    model, weighting = small.small_model(sharing)
    given = batches(model, features)
    outcome = run_step(model, weighting, given)
    expected = gradients(model)
    monkeypatch.setattr(small, "Model", partial(Model, gradient_checkpointing=True))
    checkpointed, weighting = small.small_model(sharing)
    again = run_step(checkpointed.train(), weighting, given)
    found = gradients(checkpointed)
    torch.testing.assert_close(again.losses, outcome.losses, atol=0, rtol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("sharing", ["mmoe", "task_embedding", "lora"])
def test_layers_are_computed_again_for_the_task_of_their_batch(
    sharing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward pass may begin when the forward passes of all tasks are over."""
    _, _, features, _ = small.small_data()
    found = []
    for checkpointing in (False, True):
        monkeypatch.setattr(small, "Model", partial(Model, gradient_checkpointing=checkpointing))
        model, _ = small.small_model(sharing)
        model.train()
        losses = [
            model(task, given.micro[0]).loss for task, given in batches(model, features).items()
        ]
        torch.stack(losses).sum().backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_checkpointing_keeps_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, features, _ = small.small_data()
    sizes = []
    for checkpointing in (False, True):
        monkeypatch.setattr(small, "Model", partial(Model, gradient_checkpointing=checkpointing))
        model, _ = small.small_model("hard")
        micro = batches(model, features)["squad"].micro[0]
        sizes.append(kept(lambda model=model, micro=micro: model.train()("squad", micro)))
    assert sizes[1] < 0.5 * sizes[0]
