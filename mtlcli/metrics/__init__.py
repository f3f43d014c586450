"""The metrics: pure functions from predictions and references to scores, each with a description
that is cheap to read.

Metrics are found by folder: the first look imports the modules of this package, and what other
packages offer as entry points of the group `mtlcli.metrics`; each registers its functions with
`metric`. They import numpy and scikit-learn inside the functions that use them. Metrics of the
package `evaluate` are named `evaluate:NAME`; `outside.py` loads and calls them. All scores that are
averaged over tasks are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, TypeVar

from mtlcli.errors import UserError
from mtlcli.registry import load_entry_points, suggest

OUTSIDE = "evaluate:"
"""The prefix of the names of metrics of the package `evaluate`."""
F = TypeVar("F", bound=Callable[..., dict[str, float]])


@dataclass(frozen=True)
class Entry:
    """The description of one metric."""

    function: Callable[..., dict[str, float]]
    """The function that computes the metric from predictions and references."""
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
    packages: tuple[str, ...] = ()
    """The packages that the function imports and that are installed with the extra `generation`."""
    signature: Callable[..., str] | None = None
    """Returns what has to be known to compute the same score elsewhere: versions and settings."""


_registered: dict[str, Entry] = {}


def metric(
    name: str,
    *task_types: str,
    keys: tuple[str, ...] = (),
    optional_keys: tuple[str, ...] = (),
    rises: bool = True,
    packages: tuple[str, ...] = (),
    signature: Callable[..., str] | None = None,
    **options: str,
) -> Callable[[F], F]:
    """Return a decorator for the function of metric `name`, with the fields of `Entry`. `keys`: by
    default the name alone."""

    def add(function: F) -> F:
        if name in _registered:
            raise ValueError(f"metric '{name}' is registered twice; choose another name")
        _registered[name] = Entry(
            function,
            task_types,
            keys or (name,),
            optional_keys,
            options,
            rises,
            packages,
            signature,
        )
        return function

    return add


@cache
def table() -> dict[str, Entry]:
    """Return the description of every metric by name."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    load_entry_points("mtlcli.metrics")
    return _registered


def metric_names(task_type: str | None = None) -> list[str]:
    """Return the names of all metrics, or of the metrics that take the predictions of a task
    type."""
    return [
        name
        for name, entry in table().items()
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
    if name not in table():
        raise UserError(f"unknown metric '{name}'", fix=suggest_metric(name))
    return table()[name]


def keys(name: str) -> list[str]:
    """Return the keys of the metric's result, the main one first."""
    return [*entry(name).keys, *entry(name).optional_keys]


def main_key(name: str) -> str:
    """Return the key of the main score in the metric's result."""
    return entry(name).keys[0]


def signature(name: str) -> str | None:
    """Return what has to be known to compute a metric's score elsewhere, if it says so."""
    if name.startswith(OUTSIDE) or (sign := entry(name).signature) is None:
        return None
    return sign(**entry(name).options)


def absent_packages(name: str) -> list[str]:
    """Return the packages that a metric needs and that are not installed."""
    packages = () if name.startswith(OUTSIDE) else entry(name).packages
    return [package for package in packages if find_spec(package) is None]


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
    described = entry(name)
    return described.function(predictions, references, **described.options, **options)
