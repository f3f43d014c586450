"""Everything about a run that changes during training, except for weights and optimiser moments:
`state.json` of a checkpoint.

The orders of data, the plans of steps and dropout are pure functions of the seed, the step and
these counters, so no state of a random generator has to be saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mtlcli.training.step import Outcome
from mtlcli.training.task_batch import TaskBatch

T = TypeVar("T")


@dataclass
class Totals:
    """Counts over steps."""

    examples: int = 0
    """The number of examples trained on."""
    tokens: int = 0
    """The number of tokens trained on, without padding."""
    padded: int = 0
    """The number of tokens that went through the model on rank 0, with padding."""
    padding: int = 0
    """The number of padding tokens among them."""
    seconds: float = 0.0
    """The time spent in steps, without evaluation and saving."""

    def add(self, batches: Mapping[str, TaskBatch], padded: int, seconds: float) -> None:
        """Add a step that took `seconds` and put `padded` tokens through the model on this rank."""
        for batch in batches.values():
            self.examples += batch.examples
            self.tokens += batch.tokens
            self.padding -= batch.own_tokens
        self.padded += padded
        self.padding += padded
        self.seconds += seconds

    @property
    def throughput(self) -> dict[str, float]:
        """Return the examples and tokens per second of training, and the share of padding among all
        tokens."""
        seconds = max(self.seconds, 1e-9)
        return {
            "examples_per_s": round(self.examples / seconds, 2),
            "tokens_per_s": round(self.tokens / seconds, 1),
            "padding": round(self.padding / max(self.padded, 1), 4),
        }


@dataclass
class Window:
    """Counts and sums since the last metrics row."""

    totals: Totals = field(default_factory=Totals)
    """Counts over the steps of the window."""
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """For each task in these steps: the sum of its losses, the number of steps, the newest weight,
    the number of examples."""
    gradients: dict[str, Any] | None = None
    """The norms of the tasks' shared gradients and the cosines between them, from the newest step
    in which they were measured."""

    def add(
        self,
        batches: Mapping[str, TaskBatch],
        losses: Mapping[str, float],
        outcome: Outcome,
        seconds: float,
    ) -> None:
        """Add a step that took `seconds`. `losses`: the mean loss of each task."""
        self.totals.add(batches, outcome.padded, seconds)
        for name, batch in batches.items():
            entry = self.tasks.setdefault(
                name, {"loss": 0.0, "steps": 0, "weight": 0.0, "examples": 0}
            )
            entry["loss"] += losses[name]
            entry["steps"] += 1
            entry["weight"] = outcome.weights[name]
            entry["examples"] += batch.examples
        if outcome.gram is not None:
            # Leave out a task of importance 0 without a gradient: the balance does not include it.
            squares = outcome.gram.diagonal().tolist()
            there = [
                place
                for place, name in enumerate(batches)
                if squares[place] or outcome.weights[name]
            ]
            gram = outcome.gram[there][:, there]
            norms = gram.diagonal().clamp(min=0).sqrt()
            cosines = gram / (norms[:, None] * norms).clamp(min=1e-300)
            self.gradients = {
                "tasks": [list(batches)[place] for place in there],
                "norms": norms.tolist(),
                "cosines": cosines.tolist(),
            }

    def row(self) -> dict[str, Any]:
        """Return the window's part of a metrics row."""
        tasks = {
            name: {
                "loss": entry["loss"] / entry["steps"],
                "weight": entry["weight"],
                "examples": entry["examples"],
            }
            for name, entry in self.tasks.items()
        }
        return {"tasks": tasks, "gradients": self.gradients, **self.totals.throughput}


@dataclass
class Stage:
    """The stage that a run is in; most runs have one."""

    number: int = 0
    """The number of the stage, from 0."""
    begin: int = 0
    """The step before which the stage began."""
    best: float | None = None
    """The best average score of the stage's tasks so far."""
    stale: int = 0
    """The number of evaluations since the best score."""


@dataclass
class TrainState:
    """The progress of a run. All values are JSON, and JSON preserves them to the bit."""

    step: int = 0
    """The number of steps so far, including those left out."""
    positions: dict[str, int] = field(default_factory=dict)
    """The number of batches drawn so far from each task's stream, through all epochs."""
    evaluated: int | None = None
    """The step of the newest evaluation."""
    best_score: float | None = None
    """The best average score so far."""
    best_step: int | None = None
    """The step of the best average score."""
    best: dict[str, Any] = field(default_factory=dict)
    """The results of the evaluation with the best average score."""
    stale: int = 0
    """The number of evaluations since the best one."""
    stage: Stage = field(default_factory=Stage)
    """The present stage."""
    skipped: int = 0
    """The number of steps left out because a number was not finite."""
    totals: Totals = field(default_factory=Totals)
    """Counts since the start."""
    window: Window = field(default_factory=Window)
    """The counts and sums for the next metrics row."""
    weighting: dict[str, Any] = field(default_factory=dict)
    """The state of the weighting method."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """The state of the present stage's sampling policy."""
    plateau: dict[str, Any] = field(default_factory=dict)
    """For each task whose learning rate follows its progress: the best score, the evaluations since
    then, and the factor."""
    conflicts: dict[str, Any] = field(default_factory=dict)
    """Counts of conflicts between the tasks' gradients."""
    affinity: dict[str, Any] = field(default_factory=dict)
    """Sums of the measured affinities between tasks."""

    def note_results(self, results: dict[str, Any]) -> None:
        """Record an evaluation. Without a score (no labelled split) the newest evaluation counts as
        the best."""
        score = results["average"]
        self.evaluated = self.step
        if score is None or self.best_score is None or score > self.best_score:
            self.best_score, self.best_step, self.best, self.stale = score, self.step, results, 0
        else:
            self.stale += 1

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainState:
        """Return the state from the values of `to_json`. Raises ValueError, which names the value,
        when the values are something else."""
        return _from_json(cls, values, "")


def _from_json(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from the values of `asdict`. No value is converted: a number stored as text
    is an error."""
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.')} holds no values")
    hints = get_type_hints(kind)
    for name in (*hints, *values):
        if name not in values or name not in hints:
            raise ValueError(f"{where}{name} is {'missing' if name in hints else 'not known'}")
    fields = {}
    for name, hint in hints.items():
        if isinstance(hint, type) and is_dataclass(hint):
            fields[name] = _from_json(hint, values[name], f"{where}{name}.")
        elif _is_a(values[name], hint):
            fields[name] = values[name]
        else:
            raise ValueError(f"{where}{name} cannot be {str(values[name])[:40]!r}")
    return kind(**fields)


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has a type. Whole numbers are counts here, so negative ones do
    not fit."""
    if isinstance(hint, UnionType):
        return any(_is_a(value, member) for member in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(
            _is_a(inner, get_args(hint)[1]) for inner in value.values()
        )
    if hint is int:
        return type(value) is int and value >= 0
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or isinstance(value, NoneType if hint is None else hint)
