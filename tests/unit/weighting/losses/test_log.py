"""The mathematics of the log transform."""

from __future__ import annotations

import pytest
import torch

from tests.unit.weighting.steps import build, make_step, tasks

LOSSES = {"a": 0.2, "b": 1.7, "c": 30.0}


def test_it_is_the_derivative_of_the_sum_of_logarithms() -> None:
    losses = torch.tensor(list(LOSSES.values()), dtype=torch.float64, requires_grad=True)
    (torch.tensor([1.0, 1.0, 3.0]) * torch.log(losses + 1e-8)).sum().backward()
    assert losses.grad is not None
    weights = build("log", tasks(a=1.0, b=1.0, c=3.0)).weights(make_step(LOSSES))
    assert list(weights.values()) == pytest.approx(losses.grad.tolist(), rel=1e-12)


def test_the_scale_of_a_loss_does_not_matter() -> None:
    """w_t L_t is the importance."""
    method = build("log", tasks(a=1.0, b=1.0, c=3.0))
    for scale in (1e-3, 1.0, 1e3):
        weights = method.weights(make_step({name: scale * loss for name, loss in LOSSES.items()}))
        assert [weights[name] * scale * LOSSES[name] for name in LOSSES] == pytest.approx(
            [1.0, 1.0, 3.0], rel=1e-4
        )


def test_the_direction_is_that_of_gls() -> None:
    of = tasks(a=1.0, b=2.0, c=0.5)
    log, gls = (build(name, of).weights(make_step(LOSSES)) for name in ("log", "gls"))
    ratio = [gls[name] / log[name] for name in LOSSES]
    assert ratio == pytest.approx([ratio[0]] * 3, rel=1e-6)


def test_a_loss_of_0_has_a_finite_weight() -> None:
    assert build("log", tasks(a=1.0)).weights(make_step({"a": 0.0})) == pytest.approx({"a": 1e8})
