"""The mathematics of smooth Tchebycheff scalarisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchjd.scalarization import STCH

from mtlcli.errors import RunError
from mtlcli.weighting.base import WeightedTask
from mtlcli.weighting.losses.stch import STCHWeighting
from tests.unit.weighting.steps import build, drive, make_step, random_steps, tasks

EQUAL = tasks(a=1.0, b=1.0, c=1.0)
LOSSES = {"a": 0.5, "b": 1.5, "c": 0.1}


def measured(
    reference: dict[str, float], of: dict[str, WeightedTask] = EQUAL, **config: Any
) -> Any:
    """A method past its warm-up, with these reference losses."""
    method = build("stch", of, **config)
    method.load_state_dict({"sums": {name: [2 * value, 2] for name, value in reference.items()}})
    return method


def late(losses: dict[str, float]) -> Any:
    return make_step(losses, number=50)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
def test_the_direction_is_torchjds_and_the_size_is_its_exponential(mu: float) -> None:
    """The paper's formula on log(a L / r), by autograd: w_t = K M dS/dL_t with M = exp(S) /
    K^mu."""
    reference, importance = {"a": 0.7, "b": 2.0, "c": 0.4}, {"a": 1.0, "b": 0.5, "c": 3.0}
    losses = torch.tensor(list(LOSSES.values()), dtype=torch.float64, requires_grad=True)
    r = torch.tensor(list(reference.values()), dtype=torch.float64)
    r = r / r.log().mean().exp()
    ones = torch.ones(3, dtype=torch.float64)
    total = STCH(mu, weights=ones)(torch.log(torch.tensor(list(importance.values())) * losses / r))
    total.backward()
    assert losses.grad is not None
    expected = 3 * total.exp() / 3**mu * losses.grad
    weights = measured(reference, tasks(**importance), mu=mu).weights(late(LOSSES))
    assert list(weights.values()) == pytest.approx(expected.tolist(), rel=1e-10)


def test_worked_example() -> None:
    """mu = 1/2: x = L / r = (3, 4) with r = 1, M = sqrt((9 + 16) / 2) = 3.53553, w = x / M."""
    method = measured({"a": 1.0, "b": 1.0}, tasks(a=1.0, b=1.0), mu=0.5)
    assert method.weights(late({"a": 3.0, "b": 4.0})) == pytest.approx(
        {"a": 0.848528, "b": 1.131371}, abs=1e-6
    )


def test_limits() -> None:
    """mu = 1: fixed weights a / r. Large: the geometric mean. Towards 0: the largest L / r alone,
    with all K of the weight."""
    reference = {"a": 0.25, "b": 1.0, "c": 4.0}
    assert measured(reference, mu=1.0).weights(late(LOSSES)) == pytest.approx(
        {"a": 4.0, "b": 1.0, "c": 0.25}
    )
    geometric = build("gls", EQUAL).weights(make_step(LOSSES))
    assert measured(reference, mu=1e6).weights(late(LOSSES)) == pytest.approx(geometric, rel=1e-4)
    assert measured(reference, mu=1e-4).weights(late(LOSSES)) == pytest.approx(
        {"a": 3 * 4.0, "b": 0.0, "c": 0.0}, rel=1e-3
    )


@pytest.mark.parametrize("mu", [0.01, 0.5, 1.0, 10.0])
def test_equal_losses_with_equal_references_weigh_1(mu: float) -> None:
    assert measured(dict.fromkeys("abc", 7.0), mu=mu).weights(
        late(dict.fromkeys("abc", 0.3))
    ) == pytest.approx(dict.fromkeys("abc", 1.0))


def test_the_worst_share_of_its_reference_weighs_most() -> None:
    """In units of each reference: b has half of it left, a and c a tenth."""
    weights = measured({"a": 1.0, "b": 20.0, "c": 1.0}, mu=0.2).weights(
        late({"a": 0.1, "b": 10.0, "c": 0.1})
    )
    shares = {name: weights[name] * {"a": 1.0, "b": 20.0, "c": 1.0}[name] for name in weights}
    assert shares["b"] > 100 * shares["a"] and shares["a"] == pytest.approx(shares["c"])


def test_a_small_mu_brings_the_important_share_down_in_proportion() -> None:
    """Descent on L_1 = x^2 + 0.1, L_2 = (1 - x)^2 + 0.1 ends where a_1 L_1 = a_2 L_2 (the paper:
    lambda sets the point)."""
    method = measured({"a": 1.0, "b": 1.0}, tasks(a=1.0, b=3.0), mu=0.02)
    x = 0.2
    for _ in range(4000):
        losses = {"a": x * x + 0.1, "b": (1 - x) ** 2 + 0.1}
        weights = method.weights(late(losses))
        x -= 0.002 * (weights["a"] * 2 * x - weights["b"] * 2 * (1 - x))
    assert losses["a"] == pytest.approx(3 * losses["b"], rel=0.05)


def test_warm_up_then_reference_then_power_mean() -> None:
    """20 steps, warm-up 0.2, reference 0.1: the references are the mean losses of steps 4 and 5,
    gls weighs until then."""
    steps = random_steps(["a", "b", "c"], 20, absent=False)
    method = build("stch", EQUAL, warmup=0.2, reference=0.1)
    found = drive(method, steps)
    gls = drive(build("gls", EQUAL), steps)
    assert found[:6] == gls[:6] and found[6] != gls[6]
    losses = [step.losses for step, _ in steps]
    assert losses[4] is not None and losses[5] is not None
    reference = {name: (losses[4][name] + losses[5][name]) / 2 for name in "abc"}
    assert method.report()["reference_losses"] == pytest.approx(reference)
    assert found[6:] == [pytest.approx(measured(reference).weights(step)) for step, _ in steps[6:]]


def test_at_the_references_the_warm_up_goes_over_into_the_power_mean() -> None:
    reference = {"a": 0.25, "b": 1.0, "c": 4.0}
    assert measured(reference, mu=0.1).weights(late(reference)) == pytest.approx(
        build("gls", EQUAL).weights(make_step(reference))
    )


def test_a_task_that_was_not_met_takes_its_first_loss() -> None:
    method = build("stch", EQUAL, warmup=0.0, reference=0.1)
    for number in range(20):
        method.observe(make_step({"a": 1.0, "b": 2.0}, number=number))
    step = make_step({"a": 0.5, "b": 0.5, "c": 8.0}, number=20)
    assert method.weights(step) == build("gls", EQUAL).weights(step)
    method.observe(step)
    assert method.report()["reference_losses"] == {"a": 1.0, "b": 2.0, "c": 8.0}
    assert method.weights(step) != build("gls", EQUAL).weights(step)


def test_shares_that_leave_nothing_are_explained() -> None:
    assert list(STCHWeighting().problems(["a"])) == []
    problems = [
        str(problem) for problem in STCHWeighting(warmup=0.5, reference=0.5).problems(["a"])
    ]
    assert len(problems) == 1 and problems[0].startswith(
        "weighting.warmup: weighting.warmup=0.5 and weighting.reference=0.5 take up the whole run"
    )


def test_a_loss_of_0_is_explained() -> None:
    with pytest.raises(RunError, match="the loss of b is 0, and stch"):
        measured({"a": 1.0, "b": 1.0, "c": 1.0}).weights(late({"a": 1.0, "b": 0.0, "c": 1.0}))
