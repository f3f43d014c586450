"""What holds for every method of gradient balancing."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch

from mtlcli.weighting.base import Step
from tests.unit.weighting.gradients.helpers import (
    METHODS,
    NAMES,
    build,
    random_rows,
    real_rows,
    step_of,
    through_json,
    update_of,
    weights_of,
)

WEIGHTS = [name for name in METHODS if build(name, 2).when == "gradients"]
EXACT = {"cagrad": 1e-5}
"""cvxpy's solution has a tolerance of its own."""
RANDOM_ORDER = {"pcgrad", "gradvac"}
"""With more than two tasks, the order in which they are taken is drawn."""
# Gradients times s give an update times s^(1 + k).
SCALE = dict.fromkeys(METHODS, 0.0) | {"nash": -1.0, "fairgrad": -4 / 3}
UNCLIPPED = {"nash": {"max_norm": None}, "fairgrad": {"max_norm": None}}

CONFLICT = torch.linalg.cholesky(
    torch.tensor([[1.0, -0.3, 0.2], [-0.3, 2.0, -0.4], [0.2, -0.4, 1.5]], dtype=torch.float64)
)
"""Three gradients, of which two pairs conflict."""


def test_all_methods_are_there() -> None:
    assert METHODS == [
        "aligned",
        "cagrad",
        "conflict_free",
        "fairgrad",
        "graddrop",
        "gradvac",
        "imtl",
        "imtl_g",
        "mgda",
        "nash",
        "pcgrad",
        "sdmgrad",
        "upgrad",
    ]
    assert [name for name in METHODS if name != "graddrop"] == WEIGHTS


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", METHODS)
def test_real_gradients_give_a_finite_update_that_does_not_raise_the_sum(
    name: str, count: int
) -> None:
    rows = real_rows(count)
    update = update_of(build(name, count), rows).double()
    assert bool(update.isfinite().all())
    assert (rows.double().sum(0) @ update).item() > 0


@pytest.mark.parametrize("factor", [1e-4, 30.0, 1e5])
@pytest.mark.parametrize("name", METHODS)
def test_scale_of_all_gradients(name: str, factor: float) -> None:
    rows = random_rows(4, common=0.5, spread=0.5)
    options = UNCLIPPED.get(name, {})
    plain, scaled = (
        update_of(build(name, 4, **options), rows),
        update_of(build(name, 4, **options), factor * rows),
    )
    torch.testing.assert_close(
        scaled, factor ** (1 + SCALE[name]) * plain, rtol=EXACT.get(name, 1e-7), atol=1e-30
    )


@pytest.mark.parametrize("name", METHODS)
def test_permuted_tasks_have_permuted_weights(name: str) -> None:
    """Of tasks with names of their own, so that state follows the name: the second step too."""
    count = 2 if name in RANDOM_ORDER else 4
    order = torch.arange(count).roll(1)
    method, other = build(name, count), build(name, count)
    for number in range(2):
        rows = random_rows(count, number, common=0.3, spread=0.5)
        names = [NAMES[index] for index in order]
        plain, permuted = (
            update_of(method, rows, number),
            update_of(other, rows[order], number, names),
        )
        torch.testing.assert_close(
            permuted, plain, rtol=EXACT.get(name, 1e-8), atol=EXACT.get(name, 1e-8)
        )
        if name in WEIGHTS:
            one, two = weights_of(method, rows, 9), weights_of(other, rows[order], 9, names)
            torch.testing.assert_close(
                two, one[order], rtol=EXACT.get(name, 1e-8), atol=EXACT.get(name, 1e-8)
            )


@pytest.mark.parametrize("name", METHODS)
def test_importance_scales_the_rows(name: str) -> None:
    importance = [2.0, 0.5, 1.0, 3.0]
    rows = random_rows(4, common=0.5)
    weighted = update_of(build(name, 4, importance), rows)
    torch.testing.assert_close(
        weighted, update_of(build(name, 4), rows * torch.tensor(importance)[:, None].double())
    )


