"""The surrogate: its fit against scikit-learn and a closed form, the losses of subsets against
models that are trained, affinities against plain loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mtlcli.grouping import surrogate
from mtlcli.grouping.surrogate import Examples, Floats, LinearTask, affinities, fit, held_out_loss

WIDTH = 5


def linear_task(truth: Floats, start: Floats, seed: int) -> LinearTask:
    """A task of a model that is linear in its weights, so that its linearisation is exact: log odds
    y <x, theta> of two classes, at weights `start`."""
    random = np.random.default_rng(seed)
    parts = []
    for count in (120, 80):
        x = random.normal(size=(count, WIDTH))
        y = np.where(x @ truth + random.logistic(size=count) > 0, 1.0, -1.0)
        signed = x * y[:, None]
        parts.append(Examples(signed @ start, signed))
    return LinearTask("classification", *parts)


def test_the_fit_is_that_of_scikit_learn_and_of_the_closed_form() -> None:
    task = linear_task(np.ones(WIDTH), np.zeros(WIDTH), 1)
    ridge, x = 0.3, task.train.gradients
    # Labels in the other form: examples of the second class have their features turned round.
    y = np.arange(len(x)) % 2
    library = LogisticRegression(C=1 / (len(x) * ridge), fit_intercept=False, tol=1e-10)
    library.fit(x * (2 * y[:, None] - 1), y)
    assert fit([task], ridge) == pytest.approx(library.coef_[0], abs=1e-4)
    numbers = Examples(np.arange(len(x)) / 50, x)
    squared = LinearTask("regression", numbers, numbers)
    closed = np.linalg.solve(
        2 * x.T @ x / len(x) + ridge * np.eye(WIDTH), -2 * x.T @ numbers.outputs / len(x)
    )
    assert fit([squared], ridge) == pytest.approx(closed, abs=1e-4)


def test_losses_of_a_subset_are_those_of_a_model_that_is_trained_on_it() -> None:
    """Both start from the same weights, which a penalty holds them to."""
    start = np.random.default_rng(3).normal(size=WIDTH)
    truths = [np.ones(WIDTH), np.array([1.0, 1.0, 1.0, -1.0, 0.0])]
    tasks = [linear_task(truth, start, seed) for seed, truth in enumerate(truths)]
    ridge = 0.05
    theta = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses = [
            torch.nn.functional.softplus(-torch.tensor(task.train.gradients) @ theta).mean()
            for task in tasks
        ]
        loss = torch.stack(losses).mean()
        loss = loss + ridge / 2 * (theta - torch.tensor(start)).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    trained = theta.detach().numpy()
    w = fit(tasks, ridge)
    assert start + w == pytest.approx(trained, abs=1e-3)
    for task in tasks:
        outputs = task.held_out.gradients @ trained
        assert held_out_loss(task, w) == pytest.approx(np.logaddexp(0, -outputs).mean(), rel=1e-3)


def test_affinities_are_means_over_subsets_and_tell_friend_from_foe() -> None:
    truths = {"a": 1.0, "b": 1.0, "c": -1.0}
    tasks = {
        name: linear_task(sign * np.ones(WIDTH), np.zeros(WIDTH), seed)
        for seed, (name, sign) in enumerate(truths.items())
    }
    found = affinities(tasks, 0)
    assert found["a"]["b"] > found["c"]["b"] and found["b"]["a"] > found["c"]["a"]
    assert found["a"]["c"] < -0.1 and found["a"]["a"] == 0
    squares = np.concatenate([(task.train.gradients**2).sum(axis=1) for task in tasks.values()])
    scaled = {
        name: LinearTask(
            task.kind,
            Examples(task.train.outputs, task.train.gradients / squares.mean() ** 0.5),
            Examples(task.held_out.outputs, task.held_out.gradients / squares.mean() ** 0.5),
        )
        for name, task in tasks.items()
    }
    tried = {
        ridge: {name: held_out_loss(task, fit([task], ridge)) for name, task in scaled.items()}
        for ridge in surrogate.RIDGES
    }
    # All losses at the start are log 2.
    ridge = min(tried, key=lambda each: sum(tried[each].values()))
    for one in tasks:
        for to in tasks:
            shares = []
            for size in (2, 3):
                for subset in combinations(tasks, size):
                    if one != to and one in subset and to in subset:
                        w = fit([scaled[name] for name in subset], ridge)
                        shares.append(1 - held_out_loss(scaled[to], w) / tried[ridge][to])
            assert found[one][to] == pytest.approx(np.mean(shares) if shares else 0.0)


def test_many_tasks_have_all_pairs_and_some_of_the_larger_subsets() -> None:
    names = [str(number) for number in range(12)]
    drawn = surrogate.subsets(names, 0)
    assert {*combinations(names, 2)} <= {*drawn}
    assert {len(each) for each in drawn} == {2, 4} and drawn == surrogate.subsets(names, 0)
    assert len(surrogate.subsets(names[:8], 0)) == 2**8 - 8 - 1
