"""Sluice networks: what they add to cross-stitch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.errors import UserError
from mtlcli.sharing.cross_stitch import CrossStitchSharing
from mtlcli.sharing.sluice import SluiceSharing
from tests.families import TASKS, family_trunk
from tests.unit.sharing.test_cross_stitch import shaken
from tests.unit.sharing.training import batch_of


def test_sluice_with_equal_weights_reads_all_subspaces_alike() -> None:
    """All alpha the same, with subspaces as well: every part of every stream is the same mean."""
    trunk = shaken(family_trunk("bert", SluiceSharing(last=1.0)), "unit", "beta")
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if name.endswith("unit"):
                parameter.fill_(1 / 6)
        states = [trunk(task, batch_of("cola")).hidden for task in TASKS]
    for each in states:
        torch.testing.assert_close(each, states[0])
        torch.testing.assert_close(each[..., :16], each[..., 16:])


def test_at_the_start_sluice_is_cross_stitch_and_the_states_are_those_without_units() -> None:
    sluice, cross, hard = (
        family_trunk("bert", kind)
        for kind in (SluiceSharing(last=1.0), CrossStitchSharing(), "hard")
    )
    with torch.no_grad():
        for task in TASKS:
            torch.testing.assert_close(
                sluice(task, batch_of(task)).hidden, hard(task, batch_of(task)).hidden
            )
        # Copies that differ: each part is mixed with the same part of the others.
        shaken(cross, "unit")
        sluice.load_state_dict(
            {
                name: value
                for name, value in cross.state_dict().items()
                if not name.endswith("unit")
            },
            strict=False,
        )
        for task in TASKS:
            torch.testing.assert_close(
                sluice(task, batch_of(task)).hidden, cross(task, batch_of(task)).hidden
            )


def test_sluice_without_what_it_adds_is_cross_stitch() -> None:
    cross = shaken(family_trunk("bert", CrossStitchSharing()))
    sluice = family_trunk("bert", SluiceSharing(subspaces=1, last=1.0))
    sluice.load_state_dict(
        cross.state_dict()
        | {name: value for name, value in sluice.state_dict().items() if name.endswith("beta")}
    )
    with torch.no_grad():
        for task in TASKS:
            torch.testing.assert_close(
                sluice(task, batch_of(task)).hidden, cross(task, batch_of(task)).hidden
            )
    assert sluice.penalty() is None


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "gpt2", "llama"])
@pytest.mark.parametrize("layers", ["all", [0]])
def test_the_orthogonality_penalty_is_the_formula(family: str, layers: Any) -> None:
    trunk: Any = shaken(family_trunk(family, SluiceSharing(orthogonality=0.3, layers=layers)))
    names = {
        "bert": "output.dense.weight",
        "modernbert": "mlp.Wo.weight",
        "t5": "layer.1.DenseReluDense.wo.weight",
        "gpt2": "mlp.c_proj.weight",
        "llama": "mlp.down_proj.weight",
    }
    expected = torch.zeros(())
    for layer in trunk.placed.values():
        for k, task in enumerate(TASKS):
            name = names[family]
            matrix = (
                layer.stacked.of(name)[k]
                if layer.task_copies is None
                else dict(layer.task_copies[task].named_parameters())[name]
            )
            writes = matrix if family == "gpt2" else matrix.T  # (inside, hidden)
            assert writes.shape == (64 if family != "gpt2" else 128, 32)
            expected = expected + (writes[:, :16].T @ writes[:, 16:]).pow(2).sum()
    penalty = trunk.penalty()
    assert penalty.item() == pytest.approx(0.3 * expected.item(), rel=1e-5)
    assert trunk.measures()["overlap"] == pytest.approx(expected.item(), rel=1e-5)
    penalty.backward()
    assert any(p.grad is not None and p.grad.any() for p in trunk.parameters())


def test_subspaces_must_divide_the_width() -> None:
    with pytest.raises(UserError, match="32 channels cannot be cut into 3 equal parts"):
        family_trunk("bert", SluiceSharing(subspaces=3))