@pytest.mark.parametrize("name", METHODS)
def test_importance_matters_where_it_may_be_given(name: str) -> None:
    """Directions that it does not change are those of the methods that refuse it."""
    method = build(name, 3)
    rows = random_rows(3, common=1.0)
    plain, weighted = update_of(method, rows), update_of(build(name, 3, [5.0, 1.0, 1.0]), rows)
    cosine = torch.cosine_similarity(plain, weighted, dim=0).item()
    assert (cosine < 0.9999) is not method.config.needs.unit_importance, cosine


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("name", METHODS)
def test_equal_gradients_give_the_sum(name: str, count: int) -> None:
    """But for the methods whose own scale is part of them; their files say so."""
    rows = random_rows(1).repeat(count, 1)
    norm = rows[0].norm().item()
    factor = {
        "cagrad": 1.4,
        "nash": 1 / (norm * math.sqrt(count)),
        "fairgrad": (count * norm**2) ** (-2 / 3),
    }.get(name, 1.0)
    method = build(name, count, **UNCLIPPED.get(name, {}))
    torch.testing.assert_close(
        update_of(method, rows), factor * rows.sum(0), rtol=EXACT.get(name, 1e-8), atol=1e-8
    )
    if name != "mgda":  # Every point of its simplex is a solution.
        weights = weights_of(method, rows)
        torch.testing.assert_close(
            weights, torch.full_like(weights, factor), rtol=1e-4 if name in EXACT else 1e-7, atol=0
        )


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_failing_solver_keeps_the_last_good_weights(name: str) -> None:
    method, rows = build(name, 3, **UNCLIPPED.get(name, {})), CONFLICT
    good = weights_of(method, rows)
    before = method.state_dict()
    bad = replace(step_of(rows, 7), gram=torch.full((3, 3), torch.nan, dtype=torch.float64))
    with pytest.warns(
        RuntimeWarning, match=f"step 7: the solver of {name} failed .*last weights are used again"
    ):
        kept = method.weights(bad)
    assert list(kept.values()) == good.tolist()
    assert method.report() == {"solver_failures": 1}
    assert method.state_dict() == before | {"failures": 1}
    assert len(set(good.tolist())) > 1, "the test is about weights that are not equal"


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_solver_that_fails_at_once_gives_the_plain_sum_with_a_warning(name: str) -> None:
    method = build(name, 3, **UNCLIPPED.get(name, {}))
    bad = replace(
        step_of(random_rows(3), 0), gram=torch.full((3, 3), torch.inf, dtype=torch.float64)
    )
    with pytest.warns(
        RuntimeWarning,
        match=f"step 0: the solver of {name} failed .*found no weights yet, and the plain sum is "
        "used",
    ):
        assert method.weights(bad) == {"ant": 1.0, "bee": 1.0, "cat": 1.0}
    assert method.report() == {"solver_failures": 1}


