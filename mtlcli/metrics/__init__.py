"""The metrics: a table that is cheap to read, and pure functions in `scores.py` and `answers.py`
that compute them.

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
"""The prefix of the names of metrics of the package `evaluate`."""


@dataclass(frozen=True)
class Entry:
    """The description of one metric."""

    function: str
    """The function that computes the metric, as `module:function` below this package."""
    task_types: tuple[str, ...]
    """The task types whose predictions the metric takes."""
    keys: tuple[str, ...]
    """The keys of the result; the first is that of the main score."""
    optional_keys: tuple[str, ...] = ()
    """The keys that the result lacks when no example counts towards them."""
    options: dict[str, str] = field(default_factory=dict)
    """The arguments with which the function computes this metric."""
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
    """Return the names of all metrics, or of the metrics that take the predictions of a task
    type."""
    return [
        name
        for name, entry in METRICS.items()
        if task_type is None or task_type in entry.task_types
    ]


def suggest_metric(name: str, task_type: str | None = None) -> str:
    """Return the advice for an unknown metric name: the nearest name and the choices. The order of
    the parts of a name does not matter: `Macro-F1` is near to `f1_macro`."""
    names = metric_names(task_type)
    words = sorted(name.lower().replace("-", "_").split("_"))
    return suggest(
        next((known for known in names if sorted(known.split("_")) == words), name), names
    )


def entry(name: str) -> Entry:
    """Return the description of the metric `name`. Raises UserError with the nearest name when
    there is no such metric."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'", fix=suggest_metric(name))
    return METRICS[name]


def keys(name: str) -> list[str]:
    """Return the keys of the metric's result, the main one first."""
    return [*entry(name).keys, *entry(name).optional_keys]


def main_key(name: str) -> str:
    """Return the key of the main score in the metric's result."""
    return entry(name).keys[0]


def compute(
    name: str, predictions: Sequence[Any], references: Sequence[Any], **options: Any
) -> dict[str, float]:
    """Return the scores of `predictions` against as many `references`, by key.

    The function of each metric documents the form of its inputs and its options. Raises ValueError
    for empty or unequal inputs.
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
