"""The mathematics of the geometric mean of losses."""

from __future__ import annotations

import pytest
import torch
from torchjd.scalarization import GeometricMean

from mtlcli.errors import RunError
from tests.unit.weighting.steps import build, make_step, tasks

LOSSES = {"a": 0.2, "b": 1.7, "c": 30.0}


def test_worked_example() -> None:
    """L = (1, 4): G = 2, w = (2 / 1, 2 / 4)."""
    assert build("gls", tasks(a=1.0, b=1.0)).weights(
        make_step({"a": 1.0, "b": 4.0})
    ) == pytest.approx({"a": 2.0, "b": 0.5})


def test_it_is_the_derivative_of_torchjds_times_k() -> None:
    losses = torch.tensor(list(LOSSES.values()), dtype=torch.float64, requires_grad=True)
    GeometricMean()(losses).backward()
    assert losses.grad is not None
    weights = build("gls", tasks(a=1.0, b=1.0, c=1.0)).weights(make_step(LOSSES))
    assert list(weights.values()) == pytest.approx((3 * losses.grad).tolist(), rel=1e-12)


def test_importance_is_an_exponent() -> None:
    losses = torch.tensor(list(LOSSES.values()), dtype=torch.float64, requires_grad=True)
    importance = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)
    (losses ** (importance / importance.sum())).prod().backward()
    assert losses.grad is not None
    weights = build("gls", tasks(a=1.0, b=0.5, c=3.0)).weights(make_step(LOSSES))
    assert list(weights.values()) == pytest.approx((4.5 * losses.grad).tolist(), rel=1e-12)


def test_equal_losses_weigh_as_important_as_they_are() -> None:
    for loss in (1e-6, 1.0, 1e6):
        weights = build("gls", tasks(a=1.0, b=0.5, c=3.0)).weights(
            make_step(dict.fromkeys("abc", loss))
        )
        assert weights == pytest.approx({"a": 1.0, "b": 0.5, "c": 3.0})


def test_the_scale_of_a_loss_does_not_change_the_direction() -> None:
    """w_t L_t is the same for every task of like importance, whatever its scale."""
    method = build("gls", tasks(a=1.0, b=1.0, c=2.0))
    for scale in (1.0, 1e4):
        losses = LOSSES | {"b": LOSSES["b"] * scale}
        terms = {
            name: weight * losses[name]
            for name, weight in method.weights(make_step(losses)).items()
        }
        assert terms["a"] == pytest.approx(terms["b"]) and terms["c"] == pytest.approx(
            2 * terms["a"]
        )


@pytest.mark.parametrize("loss", [0.0, -0.5])
def test_a_loss_that_is_not_positive_is_explained(loss: float) -> None:
    with pytest.raises(RunError) as caught:
        build("gls", tasks(a=1.0, b=1.0)).weights(make_step({"a": 1.0, "b": loss}, number=7))
    assert str(caught.value) == (
        f"step 7: the loss of b is {loss:g}, and gls is only defined for losses above 0"
        "\n    -> choose another weighting, for example weighting=static, or leave b out of the run"
    )


def test_a_task_of_importance_0_may_have_any_loss() -> None:
    losses = {"a": 1.0, "b": 4.0, "c": 0.0}
    assert build("gls", tasks(a=1.0, b=1.0, c=0.0)).weights(make_step(losses)) == pytest.approx(
        {"a": 2.0, "b": 0.5, "c": 0.0}
    )
