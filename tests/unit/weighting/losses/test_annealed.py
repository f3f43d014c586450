"""The mathematics of annealed weights, and what is said of wrong schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtlcli.weighting.losses.annealed import AnnealedTask, AnnealedWeighting, factor
from tests.unit.weighting.steps import build, make_step, tasks


def curve(**schedule: Any) -> list[float]:
    """The weights at 0, 10, ... 100 of 100 steps."""
    method = build("annealed", tasks(a=1.0), tasks={"a": AnnealedTask(**schedule)})
    return [method.weights(make_step(["a"], number=number))["a"] for number in range(0, 101, 10)]


def test_linear_is_linear() -> None:
    assert curve(start=2.0, end=0.0) == pytest.approx([2.0 - 0.2 * index for index in range(11)])
    expected = np.interp(np.arange(0, 101, 10), [20, 60], [1.0, 5.0])
    assert curve(start=1.0, end=5.0, begin=0.2, finish=0.6) == pytest.approx(expected.tolist())


def test_cosine_is_that_of_torchs_schedule() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=3.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.5)
    expected = []
    for _ in range(11):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert curve(start=3.0, end=0.5, shape="cosine") == pytest.approx(expected)


def test_step_jumps_half_way() -> None:
    assert curve(start=1.0, end=0.0, shape="step") == [1.0] * 5 + [0.0] * 6
    assert curve(start=1.0, end=4.0, shape="step", begin=0.125, finish=0.5) == [1.0] * 4 + [4.0] * 7


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_ends_and_middle(shape: Any) -> None:
    task = AnnealedTask(start=1.0, end=3.0, shape=shape, begin=0.25, finish=0.75)
    assert [factor(task, progress) for progress in (0.0, 0.2499, 0.25, 0.75, 1.0)] == pytest.approx(
        [1.0, 1.0, 1.0, 3.0, 3.0]
    )
    assert factor(task, 0.5) == pytest.approx(3.0 if shape == "step" else 2.0)
    values = [factor(task, progress / 200) for progress in range(201)]
    assert values == sorted(values)
    # Begin and finish at one place: a jump there.
    sudden = AnnealedTask(start=1.0, end=3.0, shape=shape, begin=0.5, finish=0.5)
    assert [factor(sudden, progress) for progress in (0.0, 0.499, 0.5, 1.0)] == [1.0, 1.0, 3.0, 3.0]


def test_importance_multiplies_and_other_tasks_keep_theirs() -> None:
    method = build("annealed", tasks(a=2.0, b=3.0), tasks={"a": AnnealedTask(start=1.0, end=0.0)})
    assert method.weights(make_step(["a", "b"], number=50)) == pytest.approx({"a": 1.0, "b": 3.0})
    assert method.weights(make_step(["b"], number=99)) == {"b": 3.0}


def test_wrong_schedules_are_explained() -> None:
    assert [str(problem) for problem in AnnealedWeighting().problems(["rte"])] == [
        "weighting.tasks: no task has a schedule\n    -> for example weighting.tasks.NAME.end=0, "
        "or type weighting=static"
    ]
    weighting = AnnealedWeighting(
        tasks={"ret": AnnealedTask(end=0.0), "cola": AnnealedTask(begin=0.5, finish=0.25)}
    )
    assert [str(problem) for problem in weighting.problems(["rte", "cola"])] == [
        "weighting.tasks.ret: task 'ret' is not trained in the run\n    -> did you mean 'rte'? "
        "choices: cola, rte",
        "weighting.tasks.cola.begin: begins at 0.5 of the run and finishes before, at 0.25"
        "\n    -> type weighting.tasks.cola.begin=0.25 or less",
    ]
    assert list(AnnealedWeighting(tasks={"rte": AnnealedTask(end=0.0)}).problems(["rte"])) == []


def test_a_schedule_that_ends_outside_the_run_is_reported() -> None:
    schedules = {
        "a": AnnealedTask(end=0.0),
        "b": AnnealedTask(end=0.0, begin=0.9),
        "c": AnnealedTask(end=3.0, begin=0.5),
    }
    method = build("annealed", tasks(a=1.0, b=1.0, c=1.0), tasks=schedules)
    assert method.remarks(100, 10) == []
    assert method.remarks(5, 5) == [
        "warning: weighting.tasks.b changes nothing: the factor of b is 1 in all 5 steps",
        "warning: weighting.tasks.c does not reach its end: the factor of c is 2.2 in the last of "
        "5 steps",
    ]
