"""The metrics: a table that is cheap to read, pure functions that compute, and one `evaluate.Metric` module each.

`<name>.py` is the metric as an `evaluate.Metric` module. It wraps a plain function of `scores.py` or `answers.py`, and `compute`
calls that function directly, because importing evaluate takes seconds. All scores are fractions, so that tasks can be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mtlcli.errors import UserError
from mtlcli.registry import suggest

if TYPE_CHECKING:
    import evaluate


@dataclass(frozen=True)
class Entry:
    """One metric."""

    function: str
    """`module:function` below this package."""
    task_types: tuple[str, ...]
    """Task types whose predictions it takes."""
    keys: tuple[str, ...]
    """Keys of its result; the first is the main score."""
    optional_keys: tuple[str, ...] = ()
    """Keys that are left out when no example has a part in them."""


METRICS: dict[str, Entry] = {
    "accuracy": Entry("scores:accuracy", ("classification",), ("accuracy",)),
    "f1": Entry("scores:f1", ("classification",), ("f1",)),
    "matthews": Entry("scores:matthews", ("classification",), ("matthews",)),
    "pearson": Entry("scores:pearson", ("regression",), ("pearson",)),
    "spearman": Entry("scores:spearman", ("regression",), ("spearman",)),
    "squad": Entry("answers:squad", ("span",), ("f1", "exact_match")),
    "squad_v2": Entry(
        "answers:squad_v2",
        ("span",),
        ("f1", "exact_match", "best_f1", "best_f1_thresh", "best_exact", "best_exact_thresh"),
        ("HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact"),
    ),
}


def metric_names(task_type: str | None = None) -> list[str]:
    """Names of the metrics, or of those that take the predictions of a task type."""
    return [name for name, entry in METRICS.items() if task_type is None or task_type in entry.task_types]


def entry(name: str) -> Entry:
    """The metric called `name`. Raises UserError with the nearest name when there is none."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'", fix=suggest(name, METRICS))
    return METRICS[name]


def keys(name: str) -> list[str]:
    """The keys of the metric's result, the main one first."""
    return [*entry(name).keys, *entry(name).optional_keys]


def main_key(name: str) -> str:
    """The key of the one number that stands for the metric."""
    return entry(name).keys[0]


def compute(name: str, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
    """The scores of `predictions` against `references`, as many of each, by key.

    The forms that a metric takes and its options are told by its function. Raises ValueError for empty or unequal inputs.
    """
    module, _, function = entry(name).function.partition(":")
    if len(predictions) != len(references):
        raise ValueError(f"{name} got {len(predictions)} predictions for {len(references)} references")
    if not len(references):
        raise ValueError(f"{name} got no examples")
    result: dict[str, float] = getattr(import_module(f"{__name__}.{module}"), function)(predictions, references, **options)
    return result


def load(name: str) -> evaluate.Metric:
    """The metric as an `evaluate.Metric` that keeps its data in memory and leaves no file behind. Imports evaluate, which takes seconds."""
    import tempfile

    entry(name)
    module: Any = import_module(f"{__name__}.{name}")
    class_name = name.title().replace("_", "")
    with tempfile.TemporaryDirectory() as folder:  # evaluate makes a folder even when everything stays in memory
        metric: evaluate.Metric = getattr(module, class_name)(keep_in_memory=True, cache_dir=folder)
    return metric
