"""The mathematics of dynamic weight average."""

from __future__ import annotations

import math

import pytest
import torch
from torchjd.scalarization import DWA

from mtlcli.errors import RunError
from tests.unit.weighting.steps import build, drive, make_step, random_steps, tasks


def test_worked_example() -> None:
    """Epoch means a: 4, 2 and b: 1, 0.9. r = (0.5, 0.9); T = 2: w = 2 softmax(0.25, 0.45) =
    (0.90033, 1.09967)."""
    method = build("dwa", tasks(a=1.0, b=1.0))
    losses = [
        {"a": 3.0, "b": 1.2},
        {"a": 5.0, "b": 0.8},
        {"a": 2.5, "b": 1.0},
        {"a": 1.5, "b": 0.8},
    ]
    steps = [
        (make_step(each, number=number, epoch=number // 2), each)
        for number, each in enumerate(losses)
    ]
    assert drive(method, steps) == [{"a": 1.0, "b": 1.0}] * 4, "two windows of 1"
    weights = method.weights(make_step(["a", "b"], number=4, epoch=2))
    assert weights == pytest.approx({"a": 0.90033, "b": 1.09967}, abs=1e-5)
    assert weights["a"] / weights["b"] == pytest.approx(math.exp((0.5 - 0.9) / 2))


@pytest.mark.parametrize("temperature", [0.3, 2.0, 50.0])
def test_trajectory_is_torchjds(temperature: float) -> None:
    names = ["a", "b", "c"]
    steps = random_steps(names, 35, absent=False, per_epoch=5)
    found = drive(build("dwa", tasks(a=1.0, b=1.0, c=1.0), temperature=temperature), steps)
    other = DWA(temperature)
    for weights, (step, _) in zip(found, steps, strict=True):
        assert step.losses is not None
        if step.number and step.number % 5 == 0:
            other.step()
        losses = torch.tensor(list(step.losses.values()), dtype=torch.float64, requires_grad=True)
        other(losses).backward()
        assert losses.grad is not None
        assert list(weights.values()) == pytest.approx(losses.grad.tolist(), rel=1e-12)
        assert sum(weights.values()) == pytest.approx(3)


def test_weights_do_not_depend_on_the_scale_of_a_loss() -> None:
    steps = random_steps(["a", "b"], 30, absent=False)
    scaled = []
    for step, after in steps:
        assert step.losses is not None
        scaled.append(
            (
                make_step(
                    {"a": step.losses["a"] * 100, "b": step.losses["b"]},
                    number=step.number,
                    epoch=step.epoch,
                ),
                after,
            )
        )
    of = tasks(a=1.0, b=1.0)
    for one, two in zip(
        drive(build("dwa", of), steps), drive(build("dwa", of), scaled), strict=True
    ):
        assert two == pytest.approx(one)


def test_every_is_a_window_of_steps() -> None:
    """A window of 5 steps is what an epoch of 5 steps would be, wherever the epochs lie."""
    of = tasks(a=1.0, b=1.0)
    epochs = random_steps(["a", "b"], 30, absent=False, per_epoch=5)
    windows = random_steps(["a", "b"], 30, absent=False, per_epoch=1000)
    assert drive(build("dwa", of), epochs) == drive(build("dwa", of, every=5), windows)
    assert all(set(weights.values()) == {1.0} for weights in drive(build("dwa", of), windows))


def test_one_task_a_step_is_weighted_against_the_others() -> None:
    method = build("dwa", tasks(a=1.0, b=1.0))
    means = {"a": [4.0, 2.0], "b": [1.0, 0.9]}
    for epoch in (0, 1):
        for index, name in enumerate(means):
            method.observe(
                make_step({name: means[name][epoch]}, number=2 * epoch + index, epoch=epoch)
            )
    assert method.weights(make_step(["a"], number=4, epoch=2))["a"] == pytest.approx(
        0.90033, abs=1e-5
    )
    assert method.weights(make_step(["b"], number=5, epoch=2))["b"] == pytest.approx(
        1.09967, abs=1e-5
    )


def test_a_task_that_misses_windows_keeps_its_last_two() -> None:
    """c is met in windows 0 and 3 only: until two of its windows are finished it weighs 1 and
    leaves the others' sum alone."""
    method = build("dwa", tasks(a=1.0, b=1.0, c=1.0))
    for epoch in range(4):
        losses = {"a": 1.0 / (epoch + 1), "b": 1.0}
        method.observe(
            make_step(
                losses | ({"c": 4.0 - epoch} if epoch in (0, 3) else {}), number=epoch, epoch=epoch
            )
        )
        if epoch == 2:
            weights = method.weights(make_step(["a", "b", "c"], number=3, epoch=3))
            assert weights["c"] == 1.0 and weights["a"] + weights["b"] == pytest.approx(2)
    weights = method.weights(make_step(["a", "b", "c"], number=4, epoch=4))
    rates = torch.tensor([3 / 4, 1.0, 1 / 4], dtype=torch.float64)
    assert list(weights.values()) == pytest.approx((3 * (rates / 2).softmax(0)).tolist())


def test_importance_multiplies() -> None:
    steps = random_steps(["a", "b"], 30, absent=False)
    plain, dear = (drive(build("dwa", tasks(a=1.0, b=b)), steps) for b in (1.0, 3.0))
    assert dear == [{"a": weights["a"], "b": 3 * weights["b"]} for weights in plain]


def test_a_mean_loss_of_0_is_explained() -> None:
    method = build("dwa", tasks(a=1.0, b=1.0))
    for epoch in (0, 1):
        method.observe(make_step({"a": 0.0, "b": 1.0}, number=epoch, epoch=epoch))
    with pytest.raises(RunError, match="the loss of a is 0, and dwa") as caught:
        method.weights(make_step(["a", "b"], number=2, epoch=2))
    assert "weighting=static" in str(caught.value) and "step 2" in str(caught.value)


@pytest.mark.parametrize(
    ("every", "steps", "said"),
    [
        (
            None,
            30,
            "warning: weighting=dwa is the plain sum in the first 20 of 30 steps, two windows of "
            "10; weighting.every=3 ",
        ),
        (
            None,
            20,
            "warning: weighting=dwa is the plain sum in all 20 steps: the first two windows of 10 "
            "steps each have none before",
        ),
        (
            None,
            100,
            "weighting=dwa is the plain sum in the first 20 of 100 steps, two windows of 10",
        ),
        (2, 30, "weighting=dwa is the plain sum in the first 4 of 30 steps, two windows of 2"),
    ],
)
def test_steps_without_an_effect_are_reported(every: int | None, steps: int, said: str) -> None:
    (line,) = build("dwa", tasks(a=1.0, b=1.0), every=every).remarks(steps, 10)
    assert line.startswith(said)
