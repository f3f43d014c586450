"""Tasks that were learned one after another: their scores after each stage, and what is forgotten.

With R[i][j] the main score of task j after stage i of K, where task j was learned in stage j
(Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning"):

    average at the end   mean over j of R[K][j]
    learned              mean over j of R[j][j]
    forgotten            mean over j < K of  max over l < K of R[l][j]  -  R[K][j]

The last is that of Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlcli.errors import count_of
from mtlcli.report.finished import Finished
from mtlcli.screen import Column, FittingTable


@dataclass
class Order:
    """Runs of which each begins with the one before it."""

    name: str
    stages: list[str]
    """What each run has learned, in words."""
    tasks: list[str]
    """The tasks, in the order in which they were learned."""
    scores: NDArray[np.float64]
    """(seeds, stages, tasks); NaN where a run does not have the task."""

    @property
    def learned(self) -> NDArray[np.float64]:
        """Return the score of each task in the first run that has it: (seeds, tasks)."""
        first = [int(np.argmax(~np.isnan(self.scores[0, :, j]))) for j in range(len(self.tasks))]
        return self.scores[:, first, np.arange(len(self.tasks))]

    @property
    def forgotten(self) -> NDArray[np.float64]:
        """Return how far each task has fallen from its best score before the last run: (seeds,
        tasks); NaN for those that only the last run has."""
        best = np.where(np.isnan(self.scores), -np.inf, self.scores)[:, :-1].max(axis=1)
        return np.where(np.isinf(best), np.nan, best - self.scores[:, -1])


def order_of(name: str, seeds: Sequence[Sequence[tuple[str, Finished]]]) -> Order:
    """Return the scores of runs in order. `seeds`: for each seed the runs, each with what it has
    learned in words."""
    first = [run for _, run in seeds[0]]
    tasks = list(dict.fromkeys(task for run in first for task in run.tasks))
    scores = [[[_main(run, task) for task in tasks] for _, run in of_seed] for of_seed in seeds]
    return Order(name, [label for label, _ in seeds[0]], tasks, np.array(scores, dtype=np.float64))


def _main(run: Finished, task: str) -> float:
    return float(run.results["tasks"][task]["main"]) if task in run.tasks else np.nan


def order_tables(orders: Sequence[Order]) -> list[FittingTable]:
    """Return a table for each order, the scores of the tasks after each stage, and one that has all
    of them in brief."""
    return [*map(_matrix, orders), _brief(orders)]


def _matrix(order: Order) -> FittingTable:
    columns = [Column("after", fold=32)]
    columns += [Column(task, right=True) for task in order.tasks]
    seeds = count_of(len(order.scores), "seed")
    table = FittingTable(
        [*columns, Column("average", right=True, goes=1)],
        title=f"{order.name}: main scores after each stage ({seeds})",
    )
    for label, row in zip(order.stages, order.scores.mean(axis=0), strict=True):
        table.add_row(label, *map(_score, row), _score(np.nanmean(row)))
    table.add_line()
    lost = order.forgotten.mean(axis=0)
    average = "" if np.isnan(lost).all() else _points(np.nanmean(lost))
    table.add_row("forgotten (points)", *map(_points, lost), average)
    return table


def _brief(orders: Sequence[Order]) -> FittingTable:
    table = FittingTable(
        [
            Column("stage", fold=24),
            Column("learned", right=True),
            Column("average at the end", right=True),
            Column("forgotten (points)", right=True),
        ],
        title="tasks in order: means over tasks",
    )
    for order in orders:
        table.add_row(
            order.name,
            _spread(order.learned.mean(axis=1), 1, 4),
            _spread(order.scores[:, -1].mean(axis=1), 1, 4),
            _spread(np.nanmean(order.forgotten, axis=1), 100, 1),
        )
    return table


def _score(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _points(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:+.1f}"


def _spread(values: NDArray[np.float64], scale: float, digits: int) -> str:
    """Return a mean over seeds, with the standard deviation where there are several."""
    text = f"{scale * values.mean():.{digits}f}"
    return text if len(values) < 2 else f"{text} (sd {scale * values.std(ddof=1):.{digits}f})"
