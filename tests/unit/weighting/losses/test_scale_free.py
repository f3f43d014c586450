"""The mathematics of the scale-free sum."""

from __future__ import annotations

import numpy as np
import pytest

from mtlcli.errors import RunError
from tests.unit.weighting.steps import build, drive, make_step, random_steps, tasks


def test_worked_example() -> None:
    """d = 1/2, losses 4, 2, 1. First: the loss itself, 1/4. Then the means 4; (4/4 + 2/2) / (3/4) =
    8/3."""
    method = build("scale_free", tasks(a=1.0), decay=0.5)
    steps = [
        (make_step({"a": loss}, number=number), {}) for number, loss in enumerate((4.0, 2.0, 1.0))
    ]
    assert [weights["a"] for weights in drive(method, steps)] == pytest.approx(
        [1 / 4, 1 / 4, 3 / 8]
    )


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
def test_it_is_the_weighted_mean_of_the_losses_before(decay: float) -> None:
    steps = random_steps(["a", "b", "c"], 30, absent=True)
    history: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    for weights, (step, _) in zip(
        drive(build("scale_free", tasks(a=1.0, b=1.0, c=3.0), decay=decay), steps),
        steps,
        strict=True,
    ):
        assert step.losses is not None
        for name, loss in step.losses.items():
            past = history[name] or [loss]
            mean = np.average(past, weights=[decay**age for age in range(len(past))][::-1])
            assert weights[name] == pytest.approx((3.0 if name == "c" else 1.0) / mean)
            history[name].append(loss)


def test_multiplying_a_loss_by_a_constant_changes_nothing() -> None:
    steps = random_steps(["a", "b"], 20, absent=False)
    scaled = [
        (make_step(step.losses | {"b": 1e4 * step.losses["b"]}, number=step.number), after)
        for step, after in steps
    ]  # type: ignore[operator,index]
    of = tasks(a=1.0, b=1.0)
    for one, two in zip(
        drive(build("scale_free", of), steps), drive(build("scale_free", of), scaled), strict=True
    ):
        assert {"a": two["a"], "b": 1e4 * two["b"]} == pytest.approx(one)


def test_a_steady_loss_is_divided_by_itself_from_the_first_step_on() -> None:
    """Without the bias correction the second weight would be 100 times too large."""
    steps = [(make_step({"a": 7.0}, number=number), {}) for number in range(10)]
    assert [
        weights["a"] * 7 for weights in drive(build("scale_free", tasks(a=1.0)), steps)
    ] == pytest.approx([1.0] * 10)


def test_weights_are_known_before_the_step_unless_a_task_is_new() -> None:
    method = build("scale_free", tasks(a=1.0, b=1.0))
    assert method.known(make_step(["a"])) == "losses"
    method.observe(make_step({"a": 2.0}))
    assert method.known(make_step(["a"])) == "before"
    assert method.weights(make_step(["a"])) == pytest.approx({"a": 0.5})
    assert method.known(make_step(["a", "b"])) == "losses"
    assert method.weights(make_step({"a": 9.0, "b": 4.0})) == pytest.approx({"a": 0.5, "b": 0.25})


def test_a_loss_of_0_is_explained() -> None:
    with pytest.raises(RunError, match="the loss of a is 0, and scale_free"):
        build("scale_free", tasks(a=1.0)).weights(make_step({"a": 0.0}))