@pytest.mark.parametrize("name", WEIGHTS)
def test_opposed_gradients_at_the_first_step_do_not_end_a_run(name: str) -> None:
    """A method solves them, or says that it cannot and takes the plain sum."""
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    method = build(name, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        weights = weights_of(method, rows)
    assert len(said) == method.failures and bool(weights.isfinite().all())


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_task_of_importance_0_stays_out_of_the_balance(name: str, left: int) -> None:
    """The others get what they would get without it, at every step, whatever its gradient is."""
    importance = [1.0 if index < left else 0.0 for index in range(4)]
    method, alone = build(name, 4, importance), build(name, 2)
    for number in range(3):
        rows = random_rows(4, number, common=0.3)
        update = update_of(method, rows, number)
        if left:
            torch.testing.assert_close(
                update, update_of(alone, rows[:left], number), rtol=1e-5, atol=1e-7
            )
        else:
            assert not update.any()
        if name in WEIGHTS:
            assert weights_of(method, rows, number)[left:].tolist() == [0.0] * (4 - left)
    assert method.failures == 0


@pytest.mark.parametrize("name", ["nash", "fairgrad"])
def test_max_norm_holds_when_the_last_weights_are_used_again(name: str) -> None:
    """The solver cannot solve opposed gradients; those of the step before were much shorter."""
    method = build(name, 2, max_norm=1.0)
    rows = random_rows(2) / 100
    weights_of(method, rows)
    opposed = torch.stack([rows[0] * 1e4, -rows[0] * 3e4])
    with pytest.warns(RuntimeWarning, match="last weights are used again"):
        weights = weights_of(method, opposed, 1)
    assert (weights @ opposed).norm().item() == pytest.approx(1.0)


def in_fp32(rows: torch.Tensor, number: int = 0) -> Step:
    """A step whose Gram matrix was summed in fp32, as that of a run is."""
    rows = rows.float()
    return replace(step_of(rows, number), gram=(rows @ rows.T).double())


@pytest.mark.parametrize("name", WEIGHTS)
def test_dependent_gradients_in_fp32_give_moderate_weights(name: str) -> None:
    """Two equal gradients, and one that is the sum of two others: what rounding leaves of them is
    no information."""
    rows = random_rows(6, 3, size=4000, common=0.5)
    rows[1], rows[2] = rows[0], 0.5 * (rows[3] + rows[4])
    method = build(name, 6)
    weights = method.weights(in_fp32(rows))
    assert method.failures == 0
    assert max(map(abs, weights.values())) < 10
    update = torch.tensor(list(weights.values()), dtype=torch.float64) @ rows
    assert (rows @ update).min().item() > 0, "the update helps every task"
    assert update.norm().item() > 1e-2 * rows.norm(dim=1).min().item() or name in (
        "nash",
        "fairgrad",
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_more_gradients_than_dimensions(name: str) -> None:
    """As with projection=16 and more than 16 tasks: 8 gradients in a space of 5."""
    rows = random_rows(8, 1, size=5, common=2.0)
    method = build(name, 8)
    weights = method.weights(in_fp32(rows))
    assert method.failures == 0
    assert max(map(abs, weights.values())) < 100
    assert (
        rows @ (torch.tensor(list(weights.values()), dtype=torch.float64) @ rows)
    ).min().item() > -1e-6


PRESENT = [
    ["ant", "bee", "cat"],
    ["ant", "cat"],
    ["bee", "cat"],
    ["cat", "bee", "ant"],
    ["bee"],
    ["ant", "bee", "cat"],
] * 2
"""Tasks step by step; K varies, and so does the order."""


@pytest.mark.parametrize("name", METHODS)
def test_state_survives_json_in_the_middle(name: str) -> None:
    method = build(name, 3)
    for number, tasks in enumerate(PRESENT):
        if number == 7:
            resumed = through_json(method, build(name, 3))
        rows = random_rows(len(tasks), number, common=0.4)
        update = update_of(method, rows, number, tasks)
        assert bool(update.isfinite().all())
        if number >= 7:
            assert torch.equal(update_of(resumed, rows, number, tasks), update), number
    assert resumed.state_dict() == method.state_dict()


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_nth_step_is_solved(name: str) -> None:
    method = build(name, 3, every=3, **UNCLIPPED.get(name, {}))
    rows = [
        CONFLICT,
        *(random_rows(3, number) for number in range(2)),
        CONFLICT.roll(1, 0),
        random_rows(3, 4),
    ]
    assert method.known(step_of(rows[0], 1)) == "gradients", "nothing to use again yet"
    found = [weights_of(method, each, number) for number, each in enumerate(rows)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3]) and torch.equal(found[3], found[4])
    between = replace(step_of(rows[0], 4, ["ant", "bee"] + ["cat"]), gram=None)
    assert (
        method.known(between) == "before"
        and list(method.weights(between).values()) == found[4].tolist()
    )


@pytest.mark.parametrize("name", METHODS)
def test_state_of_another_run_is_refused(name: str) -> None:
    method = build(name, 4)
    update_of(method, random_rows(4))
    if name in WEIGHTS:
        with pytest.raises(ValueError, match="dog, which the run does not have"):
            through_json(method, build(name, 3))


@pytest.mark.parametrize("name", METHODS)
def test_draws_depend_on_seed_and_step_alone(name: str) -> None:
    """And torch's global generator is as it was."""
    rows = random_rows(4)
    torch.manual_seed(1)
    one = update_of(build(name, 4), rows, 3)
    state = torch.get_rng_state()
    other = update_of(build(name, 4), rows, 3)
    assert torch.equal(one, other) and torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(update_of(build(name, 4), rows, 3), one)
