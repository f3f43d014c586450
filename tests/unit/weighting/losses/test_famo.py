"""The mathematics of FAMO."""

from __future__ import annotations

import math

import pytest
import torch
from torchjd.scalarization import FAMO

from tests.unit.weighting.steps import build, drive, make_step, random_steps, reloaded, tasks


def test_first_weights_level_the_logarithms() -> None:
    """z = 1/2 each: c = 1 / (0.5 / 1 + 0.5 / 4) = 1.6; w = K c z / L = (1.6, 0.4)."""
    weights = build("famo", tasks(a=1.0, b=1.0)).weights(make_step({"a": 1.0, "b": 4.0}))
    assert weights == pytest.approx({"a": 1.6, "b": 0.4})


def test_worked_update() -> None:
    """a halves, b stays: d = (log 2, 0), gradient z (d - z.d) = (0.1733, -0.1733); Adam's first
    step has length lr: logits -+ 0.025."""
    method = build("famo", tasks(a=1.0, b=1.0), weight_decay=0.0)
    step = make_step({"a": 1.0, "b": 4.0})
    method.observe_after(step, {"a": 0.5, "b": 4.0})
    assert method.logits == pytest.approx({"a": -0.025, "b": 0.025}, abs=1e-6)
    z = 1 / (1 + math.exp(0.05))
    expected = {"a": z / 1.0, "b": (1 - z) / 4.0}
    assert method.weights(step) == pytest.approx(
        {name: 2 * value / sum(expected.values()) for name, value in expected.items()}
    )


def loss(point: torch.Tensor) -> torch.Tensor:
    """Two losses of two parameters, of scales that differ by 100 and with minima that differ."""
    x, y = point
    return torch.stack([100 * ((x - 1) ** 2 + 0.3 * y**2) + 5, (x + 1) ** 2 + (y - 1) ** 2 + 0.05])


def test_trajectory_on_a_two_parameter_problem_is_torchjds() -> None:
    """The path of the parameters and of the weights, ours with w / K as the paper has it."""
    method, other = build("famo", tasks(a=1.0, b=1.0)), FAMO(2).double()
    ours, theirs = (
        torch.tensor([2.0, -3.0], dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    for number in range(200):
        losses = loss(ours)
        step = make_step(dict(zip("ab", losses.tolist(), strict=True)), number=number)
        weights = method.weights(step)
        gradient = torch.autograd.grad(
            (losses * torch.tensor(list(weights.values()), dtype=torch.float64)).sum() / 2, ours
        )[0]
        with torch.no_grad():
            ours -= 0.01 * gradient
            method.observe_after(step, dict(zip("ab", loss(ours).tolist(), strict=True)))
        if number == 100:
            method = reloaded(method)

        gradient = torch.autograd.grad(other(loss(theirs)), theirs)[0]
        with torch.no_grad():
            theirs -= 0.01 * gradient
            other.update(loss(theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert abs(method.logits["a"]) > 0.1, "the logits moved"


def test_weights_sum_to_k_and_do_not_depend_on_the_scale_of_a_loss() -> None:
    steps = random_steps(["a", "b", "c"], 20, absent=False)
    of = tasks(a=1.0, b=1.0, c=1.0)
    scaled = []
    for step, after in steps:
        assert step.losses is not None
        scaled.append(
            (
                make_step(step.losses | {"b": 10 * step.losses["b"]}, number=step.number),
                after | {"b": 10 * after["b"]},
            )
        )
    one, two = build("famo", of), build("famo", of)
    for weights in drive(one, steps):
        assert sum(weights.values()) == pytest.approx(3)
    drive(two, scaled)
    assert two.logits == pytest.approx(one.logits, rel=1e-5)


def test_a_task_that_falls_faster_loses_weight() -> None:
    method = build("famo", tasks(a=1.0, b=1.0))
    for number in range(30):
        method.observe_after(make_step({"a": 1.0, "b": 1.0}, number=number), {"a": 0.5, "b": 0.9})
    weights = method.weights(make_step({"a": 1.0, "b": 1.0}))
    assert weights["a"] < 0.7 < 1.3 < weights["b"]


def test_importance_multiplies_and_the_logits_do_not_see_it() -> None:
    steps = random_steps(["a", "b"], 10, absent=False)
    plain, dear = (drive(build("famo", tasks(a=1.0, b=b)), steps) for b in (1.0, 3.0))
    assert dear == [{"a": weights["a"], "b": 3 * weights["b"]} for weights in plain]
    # Importance 0 is absence: the two others are balanced as if there were no third.
    steps = random_steps(["a", "b", "c"], 10, absent=False)
    pair = [
        (make_step({name: step.losses[name] for name in "ac"}, number=step.number), after)
        for step, after in steps
    ]  # type: ignore[index]
    without = drive(build("famo", tasks(a=1.0, c=1.0)), pair)
    assert drive(build("famo", tasks(a=1.0, b=0.0, c=1.0)), steps) == [
        {"a": w["a"], "b": 0.0, "c": w["c"]} for w in without
    ]


def test_absent_tasks_rest() -> None:
    method = build("famo", tasks(a=1.0, b=1.0, c=1.0))
    drive(method, random_steps(["a", "b"], 5, absent=False))
    assert method.logits["c"] == 0.0 and method.logits["a"] != 0.0


def test_a_loss_of_0_is_finite() -> None:
    method = build("famo", tasks(a=1.0, b=1.0))
    step = make_step({"a": 0.0, "b": 1.0})
    assert all(math.isfinite(weight) for weight in method.weights(step).values())
    method.observe_after(step, {"a": 0.0, "b": 0.0})
    assert all(math.isfinite(logit) for logit in method.logits.values())
