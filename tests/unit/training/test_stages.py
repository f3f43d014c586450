"""Stages: how long each lasts, and which tasks its steps hold."""

from __future__ import annotations

import pytest

from mtlcli.errors import UserError
from mtlcli.sampling.all import All, AllSampling
from mtlcli.sampling.base import TaskSize
from mtlcli.sampling.proportional import Proportional, ProportionalSampling
from mtlcli.training.stages import Stages
from mtlcli.training.state import Stage

SIZES = {"a": TaskSize(40, 4, 10), "b": TaskSize(80, 8, 10), "c": TaskSize(120, 12, 10)}


def staged(*names: list[str], patience: int | None = None) -> Stages:
    parts = [
        Proportional(ProportionalSampling(), {name: SIZES[name] for name in each}, 0)
        for each in names
    ]
    return Stages(parts, patience=patience)  # type: ignore[arg-type]


def walk(stages: Stages, steps: int) -> list[int]:
    """The stage of every step."""
    stage, found = Stage(), []
    for step in range(steps):
        if stages.is_over(stage, step, steps):
            stage = Stage(stage.number + 1, begin=step)
        found.append(stage.number)
    return found


def test_lengths_are_shares_of_the_data() -> None:
    stages = staged(["a"], ["b", "c"])
    assert stages.steps_per_epoch == 24
    stages.fit(48)
    assert walk(stages, 48) == [0] * 8 + [1] * 40
    stages.fit(50)
    assert walk(stages, 50) == [0] * 8 + [1] * 42


def test_lengths_are_given() -> None:
    stages = staged(["a"], ["b"], ["c"])
    stages.fit(10, [2, 5])
    assert walk(stages, 10) == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("steps", "lengths", "empty"), [(2, None, 1), (7, [2, 5], 3)])
def test_a_stage_without_a_step_is_refused(
    steps: int, lengths: list[int] | None, empty: int
) -> None:
    with pytest.raises(UserError, match=f"stage {empty} of 3 has none"):
        staged(["a"], ["b"], ["c"]).fit(steps, lengths)


def test_one_stage_plans_what_its_policy_plans() -> None:
    stages = staged(["a", "b", "c"])
    stages.fit(24)
    assert [stages.plan(Stage(), step) for step in range(24)] == [
        stages.samplings[0].plan(step) for step in range(24)
    ]


def test_every_stage_meets_its_data_once_through_from_its_beginning() -> None:
    stages = staged(["a"], ["b", "c"])
    stages.fit(24)
    drawn = [name for step in range(4, 24) for name, _ in stages.plan(Stage(1, begin=4), step)]
    assert (drawn.count("b"), drawn.count("c")) == (8, 12)


def test_an_epoch_of_all_tasks_together_is_that_of_the_largest_of_each_stage() -> None:
    parts = [
        All(AllSampling(), {name: SIZES[name] for name in names}, 0)
        for names in (["a"], ["b", "c"])
    ]
    assert Stages(parts).steps_per_epoch == 4 + 12  # type: ignore[arg-type]


def scores(**mains: float | None) -> dict[str, object]:
    return {"tasks": {name: {"main": main} for name, main in mains.items()}}


def test_a_plateau_is_of_the_stages_own_tasks() -> None:
    stages = staged(["a", "b"], ["c"], patience=2)
    stages.fit(24)
    stage = Stage()
    for a, b, c, stale in (
        (0.1, 0.5, 0.1, 0),
        (0.3, 0.2, 0.9, 1),
        (0.4, 0.3, 0.1, 0),
        (0.3, 0.4, 0.9, 1),
        (0.0, 0.5, 1.0, 2),
    ):
        assert not stages.is_over(stage, 5, 24)
        stages.note_results(stage, scores(a=a, b=b, c=c))
        assert stage.stale == stale
    assert stages.is_over(stage, 5, 24)


def test_a_stage_without_scores_never_stops_getting_better() -> None:
    stages = staged(["a", "b"], ["c"], patience=1)
    stages.fit(24)
    stage = Stage()
    for _ in range(3):
        stages.note_results(stage, scores(a=None, c=0.5))
    assert not stages.is_over(stage, 5, 24)
