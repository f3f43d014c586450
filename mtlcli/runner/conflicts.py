"""What the tasks' gradients say about each other over a run: which pairs conflict, and whether balancing had anything to gain."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from mtlcli.weighting.base import Step, WeightedTask

LITTLE, MUCH = 0.05, 0.25
"""Shares of steps in which the plain sum would have raised some task's loss: below the first, balancing has little to gain;
from the second on, much."""


class Conflicts:
    """Counts over the steps whose Gram matrix was measured, kept in `state` (JSON values, part of the TrainState).

    A pair of tasks conflicts in a step when the inner product of their gradients is negative. A task is harmed when the
    plain sum of importance_t * g_t has a negative inner product with its gradient: to first order, a small step along the
    sum would raise its loss. Conflicts without harm are what a sum copes with.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        for key in ("steps", "harmed"):
            state.setdefault(key, {})
        state.setdefault("pairs", {})

    def add(self, step: Step, tasks: dict[str, WeightedTask]) -> None:
        """Count a step; one without a Gram matrix, or with one task, says nothing."""
        if step.gram is None or len(step.tasks) < 2:
            return
        gram = step.gram.tolist()
        importance = [tasks[name].weight for name in step.tasks]
        for row, name in enumerate(step.tasks):
            along = sum(weight * product for weight, product in zip(importance, gram[row], strict=True))
            self._state["steps"][name] = self._state["steps"].get(name, 0) + 1
            self._state["harmed"][name] = self._state["harmed"].get(name, 0) + (along < 0)
        for (first, one), (second, other) in combinations(enumerate(step.tasks), 2):
            pair = self._state["pairs"].setdefault(f"{one},{other}", {"steps": 0, "conflicts": 0, "cosine": 0.0})
            size = (gram[first][first] * gram[second][second]) ** 0.5
            pair["steps"] += 1
            pair["conflicts"] += gram[first][second] < 0
            pair["cosine"] += gram[first][second] / size if size > 0 else 0.0

    def report(self) -> dict[str, Any] | None:
        """What results.json says: for each pair the share of steps in conflict and the mean cosine, for each task the share of
        steps in which the plain sum would have raised its loss, and the verdict. None when nothing was measured."""
        if not self._state["pairs"]:
            return None
        pairs = {
            name: {"steps": pair["steps"], "conflict": pair["conflicts"] / pair["steps"], "cosine": pair["cosine"] / pair["steps"]}
            for name, pair in self._state["pairs"].items()
        }
        harmed = {name: self._state["harmed"][name] / steps for name, steps in self._state["steps"].items()}
        return {"pairs": pairs, "harmed": harmed, "verdict": _verdict(pairs, harmed)}


def _verdict(pairs: dict[str, Any], harmed: dict[str, float]) -> str:
    worst = max(pairs, key=lambda name: pairs[name]["conflict"])
    task = max(harmed, key=lambda name: harmed[name])
    share = harmed[task]
    gain = "little" if share < LITTLE else "much" if share >= MUCH else "something"
    one, other = worst.split(",")
    return (
        f"gradients of {one} and {other} conflict in {pairs[worst]['conflict']:.0%} of {pairs[worst]['steps']} measured steps"
        f" (mean cosine {pairs[worst]['cosine']:+.2f}), the most of all pairs; the plain sum would have raised the loss of {task}"
        f" in {share:.0%} of steps, the most of all tasks: balancing had {gain} to gain"
    )
