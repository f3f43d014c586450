"""The mathematics of IMTL-L."""

from __future__ import annotations

import pytest
import torch
from torchjd.scalarization import IMTLL

from tests.unit.weighting.steps import build, make_step, minimise, tasks


def test_it_finds_its_closed_form_fixed_point() -> None:
    """d/ds (exp(s) L - s) = 0: exp(s) L = 1 for every task, whatever the importance."""
    method = build("imtl_l", tasks(a=1.0, b=1.0, dear=3.0))
    losses = {"a": torch.tensor(0.3), "b": torch.tensor(7.0), "dear": torch.tensor(1.9)}
    minimise(method, losses)
    weights = method.weights(make_step(list(losses)))
    assert [weights[name] * losses[name].item() for name in losses] == pytest.approx(
        [1.0, 1.0, 3.0], rel=1e-3
    )


def test_it_starts_as_the_plain_sum() -> None:
    assert build("imtl_l", tasks(a=1.0, b=2.0)).weights(make_step(["a", "b"])) == {
        "a": 1.0,
        "b": 2.0,
    }


def test_trajectory_is_torchjds() -> None:
    method, other = build("imtl_l", tasks(a=1.0, b=1.0)), IMTLL(2)
    ours, theirs = (
        torch.optim.AdamW(method.parameters(), lr=0.1),
        torch.optim.AdamW(other.parameters(), lr=0.1),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses = torch.rand(2, generator=generator, requires_grad=True)
        weights = method.weights(make_step(["a", "b"]))
        ours.zero_grad()
        objective = method.objective({"a": losses[0].detach(), "b": losses[1].detach()})
        objective.backward()
        ours.step()
        theirs.zero_grad()
        total = other(losses)
        assert objective.item() == pytest.approx(total.item(), rel=1e-5)
        total.backward()
        theirs.step()
        assert losses.grad is not None
        assert list(weights.values()) == pytest.approx(losses.grad.tolist(), rel=1e-5)
    assert weights != {"a": 1.0, "b": 1.0}


def test_the_weight_is_the_derivative_of_the_objective() -> None:
    method = build("imtl_l", tasks(a=1.0, dear=3.0))
    method.load_state_dict({"log_scale": {"a": 0.4, "dear": -0.9}})
    losses = {name: torch.tensor(1.3, requires_grad=True) for name in ("a", "dear")}
    method.objective(losses).backward()
    derivative = {name: loss.grad.item() for name, loss in losses.items()}  # type: ignore[union-attr]
    assert derivative == pytest.approx(method.weights(make_step(["a", "dear"])))


def test_absent_tasks_rest() -> None:
    method = build("imtl_l", tasks(a=1.0, b=1.0))
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        method.objective({"b": torch.tensor(2.0)}).backward()
        optimizer.step()
    assert method.weights(make_step(["a", "b"]))["a"] == 1.0
    assert method.weights(make_step(["a", "b"]))["b"] < 1.0
