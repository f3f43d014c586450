"""Progressive layered extraction: the formula, and what its gates report."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtlcli.models.multitask import Trunk
from mtlcli.sharing.ple import PLESharing
from tests.families import TASKS, family_trunk
from tests.small import small_model
from tests.unit.sharing.test_cgc import blocks, weighted
from tests.unit.sharing.test_mmoe import shaken
from tests.unit.sharing.training import batch_of


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


def test_statistics_hold_the_load_of_every_level() -> None:
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
