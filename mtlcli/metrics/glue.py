"""The average that the GLUE benchmark itself reports (Wang et al. 2019): the mean over tasks of the
mean over each task's metrics."""

from __future__ import annotations

from typing import Any

METRICS = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy", "accuracy/validation_mismatched"),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}
"""The metrics of each task, as keys of results.json. MNLI has one metric on two splits."""
BESIDE = {"wnli", "ax"}
"""Tasks of GLUE that may be missing: WNLI is often left out, and the diagnostics (ax) are not part
of the average."""


def glue_average(tasks: dict[str, Any]) -> float | None:
    """Return GLUE's average of the scores of results.json, 0 to 1; None when the tasks are not
    those of GLUE, or when a score is missing."""
    if not set(METRICS) - BESIDE <= tasks.keys() <= set(METRICS) | BESIDE:
        return None
    scores = [
        [entry["metrics"].get(key) for key in METRICS[name]]
        for name, entry in tasks.items()
        if name in METRICS
    ]
    if any(score is None for each in scores for score in each):
        return None
    return sum(sum(each) / len(each) for each in scores) / len(scores)
