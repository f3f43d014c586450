"""The mathematics of UW-SO."""

from __future__ import annotations

import math

import pytest

from tests.unit.weighting.steps import build, make_step, tasks

LOSSES = {"a": 0.4, "b": 1.25, "c": 2.0}


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_the_weights_are_the_papers_times_the_number_of_tasks(temperature: float) -> None:
    """Equation 9 with its own arithmetic: exponentials of 1 / (T L)."""
    method = build("uw_so", tasks(a=1.0, b=1.0, c=3.0), temperature=temperature)
    powers = {"a": math.exp(2.5 / temperature), "b": math.exp(0.8 / temperature)}
    powers["c"] = math.exp(0.5 / temperature)
    total = sum(powers.values())
    expected = {name: 3 * power / total for name, power in powers.items()}
    expected["c"] *= 3
    assert method.weights(make_step(LOSSES)) == pytest.approx(expected, rel=1e-6)


def test_a_task_of_importance_0_is_not_in_the_softmax() -> None:
    found = build("uw_so", tasks(a=0.0, b=1.0, c=1.0)).weights(make_step(LOSSES))
    alone = build("uw_so", tasks(b=1.0, c=1.0)).weights(
        make_step({"b": LOSSES["b"], "c": LOSSES["c"]})
    )
    assert found == {"a": 0.0, **alone}


def test_a_loss_of_0_gives_finite_weights() -> None:
    weights = build("uw_so", tasks(a=1.0, b=1.0)).weights(make_step({"a": 0.0, "b": 1.0}))
    assert weights == pytest.approx({"a": 2.0, "b": 0.0})
