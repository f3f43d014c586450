"""The mathematics of random weights."""

from __future__ import annotations

import pytest
import torch
from torchjd.scalarization import Random

from tests.unit.weighting.steps import build, make_step, tasks

DISTRIBUTIONS = ["normal", "dirichlet"]


def draws(distribution: str, count: int, steps: int, seed: int = 0) -> torch.Tensor:
    names = [f"t{index}" for index in range(count)]
    method = build("random", tasks(**dict.fromkeys(names, 1.0)), distribution=distribution)
    rows = [
        list(method.weights(make_step(names, number=number, seed=seed)).values())
        for number in range(steps)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_weights_are_positive_sum_to_k_and_are_the_plain_sum_on_average(distribution: str) -> None:
    found = draws(distribution, 3, 4000)
    assert bool((found > 0).all())
    torch.testing.assert_close(found.sum(1), torch.full((4000,), 3.0, dtype=torch.float64))
    # The standard deviation of a weight is at most 0.71: 4000 draws give the mean within 0.05 (more
    # than 4 deviations).
    torch.testing.assert_close(found.mean(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.05)


def test_dirichlet_has_its_variance() -> None:
    """Var p = (1/K)(1 - 1/K) / (K + 1); a softmax of normal numbers has another one, so that the
    two are not mixed up."""
    for count in (2, 4):
        share = draws("dirichlet", count, 4000) / count
        expected = (1 / count) * (1 - 1 / count) / (count + 1)
        assert share.var(0).mean().item() == pytest.approx(expected, rel=0.08)
    # Of two tasks, Dirichlet(1, 1) is uniform.
    assert (draws("dirichlet", 2, 4000)[:, 0] < 0.2).double().mean().item() == pytest.approx(
        0.1, abs=0.02
    )


def test_normal_is_the_softmax_of_standard_normal_numbers() -> None:
    """Of two tasks, log(w_1 / w_2) is the difference of two standard normal numbers: mean 0,
    variance 2."""
    found = draws("normal", 2, 4000).log()
    difference = found[:, 0] - found[:, 1]
    assert difference.mean().item() == pytest.approx(0, abs=0.1)
    assert difference.var().item() == pytest.approx(2, rel=0.1)


def test_normal_is_torchjds_times_k() -> None:
    step = make_step(["a", "b", "c"], number=5, seed=3)
    losses = torch.tensor([0.3, 1.4, 2.0], dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step.generator().initial_seed())
        Random()(losses).backward()
    weights = build("random", tasks(a=1.0, b=1.0, c=1.0)).weights(step)
    assert losses.grad is not None
    assert list(weights.values()) == pytest.approx((3 * losses.grad).tolist(), rel=1e-12)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_draws_are_a_function_of_seed_and_step(distribution: str) -> None:
    torch.manual_seed(1)
    one = draws(distribution, 3, 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(one, draws(distribution, 3, 5))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is not used"
    assert not torch.equal(one, draws(distribution, 3, 5, seed=1))
    assert len({row.tolist()[0] for row in one}) == 5


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_importance_multiplies_the_draw(distribution: str) -> None:
    step = make_step(["a", "b"])
    plain = build("random", tasks(a=1.0, b=1.0), distribution=distribution).weights(step)
    dear = build("random", tasks(a=1.0, b=4.0), distribution=distribution).weights(step)
    assert dear == {"a": plain["a"], "b": 4 * plain["b"]}
