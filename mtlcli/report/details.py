"""What the page shows of single tasks: confusion, calibration, slices, the hardest rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from mtlcli.metrics import compute
from mtlcli.report.comparison import Comparison
from mtlcli.report.finished import Finished
from mtlcli.report.methods import Method
from mtlcli.report.resampled import ROW_MEANS

MOST_CLASSES = 30
"""The most classes of a confusion matrix."""
BINS = 10
"""The number of bins of a calibration curve, of equal width (Guo et al. 2017)."""
LEAST = 20
"""The fewest rows of a slice."""
HARDEST = 10
"""The number of rows that are shown as the hardest."""

Row = dict[str, Any]


def has_classes(run: Finished, task: str) -> bool:
    """Return whether a row of the task has one of a few classes."""
    rows = run.predictions(task).rows
    return "label" in rows[0] and 1 < len(run.tasks[task].classes) <= MOST_CLASSES


def confusion(method: Method, task: str) -> list[Row]:
    """Return a cell for each pair of classes: the share of the rows with the one label that were
    given the other, and how many rows these are, over all seeds."""
    counts: Counter[tuple[str, str]] = Counter()
    for run in method.of(task):
        counts.update((row["gold"], row["label"]) for row in run.predictions(task).rows)
    labels = list(method.of(task)[0].tasks[task].classes)
    there = {label: sum(counts[label, other] for other in labels) for label in labels}
    return [
        {
            "label": gold,
            "predicted": found,
            "rows": counts[gold, found],
            "share": counts[gold, found] / there[gold] if there[gold] else 0.0,
            "method": method.label,
        }
        for gold in labels
        for found in labels
    ]


def calibration(method: Method, task: str) -> tuple[list[Row], float] | None:
    """Return, for bins of the probability of the class that was chosen, the share of right ones
    among all seeds, and the expected calibration error (Naeini et al. 2015); None where predictions
    have no probabilities."""
    rows = [row for run in method.of(task) for row in run.predictions(task).rows]
    if "probabilities" not in rows[0] or "label" not in rows[0]:
        return None
    sure = np.array([row["probabilities"][row["label"]] for row in rows])
    right = np.array([row["label"] == row["gold"] for row in rows], float)
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    found, error = [], 0.0
    for place in range(BINS):
        inside = places == place
        if not inside.any():
            continue
        mean, share = float(sure[inside].mean()), float(right[inside].mean())
        error += inside.mean() * abs(mean - share)
        found.append(
            {"probability": mean, "right": share, "rows": int(inside.sum()), "method": method.label}
        )
    return found, float(error)


def slices(comparison: Comparison, task: str) -> list[tuple[str, int, dict[str, float]]]:
    """Return the scores of parts of a task's validation rows, means over seeds: (part, number of
    rows, label of a method -> score). The parts are thirds by length, labels, and files where rows
    come from several.

    A row with one class counts by accuracy, since other scores of a part with a single label say
    little; others by the main metric.
    """
    first = comparison.baseline.of(task)[0]
    rows = first.predictions(task).rows
    words = np.array([row.get("words", 0) for row in rows])
    low, high = np.quantile(words, [1 / 3, 2 / 3])
    parts: dict[str, list[int]] = {}

    def put(name: str, row: int) -> None:
        parts.setdefault(name, []).append(row)

    for number, count in enumerate(words.tolist()):
        if low < high:
            part = "short" if count <= low else "middle" if count <= high else "long"
            put(f"{part} (up to {low:.0f} words)" if part == "short" else part, number)
    for number, row in enumerate(rows):
        if has_classes(first, task):
            put(f"label {row['gold']}", number)
        if "file" in row:
            put(f"file {row['file']}", number)
    order = sorted(parts, key=lambda name: (not name.startswith(("short", "middle", "long")), name))
    lengths = [
        name for part in ("short", "middle", "long") for name in order if name.startswith(part)
    ]
    names = lengths + [name for name in order if name not in lengths]
    return [
        (
            name,
            len(parts[name]),
            {
                method.label: float(
                    np.mean([_part_score(run, task, parts[name]) for run in method.of(task)])
                )
                for method in comparison.methods
                if task in method.tasks
            },
        )
        for name in names
        if len(parts[name]) >= LEAST
    ]


def slice_metric(run: Finished, task: str) -> str:
    """Return the key of the score that slices have."""
    return "accuracy" if has_classes(run, task) else run.main(task)[1]


def _part_score(run: Finished, task: str, places: list[int]) -> float:
    predictions = run.predictions(task)
    rows = [predictions.rows[place] for place in places]
    if has_classes(run, task):
        return float(np.mean([row["label"] == row["gold"] for row in rows]))
    metric, key = run.main(task)
    gold = [predictions.references[place] for place in places]
    return compute(metric, references=gold, **run.inputs(task, metric, rows))[key]


def _fault(run: Finished, task: str) -> Callable[[int], float] | None:
    """Return how wrong a run is about a row: 1 minus the probability of its label (0 or 1 without
    probabilities), the distance from its score, or 1 minus its own score; None for tasks whose rows
    have none of these."""
    predictions = run.predictions(task)
    rows, first = predictions.rows, predictions.rows[0]
    if "label" in first:
        return lambda row: (
            1 - rows[row]["probabilities"].get(rows[row]["gold"], 0.0)
            if "probabilities" in rows[row]
            else float(rows[row]["label"] != rows[row]["gold"])
        )
    if "score" in first and isinstance(first["gold"], int | float):
        return lambda row: abs(rows[row]["score"] - rows[row]["gold"])
    metric, key = run.main(task)
    if metric in ROW_MEANS:
        inputs = run.inputs(task, metric, rows)
        found = inputs.pop("predictions")
        gold = predictions.references
        return lambda row: 1 - compute(metric, [found[row]], [gold[row]], **inputs)[key]
    return None


def hardest(comparison: Comparison, task: str) -> list[Row]:
    """Return the rows about which all runs together are most wrong: number, id, label, what each
    method's first seed predicted, and the texts where a file of predictions holds them."""
    runs = [run for method in comparison.methods for run in method.of(task)]
    faults = [_fault(run, task) for run in runs]
    known = [fault for fault in faults if fault is not None]
    if not known:
        return []
    rows = comparison.baseline.of(task)[0].predictions(task).rows
    every = [run.predictions(task).rows for run in runs]
    texts = next((each for each in every if "texts" in each[0]), rows)
    mean = [float(np.mean([fault(row) for fault in known])) for row in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda row: -mean[row])[:HARDEST]
    return [
        {
            "row": rows[place]["row"],
            "id": rows[place].get("id"),
            "gold": rows[place]["gold"],
            "fault": mean[place],
            "predictions": {
                method.label: _shown(method.of(task)[0].predictions(task).rows[place])
                for method in comparison.methods
                if task in method.tasks
            },
            "texts": texts[place].get("texts", {}),
        }
        for place in order
    ]


def _shown(row: Row) -> str:
    """Return a prediction in short."""
    if "label" in row:
        sure = row.get("probabilities", {}).get(row["label"])
        return str(row["label"]) + (f" ({sure:.2f})" if sure is not None else "")
    if "text" in row:
        return str(row["text"])
    return f"{row['score']:.3g}" if isinstance(row.get("score"), float) else ""
