"""The losses of models trained on subsets of the tasks, estimated without training them, and the
affinities of tasks that follow (Li, Sharma & Zhang 2024, "Scalable Multitask Learning Using
Gradient-based Estimation of Task Affinity", Grad-TAG).

The paper takes a model that was trained on all tasks, with weights theta*, and linearises the
output of each example there: f(W) = f(theta*) + <grad f(theta*), W - theta*>. With gradients that a
random projection has made short (P g, p numbers), fine-tuning on a subset S of the tasks becomes a
regression over p numbers w:

    w_S = argmin_w  mean_{t in S} mean_{i in t} phi_t(f_i + <P g_i, w>) + ridge / 2 |w|^2

and its loss on held-out examples of a task j in S is the mean of phi_j(f_i + <P g_i, w_S>). Here f
is the log odds log(p / (1 - p)) of an example's own label and phi(f) = log(1 + e^-f), as in the
paper, which is exactly -log p; for tasks with a squared error, f is the error and phi(f) = f^2.

The affinity i -> j is the mean over subsets S with both tasks of 1 - loss_j(S) / loss_j({j}): the
share by which training with i lowers the loss of j. The paper takes the mean score of j over such
subsets; its differences within a column are the same, and shares make tasks with unlike losses
comparable, as those of Fifty et al. (2021) do. Further differences: every task of S counts the same
(as with sampling=all), and the ridge is the best of a grid on the held-out examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float64]
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The ridges that are tried, for gradients whose mean squared norm is 1."""
MOST = 256
"""The most subsets; of so many or fewer tasks (8) all are estimated, else all pairs and as many
subsets of four tasks at random."""


@dataclass
class Examples:
    """Examples of a task, linearised at the joint model."""

    outputs: Floats
    """The output f of each example: (N,)."""
    gradients: Floats
    """The projected gradient of each output: (N, p)."""


@dataclass
class LinearTask:
    """What the surrogate knows of a task: its outputs as linear functions of the weights."""

    kind: Literal["classification", "regression"]
    """Whether the loss is a log likelihood or a squared error."""
    train: Examples
    """Examples that training fits."""
    held_out: Examples
    """Examples that it does not see."""


def losses(kind: str, outputs: Floats) -> Floats:
    """Return phi of each output."""
    return outputs**2 if kind == "regression" else np.logaddexp(0, -outputs)


def slopes(kind: str, outputs: Floats) -> Floats:
    """Return the derivative of phi at each output."""
    return 2 * outputs if kind == "regression" else -expit(-outputs)


def fit(tasks: Sequence[LinearTask], ridge: float) -> Floats:
    """Return the change of weights w_S, (p,), after training on some tasks."""

    def objective(w: Floats) -> tuple[float, Floats]:
        value, slope = ridge / 2 * float(w @ w), ridge * w
        for task in tasks:
            outputs = task.train.outputs + task.train.gradients @ w
            share = 1 / (len(tasks) * len(outputs))
            value += share * float(losses(task.kind, outputs).sum())
            slope = slope + share * (slopes(task.kind, outputs) @ task.train.gradients)
        return value, slope

    start = np.zeros(tasks[0].train.gradients.shape[1])
    found: Floats = minimize(objective, start, jac=True, method="L-BFGS-B").x
    return found


def held_out_loss(task: LinearTask, w: Floats) -> float:
    """Return the mean loss of the held-out examples after a change of weights."""
    outputs = task.held_out.outputs + task.held_out.gradients @ w
    return float(losses(task.kind, outputs).mean())


def subsets(names: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """Return the subsets of two and more tasks whose losses are estimated."""
    if 2 ** len(names) <= MOST:
        return [each for size in range(2, len(names) + 1) for each in combinations(names, size)]
    draw = np.random.default_rng(seed)
    drawn = {
        tuple(names[place] for place in sorted(draw.choice(len(names), 4, replace=False)))
        for _ in range(MOST)
    }
    return [*combinations(names, 2), *sorted(drawn)]


def affinities(tasks: Mapping[str, LinearTask], seed: int) -> dict[str, dict[str, float]]:
    """Return how much each task helps each task, `from -> to`: the share by which training with it
    lowers the other's loss; 0 from a task to itself. `seed`: of the draw of subsets."""
    scaled = _scaled(tasks)
    alone, ridge = _alone(scaled)
    sums = {one: dict.fromkeys(tasks, 0.0) for one in tasks}
    counts = {one: dict.fromkeys(tasks, 0) for one in tasks}
    for subset in subsets(list(tasks), seed):
        w = fit([scaled[name] for name in subset], ridge)
        for to in subset:
            share = 1 - held_out_loss(scaled[to], w) / alone[to]
            for one in subset:
                if one != to:
                    sums[one][to] += share
                    counts[one][to] += 1
    return {
        one: {to: total / max(1, counts[one][to]) for to, total in row.items()}
        for one, row in sums.items()
    }


def _scaled(tasks: Mapping[str, LinearTask]) -> dict[str, LinearTask]:
    """Return the tasks with gradients whose mean squared norm over all train examples is 1."""
    norms = np.concatenate([(task.train.gradients**2).sum(axis=1) for task in tasks.values()])
    scale = 1 / max(1e-12, float(np.sqrt(norms.mean())))
    return {
        name: LinearTask(
            task.kind,
            *(
                Examples(part.outputs, part.gradients * scale)
                for part in (task.train, task.held_out)
            ),
        )
        for name, task in tasks.items()
    }


def _alone(tasks: Mapping[str, LinearTask]) -> tuple[dict[str, float], float]:
    """Return the loss of each task after training on it alone, and the ridge: that with the lowest
    such losses, as shares of the losses of the joint model."""
    tried = []
    for ridge in RIDGES:
        found = {name: held_out_loss(task, fit([task], ridge)) for name, task in tasks.items()}
        shares = [
            loss / held_out_loss(tasks[name], np.zeros(tasks[name].train.gradients.shape[1]))
            for name, loss in found.items()
        ]
        tried.append((float(np.mean(shares)), ridge, found))
    _, ridge, found = min(tried, key=lambda each: each[0])
    return found, ridge
