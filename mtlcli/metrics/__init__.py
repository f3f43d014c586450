"""The metrics: a table that is cheap to read, and pure functions that compute, in `scores.py` and
`answers.py`.

Metrics of the package `evaluate` are named `evaluate:NAME`; `outside.py` loads and calls them. All
scores that are averaged over tasks are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from mtlcli.errors import UserError
from mtlcli.registry import suggest

OUTSIDE = "evaluate:"
"""What the names of metrics of the package `evaluate` begin with."""


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
    options: dict[str, str] = field(default_factory=dict)
    """Arguments of the function that make it this metric."""
    rises: bool = True
    """Whether better predictions have higher scores."""


METRICS: dict[str, Entry] = {
    "accuracy": Entry("scores:accuracy", ("classification",), ("accuracy",)),
    **{
        name + (f"_{average}" if average else ""): Entry(
            f"scores:{name}",
            ("classification",),
            (name + (f"_{average}" if average else ""),),
            options={"average": average} if average else {},
        )
        for name in ("f1", "precision", "recall")
        for average in ("", "macro", "micro")
    },
    "matthews": Entry("scores:matthews", ("classification",), ("matthews",)),
    "pearson": Entry("scores:pearson", ("regression",), ("pearson",)),
    "spearman": Entry("scores:spearman", ("regression",), ("spearman",)),
    "mae": Entry("scores:mae", ("regression",), ("mae",), rises=False),
    "rmse": Entry("scores:rmse", ("regression",), ("rmse",), rises=False),
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
    return [
        name
        for name, entry in METRICS.items()
        if task_type is None or task_type in entry.task_types
    ]


def suggest_metric(name: str, task_type: str | None = None) -> str:
    """The nearest name and the choices, also for the words of a name in another order: `Macro-F1`
    is near to `f1_macro`."""
    names = metric_names(task_type)
    words = sorted(name.lower().replace("-", "_").split("_"))
    return suggest(
        next((known for known in names if sorted(known.split("_")) == words), name), names
    )


def entry(name: str) -> Entry:
    """The metric called `name`. Raises UserError with the nearest name when there is none."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'", fix=suggest_metric(name))
    return METRICS[name]


def keys(name: str) -> list[str]:
    """The keys of the metric's result, the main one first."""
    return [*entry(name).keys, *entry(name).optional_keys]


def main_key(name: str) -> str:
    """The key of the one number that stands for the metric."""
    return entry(name).keys[0]


def compute(
    name: str, predictions: Sequence[Any], references: Sequence[Any], **options: Any
) -> dict[str, float]:
    """The scores of `predictions` against `references`, as many of each, by key.

    The forms that a metric takes and its options are told by its function. Raises ValueError for
    empty or unequal inputs.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"{name} got {len(predictions)} predictions for {len(references)} references"
        )
    if not len(references):
        raise ValueError(f"{name} got no examples")
    if name.startswith(OUTSIDE):
        from mtlcli.metrics.outside import compute_outside

        return compute_outside(name, predictions, references)
    module, _, function = entry(name).function.partition(":")
    computes = getattr(import_module(f"{__name__}.{module}"), function)
    result: dict[str, float] = computes(predictions, references, **entry(name).options, **options)
    return result
