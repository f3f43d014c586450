"""The mathematics of the loss weightings."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from mtlcli.config.weighting import weightings
from mtlcli.weighting.base import LossWeighting, WeightedTask

TASKS = {
    "score": WeightedTask(1.0, "regression"),
    "label": WeightedTask(1.0, "classification"),
    "dear": WeightedTask(3.0, "classification"),
}


def build(name: str, tasks: dict[str, WeightedTask] = TASKS) -> LossWeighting:
    return weightings.implementation(name)(weightings.configs[name](), tasks)


def test_static_weights_are_the_tasks_importance() -> None:
    assert build("static").weights(["dear", "label"]) == {"dear": 3.0, "label": 1.0}


def test_uncertainty_finds_its_closed_form_fixed_point() -> None:
    """d/ds (c exp(-s) L + s/2) = 0: sigma^2 = exp(s) is L for regression and 2 L for classification, whatever the importance."""
    method = build("uncertainty")
    losses = {"score": torch.tensor(0.3), "label": torch.tensor(0.7), "dear": torch.tensor(1.9)}
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = method.objective(losses)
        total.backward()
        return total

    optimizer.step(closure)
    variance = [torch.exp(s.detach()).item() for s in method.parameters()]
    assert variance == pytest.approx([0.3, 1.4, 3.8], rel=1e-3)
    # There, c exp(-s) L = 1/2 in every task: importance alone decides which term weighs more.
    weights = method.weights(list(losses))
    assert [weights[name] * losses[name].item() for name in losses] == pytest.approx([0.5, 0.5, 1.5], rel=1e-3)


def test_uncertainty_of_a_regression_is_the_gaussian_likelihood() -> None:
    """The term differs from torch's own Gaussian negative log likelihood by the constant log(2 pi) / 2 only."""
    method = build("uncertainty", {"score": TASKS["score"]})
    torch.manual_seed(0)
    guess, gold = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    for log_variance in (-1.0, 0.0, 0.8):
        method.load_state_dict({"log_variance": {"score": log_variance}})
        sigma = torch.exp(torch.tensor(log_variance / 2, dtype=torch.float64))
        likelihood = -Normal(guess, sigma).log_prob(gold).mean()
        term = method.objective({"score": ((guess - gold) ** 2).mean()})
        assert (likelihood - term).item() == pytest.approx(0.5 * torch.log(torch.tensor(2 * torch.pi)).item(), abs=1e-6)


def test_uncertainty_weight_is_the_derivative_of_its_objective() -> None:
    method = build("uncertainty")
    method.load_state_dict({"log_variance": {"score": 0.4, "label": -0.9, "dear": 0.1}})
    losses = {name: torch.tensor(1.3, requires_grad=True) for name in TASKS}
    method.objective(losses).backward()
    weights = method.weights(list(TASKS))
    assert {name: loss.grad.item() for name, loss in losses.items()} == pytest.approx(weights)  # type: ignore[union-attr]


def test_uncertainty_leaves_absent_tasks_alone() -> None:
    method = build("uncertainty")
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        method.objective({"label": torch.tensor(2.0)}).backward()
        optimizer.step()
    state = method.state_dict()["log_variance"]
    assert state["score"] == 0.0 and state["dear"] == 0.0 and state["label"] != 0.0


@pytest.mark.parametrize("name", list(weightings))
def test_state_survives_json(name: str) -> None:
    import json

    method, other = build(name), build(name)
    with torch.no_grad():
        for index, parameter in enumerate(method.parameters()):
            parameter.fill_(0.1 * (index + 1) / 3)
    other.load_state_dict(json.loads(json.dumps(method.state_dict())))
    assert other.weights(list(TASKS)) == method.weights(list(TASKS))
