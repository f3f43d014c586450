"""The conflicts between the tasks' gradients over a run: which pairs conflict, and whether
balancing had anything to gain."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from mtlcli.errors import count_of
from mtlcli.weighting.base import Step, WeightedTask

SURE = 3.0
"""A mean counts as negative when it is this many standard errors below zero; among a few dozen
means, none is so low by chance."""
FEWEST = 10
"""The number of steps below which the verdict draws no conclusion."""


class Conflicts:
    """Sums over the steps whose Gram matrix was measured, kept in `state` (JSON values, part of the
    TrainState).

    A pair of tasks conflicts in a step when the cosine of their gradients is negative. Noisy
    gradients without any relation conflict in half of all steps, so the verdict asks whether the
    mean cosine is negative. A task is harmed in a step when its gradient has a negative cosine to
    the plain sum of importance_t * g_t: a small step along the sum would raise the task's loss on
    this very batch. A plain sum copes with conflicts that harm no task.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        for key in ("pairs", "tasks"):
            state.setdefault(key, {})

    def add(self, step: Step, tasks: dict[str, WeightedTask]) -> None:
        """Count a step. A step without a Gram matrix, or with one task, does not count. Tasks of
        importance 0 have no gradient and are left out."""
        names = [name for name in step.tasks if tasks[name].weight > 0]
        if step.gram is None or len(names) < 2:
            return
        places = [step.tasks.index(name) for name in names]
        gram = step.gram[places][:, places].tolist()
        importance = [tasks[name].weight for name in names]
        along = [
            sum(weight * product for weight, product in zip(importance, row, strict=True))
            for row in gram
        ]
        whole = sum(weight * product for weight, product in zip(importance, along, strict=True))
        for one, name in enumerate(names):
            _count(self._state["tasks"], name, along[one], gram[one][one] * whole)
        for one, other in combinations(range(len(names)), 2):
            _count(
                self._state["pairs"],
                f"{names[one]},{names[other]}",
                gram[one][other],
                gram[one][one] * gram[other][other],
            )

    def report(self) -> dict[str, Any] | None:
        """Return the part of results.json about conflicts: for each pair, and for each task against
        the plain sum, the share of steps with a negative cosine, the mean cosine and its standard
        error; and the verdict. None when nothing was measured."""
        if not self._state["pairs"]:
            return None
        pairs = {name: _summary(entry) for name, entry in self._state["pairs"].items()}
        tasks = {name: _summary(entry) for name, entry in self._state["tasks"].items()}
        return {"pairs": pairs, "against_the_sum": tasks, "verdict": _verdict(pairs, tasks)}


def _count(entries: dict[str, Any], name: str, product: float, squares: float) -> None:
    cosine = product / math.sqrt(squares) if squares > 0 else 0.0
    entry = entries.setdefault(name, {"steps": 0, "negative": 0, "sum": 0.0, "squares": 0.0})
    entry["steps"] += 1
    entry["negative"] += cosine < 0
    entry["sum"] += cosine
    entry["squares"] += cosine * cosine


def _summary(entry: dict[str, Any]) -> dict[str, Any]:
    steps = entry["steps"]
    mean = entry["sum"] / steps
    variance = max(0.0, entry["squares"] / steps - mean * mean)
    return {
        "steps": steps,
        "conflict": entry["negative"] / steps,
        "cosine": mean,
        "error": math.sqrt(variance / max(1, steps - 1)),
    }


def _verdict(pairs: dict[str, Any], tasks: dict[str, Any]) -> str:
    def lowest(entries: dict[str, Any]) -> str:
        return min(entries, key=lambda name: entries[name]["cosine"])

    def negative(entry: dict[str, Any]) -> bool:
        return bool(entry["cosine"] + SURE * entry["error"] < 0)

    worst, task = lowest(pairs), lowest(tasks)
    pair, harm = pairs[worst], tasks[task]
    facts = (
        f"gradients of {worst.replace(',', ' and ')} conflict in {pair['conflict']:.0%}"
        f" of {count_of(pair['steps'], 'measured step')} (mean cosine"
        f" {pair['cosine']:+.3f} +- {pair['error']:.3f}, the lowest of all pairs; 50% and 0 mean "
        "no relation);"
        f" the plain sum would have raised the loss of {task} in {harm['conflict']:.0%} of steps: "
    )
    if pair["steps"] < FEWEST:
        return facts + "too few steps to say whether balancing had anything to gain"
    if negative(harm):
        return facts + f"on average it goes against {task}, and balancing had much to gain"
    if negative(pair):
        return (
            facts
            + "tasks do pull apart, but the sum helps all of them on average, and balancing had "
            "something to gain"
        )
    return facts + "no two tasks pull apart on average, and balancing had little to gain"
