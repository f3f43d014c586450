"""The mathematics of homoscedastic uncertainty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal
from torchjd.scalarization import UW

from mtlcli.weighting.base import WeightedTask
from tests.unit.weighting.steps import build, make_step, minimise

TASKS = {
    "score": WeightedTask(1.0, "regression"),
    "label": WeightedTask(1.0, "classification"),
    "dear": WeightedTask(3.0, "classification"),
}


def uncertainty(tasks: dict[str, WeightedTask] = TASKS) -> Any:
    return build("uncertainty", tasks)


def test_it_finds_its_closed_form_fixed_point() -> None:
    """d/ds (c exp(-s) L + s/2) = 0: sigma^2 = exp(s) is L for regression and 2 L for
    classification, whatever the importance."""
    method = uncertainty()
    losses = {"score": torch.tensor(0.3), "label": torch.tensor(0.7), "dear": torch.tensor(1.9)}
    minimise(method, losses)
    variance = [torch.exp(s.detach()).item() for s in method.parameters()]
    assert variance == pytest.approx([0.3, 1.4, 3.8], rel=1e-3)
    # There, c exp(-s) L = 1/2 in every task: importance alone decides which term weighs more.
    weights = method.weights(make_step(list(losses)))
    assert [weights[name] * losses[name].item() for name in losses] == pytest.approx(
        [0.5, 0.5, 1.5], rel=1e-3
    )


def test_a_regression_has_the_gaussian_likelihood() -> None:
    """The term differs from torch's own Gaussian negative log likelihood by the constant log(2 pi)
    / 2 only."""
    method = uncertainty({"score": TASKS["score"]})
    torch.manual_seed(0)
    guess, gold = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    for log_variance in (-1.0, 0.0, 0.8):
        method.load_state_dict({"log_variance": {"score": log_variance}})
        sigma = torch.exp(torch.tensor(log_variance / 2, dtype=torch.float64))
        likelihood = -Normal(guess, sigma).log_prob(gold).mean()
        term = method.objective({"score": ((guess - gold) ** 2).mean()})
        assert (likelihood - term).item() == pytest.approx(
            0.5 * torch.log(torch.tensor(2 * torch.pi)).item(), abs=1e-6
        )


def test_regressions_follow_torchjd() -> None:
    method = uncertainty({name: WeightedTask(1.0, "regression") for name in "ab"})
    method.load_state_dict({"log_variance": {"a": 0.4, "b": -0.9}})
    other = UW(2)
    with torch.no_grad():
        next(iter(other.parameters())).copy_(torch.tensor([0.4, -0.9]))
    losses = torch.tensor([1.3, 0.2])
    assert method.objective({"a": losses[0], "b": losses[1]}).item() == pytest.approx(
        other(losses).item()
    )


def test_the_weight_is_the_derivative_of_the_objective() -> None:
    method = uncertainty()
    method.load_state_dict({"log_variance": {"score": 0.4, "label": -0.9, "dear": 0.1}})
    losses = {name: torch.tensor(1.3, requires_grad=True) for name in TASKS}
    method.objective(losses).backward()
    weights = method.weights(make_step(list(TASKS)))
    assert {name: loss.grad.item() for name, loss in losses.items()} == pytest.approx(weights)  # type: ignore[union-attr]


def test_it_leaves_absent_tasks_alone() -> None:
    method = uncertainty()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        method.objective({"label": torch.tensor(2.0)}).backward()
        optimizer.step()
    state = method.state_dict()["log_variance"]
    assert state["score"] == 0.0 and state["dear"] == 0.0 and state["label"] != 0.0
