"""Task attention: the formula against a plain computation, and the limit in which it is hard
sharing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlcli.errors import UserError
from mtlcli.models.multitask import Trunk
from mtlcli.sharing.attention import AttentionSharing
from mtlcli.sharing.attention.trunk import OPEN, Mask, MaskedLayer
from mtlcli.sharing.hard import HardSharing
from mtlcli.sharing.parts.layers import hidden_of, layer_list
from tests.families import family_backbone, family_batch, family_trunk
from tests.small import small_model
from tests.unit.sharing.training import batch_of

FINAL_NORM = {
    "bert": None,
    "t5": "final_layer_norm",
    "llama": "norm",
    "modernbert": "final_norm",
    "gpt2": "ln_f",
}


def trunk_of(family: str, sharing: Any) -> Trunk:
    """Two tasks with heads of their own, and one that borrows."""
    return family_trunk(family, sharing, {"a": "a", "b": "b", "c": "b"})


def shaken(trunk: Trunk) -> Trunk:
    """The trunk with masks that differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in trunk.modules():
            if isinstance(module, Mask):
                for parameter in module.parameters():
                    parameter += 0.5 * torch.randn_like(parameter)
    return trunk


def shared_states(family: str) -> list[Tensor]:
    """What the layers of the plain network hand to one another: below the first, ..., above the
    last."""
    backbone = family_backbone(family).eval()
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, more: Any, output: Any) -> None:
        if not states:
            states.append(inputs[0] if inputs else more["hidden_states"])
        states.append(hidden_of(output))

    for layer in layer_list(backbone.network):
        layer.register_forward_hook(keep, with_kwargs=True)
    backbone(family_batch())
    return states


@pytest.mark.parametrize("family", list(FINAL_NORM))
def test_the_masks_are_those_of_the_formula(family: str) -> None:
    trunk = shaken(trunk_of(family, AttentionSharing(size=6)))
    network: Any = trunk.backbone.network  # type: ignore[union-attr]
    with torch.no_grad():
        shared = shared_states(family)
        task = None
        for number, layer in enumerate(layer_list(network)):
            mask = layer.masks["b"]  # type: ignore[index, union-attr]
            seen = shared[number] if task is None else torch.cat([shared[number], task], -1)
            inner = seen @ mask.down.weight.T + mask.down.bias
            inner = (inner - inner.mean(-1, keepdim=True)) / (
                inner.var(-1, keepdim=True, correction=0) + 1e-5
            ).sqrt()
            inner = (inner * mask.norm.weight + mask.norm.bias).clamp(min=0)
            task = shared[number + 1] / (1 + (-(inner @ mask.up.weight.T + mask.up.bias)).exp())
        assert task is not None
        name = FINAL_NORM[family]
        expected = task if name is None else getattr(network, name)(task)
        assert torch.allclose(trunk("b", family_batch()).hidden, expected, atol=1e-5)
        assert torch.equal(trunk("c", family_batch()).hidden, trunk("b", family_batch()).hidden)
        assert not torch.allclose(trunk("a", family_batch()).hidden, expected, atol=1e-2)


@pytest.mark.parametrize("family", list(FINAL_NORM))
@pytest.mark.parametrize("layers", ["all", [0]])
def test_masks_that_let_all_through_are_hard_sharing(family: str, layers: Any) -> None:
    hard, trunk = trunk_of(family, HardSharing()), trunk_of(family, AttentionSharing(layers=layers))
    for module in trunk.modules():
        if isinstance(module, Mask):
            nn.init.constant_(module.up.bias, 1e4)
    assert torch.equal(trunk("a", family_batch()).hidden, hard("a", family_batch()).hidden)


def test_features_come_through_at_the_start() -> None:
    hard, trunk = trunk_of("bert", HardSharing()), trunk_of("bert", AttentionSharing())
    share = trunk("a", family_batch()).hidden / hard("a", family_batch()).hidden
    assert share.min() > 0.8 and share.max() < 0.96


def test_shared_states_go_up_unmasked_below_the_highest_chosen_layer() -> None:
    trunk = shaken(trunk_of("bert", AttentionSharing(layers=[1])))
    lower, upper = layer_list(trunk.backbone.network)  # type: ignore[union-attr, arg-type]
    assert not isinstance(lower, MaskedLayer) and isinstance(upper, MaskedLayer)
    assert upper.masks["a"].down.in_features == 32, "the lowest mask sees the shared states alone"  # type: ignore[union-attr]


def test_statistics_hold_the_mean_mask_of_each_task() -> None:
    model, _ = small_model(AttentionSharing(layers=[-1]))
    masked = next(module for module in model.modules() if isinstance(module, MaskedLayer))
    assert model.trunk.measures()["masks"]["stsb"] == {"1": pytest.approx(OPEN)}
    shaken(model.trunk)
    seen: list[Tensor] = []
    masked.masks["stsb"].register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr]
    batch = batch_of("stsb")
    model.train()("stsb", batch)
    told = model.trunk.measures()["masks"]
    assert told["stsb"]["1"] == pytest.approx(seen[0][batch.attention_mask].mean().item(), rel=1e-5)
    assert told["cola"]["1"] == pytest.approx(OPEN)
    model.eval()("cola", batch_of("cola"))
    assert model.trunk.measures()["masks"] == told, "evaluation leaves no trace"


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="there is no layer 2"):
        trunk_of("bert", AttentionSharing(layers=[2]))
