"""What all loss weightings have in common."""

from __future__ import annotations

import math

import pytest
import torch

from mtlcli.config.weighting import weightings
from mtlcli.weighting.base import LossWeighting, Weighting
from tests.unit.weighting.steps import build, drive, make_step, random_steps, reloaded, tasks

NAMES = [name for name in weightings if issubclass(weightings.implementation(name), LossWeighting)]
TASKS = tasks(a=1.0, b=1.0, c=3.0)
# Without a schedule, `annealed` is `static`.
CONFIGS = {"annealed": {"tasks": {}}, "coba": {"warmup": 4, "window": 6}, "dwa": {"every": 5}}


def make(name: str, of: dict[str, object] | None = None) -> Weighting:
    method: Weighting = build(name, of or TASKS, **CONFIGS.get(name, {}))
    with torch.no_grad():
        for index, parameter in enumerate(method.parameters()):
            parameter.fill_(0.1 * (index + 1) / 3)
    return method


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("absent", [False, True])
def test_a_resumed_trajectory_is_the_uninterrupted_one(name: str, absent: bool) -> None:
    steps = random_steps(list(TASKS), 40, absent=absent)
    whole = drive(make(name), steps)
    method = make(name)
    first = drive(method, steps[:17])
    assert first + drive(reloaded(method), steps[17:]) == whole
    assert all(
        math.isfinite(weight) and weight > 0 for weights in whole for weight in weights.values()
    )
    assert [list(weights) for weights in whole] == [step.tasks for step, _ in steps]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_other_tasks_is_refused(name: str) -> None:
    method = make(name)
    state = method.state_dict()
    if not state:
        with pytest.raises(ValueError, match="has no state"):
            method.load_state_dict({"x": 1})
        return
    with pytest.raises(ValueError, match="the run has"):
        make(name, tasks(a=1.0, other=1.0)).load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_of_importance_0_has_weight_0_and_hurts_nobody(name: str) -> None:
    steps = random_steps(["a", "b", "c"], 20, absent=False)
    for weights in drive(make(name, tasks(a=1.0, b=0.0, c=2.0)), steps):
        assert weights["b"] == 0.0
        assert math.isfinite(weights["a"]) and weights["a"] > 0 and weights["c"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_tasks_does_not_matter(name: str) -> None:
    if name == "random":
        pytest.skip("its draws go to the tasks in order")
    steps = random_steps(["a", "b", "c"], 20, absent=False)
    turned = []
    for step, after in steps:
        assert step.losses is not None and step.gram is not None
        names = ["c", "a", "b"]
        index = [step.tasks.index(each) for each in names]
        other = make_step(
            {each: step.losses[each] for each in names},
            number=step.number,
            total=20,
            epoch=step.epoch,
        )
        other.gram = step.gram[index][:, index]
        turned.append((other, after))
    for one, two in zip(drive(make(name), steps), drive(make(name), turned), strict=True):
        assert two == pytest.approx(one, rel=1e-12)
