"""The methods of `mtl merge` and their options. Imports no torch; each method is carried out by the
module of its name in this room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtlcli.config import Task
from mtlcli.errors import Problem


@dataclass(frozen=True)
class Method:
    """What the command has to know about a method."""

    about: str
    """What it does, in one line."""
    options: dict[str, float]
    """Its options, each with its default."""
    needs_base: bool = False
    """Whether it works on task vectors: what training has changed since the initial weights."""
    reads_rows: bool = False
    """Whether it passes rows of the train splits through the models."""


@dataclass(frozen=True)
class Option:
    """An option of one or more methods."""

    about: str
    """What it is."""
    low: float
    """The least value."""
    high: float
    """The largest value."""
    grid: tuple[float, ...] = ()
    """The values that `auto` tries on rows that were kept out of training; empty where the option
    cannot be chosen."""
    whole: bool = False
    """Whether it is a whole number."""


METHODS = {
    "average": Method("the mean of the weights (Wortsman et al. 2022)", {}),
    "task_arithmetic": Method(
        "the initial weights and the sum of the task vectors (Ilharco et al. 2023)",
        {"scale": 0.4},
        needs_base=True,
    ),
    "ties": Method(
        "task vectors without their small and their outvoted numbers (Yadav et al. 2023)",
        {"scale": 1.0, "density": 0.2},
        needs_base=True,
    ),
    "dare": Method(
        "task vectors of which most numbers are dropped at random (Yu et al. 2024)",
        {"scale": 0.4, "density": 0.5, "seed": 0},
        needs_base=True,
    ),
    "fisher": Method(
        "the mean weighted by squared gradients (Matena & Raffel 2022)",
        {"rows": 256, "seed": 0},
        reads_rows=True,
    ),
    "regmean": Method(
        "linear maps whose outputs are closest to those of all runs (Jin et al. 2023)",
        {"rows": 256, "shrink": 0.9, "seed": 0},
        reads_rows=True,
    ),
    "adamerging": Method(
        "learned scales, by which predictions become certain (Yang et al. 2024)",
        {"scale": 0.3, "steps": 100, "lr": 0.001, "rows": 1024, "seed": 0},
        needs_base=True,
        reads_rows=True,
    ),
}

OPTIONS = {
    "scale": Option(
        "factor of the merged task vectors", 0, 10, (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)
    ),
    "density": Option("share of a task vector's numbers that is kept", 0.001, 1, (0.1, 0.2, 0.5)),
    "rows": Option(
        "rows of each run's train splits that are passed through it", 1, 1e7, whole=True
    ),
    "shrink": Option("factor of what a Gram matrix has off its diagonal", 0, 1),
    "steps": Option("updates of the scales", 1, 1e6, whole=True),
    "lr": Option("learning rate of the scales", 1e-9, 10),
    "seed": Option("seed of what is drawn", 0, 2**31, whole=True),
}


def class_problems(tasks: Mapping[str, Task], method: str, at: str) -> list[Problem]:
    """Return the tasks that a method cannot merge, in the form that they have in the run. `at`:
    where the method is typed."""
    if method != "adamerging":
        return []
    return [
        Problem(
            f"task {name} has no classes, whose entropy could be minimised "
            f"(type: {task.type}, form={task.form or 'head'})",
            at,
            "leave the task out, or choose another method",
        )
        for name, task in tasks.items()
        if task.type not in ("classification", "relation") or task.form == "text"
    ]
