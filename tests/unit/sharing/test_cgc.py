"""Customized gate control: the formula, and the limits in which it is another strategy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from mtlcli.sharing.cgc import CGCSharing
from mtlcli.sharing.mmoe import MMoESharing
from tests.families import family_trunk
from tests.small import small_model
from tests.unit.sharing.test_mmoe import FAMILIES, gradients, shaken
from tests.unit.sharing.training import batch_of


def blocks(w: dict[str, Tensor], prefix: str, x: Tensor) -> list[Tensor]:
    """What each of the experts under a name gives, one after the other."""
    count = len(w[f"{prefix}up"])
    rows = {
        name: w[prefix + name].view(count, -1)
        for name in ("norm", "norm_bias", "up_bias", "down_bias")
    }
    found = []
    for i in range(count):
        inner = gelu(
            layer_norm(x, x.shape[-1:], rows["norm"][i], rows["norm_bias"][i]) @ w[f"{prefix}up"][i]
            + rows["up_bias"][i]
        )
        found.append(x + inner @ w[f"{prefix}down"][i] + rows["down_bias"][i])
    return found


def weighted(gate: Tensor, x: Tensor, outputs: list[Tensor]) -> Tensor:
    weights = torch.softmax(x @ gate.T, -1)
    return torch.stack([weights[..., i : i + 1] * output for i, output in enumerate(outputs)]).sum(
        0
    )


@pytest.mark.parametrize("layers", [[-1], "all", "top"])
@pytest.mark.parametrize("gate", ["softmax", "dselect_k"])
def test_cgc_without_own_experts_is_mmoe(layers: Any, gate: Any) -> None:
    mmoe, cgc = (
        small_model(config)[0]
        for config in (
            MMoESharing(layers=layers, gate=gate),
            CGCSharing(layers=layers, gate=gate, shared=4, own=0),
        )
    )
    assert mmoe.state_dict().keys() == cgc.state_dict().keys()
    for task in mmoe.tasks:
        assert torch.equal(mmoe(task, batch_of(task)).loss, cgc(task, batch_of(task)).loss)


@pytest.mark.parametrize(("shared", "own"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_cgc_with_a_single_expert_starts_as_hard_sharing(
    family: str, shared: int, own: int
) -> None:
    batch = batch_of("cola")
    batch.token_type_ids = None
    with torch.no_grad():
        one, hard = (
            family_trunk(family, s)("cola", batch)
            for s in (CGCSharing(shared=shared, own=own, noise=0), "hard")
        )
    assert torch.equal(one.hidden, hard.hidden) and torch.equal(one.pooled, hard.pooled)


def test_cgc_with_one_shared_expert_is_hard_sharing() -> None:
    # To the bit: gates see all tokens.
    hard = small_model("hard", fast=False)[0]
    one = small_model(CGCSharing(shared=1, own=0, noise=0), fast=False)[0]
    one.heads.load_state_dict(hard.heads.state_dict())
    for task in hard.tasks:
        (expected, theirs), (loss, ours) = gradients(hard, task), gradients(one, task)
        assert torch.equal(loss, expected)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys() & ours.keys())
        assert len(theirs.keys() & ours.keys()) > 20


def test_the_mixture_of_cgc_is_own_experts_then_shared_ones() -> None:
    trunk = family_trunk("bert", CGCSharing(layers="top", own=2, shared=1))
    shaken(trunk.top)  # type: ignore[arg-type]
    with torch.no_grad():
        x = family_trunk("bert", "hard")("stsb", batch_of("stsb")).hidden
        w: dict[str, Tensor] = trunk.top.state_dict()  # type: ignore[union-attr]
        outputs = [*blocks(w, "own.stsb.", x), *blocks(w, "shared.", x)]
        expected = weighted(w["gates.stsb.weight"], x, outputs)
        torch.testing.assert_close(
            trunk("stsb", batch_of("stsb")).hidden, expected, atol=2e-5, rtol=1e-4
        )


def test_own_experts_and_gates_belong_to_their_task() -> None:
    model = small_model("cgc")[0]
    users = model.users()
    for task in model.tasks:
        private = [name for name in users if users[name] == (task,) and name.startswith("trunk.")]
        assert private == [
            name for name in users if f".own.{task}." in name or f".gates.{task}." in name
        ]
    assert all(users[name] == tuple(model.tasks) for name in users if ".output.shared." in name)
