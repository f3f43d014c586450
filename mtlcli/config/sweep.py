"""How `mtl train -m` chooses the values of its jobs: all combinations, or a search in a space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import suggest

RANGE = ("low", "high", "log", "step")
"""The keys of a range of numbers in a space."""
NOT_SEARCHED = ("run_dir", "resume", "allow", "data.folds", "data.fold", "sweep", "hydra")
"""Keys and sections about the place of a search and the way to run it, not about its trials."""


@section
class Sweep:
    """How `mtl train -m` chooses the values of its jobs."""

    name: Literal["grid", "random", "optuna"] = "grid"
    """`grid`: every combination of the values that keys are given on the command line. `random`:
    each trial draws its values from `space`. `optuna`: the values come from a model of the scores
    so far (tree-structured Parzen estimator, Bergstra et al. 2011)."""
    space: dict[str, Any] = field(default_factory=dict)
    """Key -> what a search chooses its value from: a list of values, or a range `{low: X, high: Y}`
    with both ends, `log: true` for equal chances of equal factors, and `step: Z`."""
    trials: Annotated[int, Gt(0), Le(100_000)] = 20
    """Number of trials of a search, over all its processes and all times that it is resumed."""
    folds: Annotated[int, Ge(2), Le(100)] | None = None
    """Score a trial by the mean over this many folds of the train split, a run for each. The best
    configuration is then trained on all of train and scored once on validation, which the search
    has not read. Null: a trial is one run, scored on validation."""
    objectives: list[str] = field(default_factory=list)
    """Tasks whose main scores are searched for together, which gives a Pareto set; empty: the
    average over tasks."""
    prune_after: Annotated[int, Gt(0), Le(100_000)] | None = None
    """Once this many trials have finished, stop a trial whose best average so far is below the
    median of the earlier trials at the same evaluation, or with `folds` after the same fold
    (Golovin et al. 2017). Null: never."""

    dry_run: bool = False
    """Show the jobs, or the trials, that the command would run, and start nothing."""

    @property
    def searches(self) -> bool:
        """Whether values are chosen from a space."""
        return self.name != "grid"

    def problems(self, tasks: list[str]) -> Iterator[Problem]:
        """Yield what does not fit together. `tasks`: the names of the tasks."""
        if not self.searches:
            for each in fields(self):
                if each.name not in ("name", "dry_run") and getattr(self, each.name) != _default(
                    each
                ):
                    what = "the value has no effect with sweep=grid"
                    yield Problem(what, f"sweep.{each.name}", "type sweep=optuna or sweep=random")
            return
        if find_spec("optuna") is None:
            what = f"sweep={self.name} needs optuna, which is not installed"
            yield Problem(what, "sweep", "type pip install 'mtlcli[search]', or sweep=grid")
        if not self.space:
            yield Problem(
                "there is nothing to search",
                "sweep.space",
                "for example 'sweep.space={optim.lr: {low: 1e-4, high: 1e-2, log: true}}'",
            )
        for key, choice in self.space.items():
            yield from _entry(key, choice)
        for name in self.objectives:
            if name not in tasks:
                fix = suggest(name, tasks)
                yield Problem(f"the run has no task '{name}'", "sweep.objectives", fix)
        if len(set(self.objectives)) < len(self.objectives):
            yield Problem("a task is named twice", "sweep.objectives", "name each task once")
        if len(self.objectives) > 1 and self.prune_after is not None:
            what = "with several objectives no trial is worse than another before both have ended"
            yield Problem(what, "sweep.prune_after", "take it out, or name one objective")


def not_searched(key: str) -> bool:
    """Return whether a key belongs to the place of a search, or the way to run it."""
    return any(key == each or key.startswith((f"{each}.", f"{each}/")) for each in NOT_SEARCHED)


def _default(each: Any) -> Any:
    return each.default_factory() if isinstance(each.default_factory, type) else each.default


def _entry(key: str, choice: Any) -> Iterator[Problem]:
    """Yield what is wrong with an entry of a space."""
    at = f"sweep.space: {key}"
    if not_searched(key):
        yield Problem("is not a value of a single trial", at, "take it out")
    elif isinstance(choice, list):
        if not choice or any(isinstance(value, dict) for value in choice):
            yield Problem("a list holds one or more values", at, f"for example {key}: [A, B]")
    elif not isinstance(choice, dict):
        yield Problem(
            "must be a list of values or a range", at, "for example [A, B] or {low: 1.0, high: 2.0}"
        )
    elif unknown := [name for name in choice if name not in RANGE]:
        yield Problem(f"a range has no '{unknown[0]}'", at, suggest(str(unknown[0]), RANGE))
    else:
        yield from _range(at, choice)


def _range(at: str, choice: dict[str, Any]) -> Iterator[Problem]:
    numbers = {name: choice.get(name) for name in ("low", "high")}
    numbers |= {"step": choice["step"]} if choice.get("step") is not None else {}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield Problem(f"'{name}' must be a number", at, "for example {low: 1.0, high: 2.0}")
            return
    low, high, log = numbers["low"], numbers["high"], choice.get("log", False)
    assert low is not None and high is not None
    if not isinstance(log, bool):
        yield Problem("'log' is true or false", at, "for example log: true")
    elif not low < high:
        yield Problem(f"low={low} is not below high={high}", at, "exchange them")
    elif log and low <= 0:
        yield Problem("with log: true, low must be above 0", at, "raise low, or leave out log")
    elif "step" in numbers and (log or not 0 < numbers["step"] <= high - low):  # type: ignore[operator]
        what = "a step is above 0, at most high - low, and does not go with log"
        yield Problem(what, at, "leave out step, or log")
