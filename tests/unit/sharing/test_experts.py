"""CGC and PLE: what they reduce to, their formulas, who depends on what, and DSelect-k gates inside
of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from mtlcli.config.optim import AdamWOptim
from mtlcli.config.sharing import CGCSharing, MMoESharing, PLESharing
from mtlcli.models.multitask import Trunk
from mtlcli.training.optim import build_optimizer
from tests.families import TASKS, family_trunk
from tests.small import small_model
from tests.unit.sharing.test_mmoe import FAMILIES, gradients, shaken
from tests.unit.sharing.training import batch_of


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
    hard, one = small_model("hard")[0], small_model(CGCSharing(shared=1, own=0, noise=0))[0]
    one.heads.load_state_dict(hard.heads.state_dict())
    hard.trunk.first_token = False  # To the bit: gates see all tokens.
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


def plain_ple(
    trunk: Trunk, hidden: Tensor, task: str, *, levels: int, own: int, shared: int
) -> Tensor:
    """Equations of section 4.2, one expert after the other."""
    streams = dict.fromkeys([*TASKS, "shared"], hidden)
    for number in range(1, levels):
        w: dict[str, Tensor] = trunk.levels[f"level{number}"].state_dict()  # type: ignore[index, union-attr]
        private = {
            t: blocks(w, "experts.", streams[t])[own * i : own * (i + 1)]
            for i, t in enumerate(TASKS)
        }
        common = blocks(w, "experts.", streams["shared"])[own * len(TASKS) :]
        assert len(common) == shared
        following = {
            t: weighted(w[f"gates.{t}.weight"], streams[t], private[t] + common) for t in TASKS
        }
        every = [output for t in TASKS for output in private[t]] + common
        streams = following | {
            "shared": weighted(w["shared_gate.weight"], streams["shared"], every)
        }
    w = trunk.last.state_dict()  # type: ignore[union-attr]
    outputs = blocks(w, f"own.{task}.", streams[task]) + blocks(w, "shared.", streams["shared"])
    return weighted(w[f"gates.{task}.weight"], streams[task], outputs)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_ple_is_the_formula(levels: int) -> None:
    options = {"levels": levels, "own": 2, "shared": 3}
    trunk = family_trunk("bert", PLESharing(**options))  # type: ignore[arg-type]
    shaken(trunk.levels)  # type: ignore[arg-type]
    shaken(trunk.last)  # type: ignore[arg-type]
    with torch.no_grad():
        for task in TASKS:
            hidden = family_trunk("bert", "hard")(task, batch_of(task)).hidden
            expected = plain_ple(trunk, hidden, task, **options)
            torch.testing.assert_close(
                trunk(task, batch_of(task)).hidden, expected, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize(
    "config",
    [
        PLESharing(levels=1),
        PLESharing(levels=3),
        CGCSharing(layers="top"),
        PLESharing(gate="dselect_k"),
    ],
)
def test_a_loss_reaches_exactly_what_users_says(config: Any) -> None:
    model = small_model(config)[0]
    users = model.users()
    for task in model.tasks:
        model.zero_grad()
        assert gradients(model, task)[1].keys() == {
            name for name, tasks in users.items() if task in tasks
        }
    if config.name == "ple" and config.levels == 3:
        assert users["trunk.levels.level1.gates.cola.weight"] == tuple(model.tasks)
        assert users["trunk.levels.level2.gates.cola.weight"] == ("cola",)


def test_the_load_of_every_level_is_told() -> None:
    model = small_model(PLESharing(levels=2, own=1, shared=2))[0]
    with model.training_passes():
        model("cola", batch_of("cola"))
    load = model.trunk.measures()["load"]
    assert {
        level: {name: len(means) for name, means in gates.items()} for level, gates in load.items()
    } == {
        "level 1": {"cola": 3, "shared": 5},
        "level 2": {"cola": 3},
    }
    assert all(
        sum(means) == pytest.approx(1, abs=1e-3)
        for gates in load.values()
        for means in gates.values()
    )


def test_a_task_called_shared_keeps_its_load_apart_from_the_shared_stream() -> None:
    model = small_model(PLESharing(levels=2, own=1, shared=2), names={"cola": "shared"})[0]
    with model.training_passes():
        model("shared", batch_of("cola"))
    assert list(model.trunk.measures()["load"]["level 1"]) == ["shared", "shared stream"]


def test_dselect_gates_have_a_rate_of_their_own_and_their_penalty_is_in_the_loss() -> None:
    model, weighting = small_model(CGCSharing(gate="dselect_k", entropy=0.1))
    groups = build_optimizer(AdamWOptim(lr=1e-3), model, weighting).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    (own,) = [
        [names[p] for p in group["params"]]
        for group in groups
        if group["lr"] == 0.01 and group["weight_decay"] == 0
    ]
    assert own == [name for name in names.values() if ".gates." in name] and len(own) == 6
    penalty = model.penalty()
    assert penalty is not None
    # Three tasks with two selectors among three experts each: a quarter of each is nobody's.
    assert penalty.item() == pytest.approx(
        6 * (0.1 * 3 / 4 * torch.log(torch.tensor(4.0)).item() + 4 / 3), rel=1e-2
    )
    penalty.backward()
    assert all(
        parameter.grad is not None
        for name, parameter in model.named_parameters()
        if name.endswith(".z")
    )


def test_experts_lie_where_their_layer_does_or_above_all_layers() -> None:
    """Layer-wise decay and the last layers of gradient balancing depend on it."""
    for config in ("mmoe", "cgc", "ple", MMoESharing(layers="top")):
        model = small_model(config)[0]
        for name, info in model.parameter_infos.items():
            assert info.depth == 1 or ".gates." not in name or ".network." not in name, name
            if ".network." not in name and name.startswith("trunk."):
                assert info.depth == 0, name
