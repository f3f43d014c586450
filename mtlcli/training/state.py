"""Everything about a run that changes while it goes on, other than weights and optimiser moments:
`state.json` of a checkpoint.

Orders of data, plans of steps and dropout are pure functions of the seed, the step and these
counters, so there is no generator whose state would have to be saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mtlcli.training.step import Outcome, TaskBatch

T = TypeVar("T")


@dataclass
class Totals:
    """Counts over steps."""

    examples: int = 0
    """Examples trained on."""
    tokens: int = 0
    """Tokens trained on, without padding."""
    padded: int = 0
    """Tokens that went through the model on rank 0, with padding."""
    padding: int = 0
    """Padding among them."""
    seconds: float = 0.0
    """Time spent in steps, evaluation and saving left out."""

    def add(self, batches: Mapping[str, TaskBatch], padded: int, seconds: float) -> None:
        """Add a step that took `seconds` and put `padded` tokens through the model on this rank."""
        for batch in batches.values():
            self.examples += batch.examples
            self.tokens += batch.tokens
            self.padding -= batch.own
        self.padded += padded
        self.padding += padded
        self.seconds += seconds

    @property
    def throughput(self) -> dict[str, float]:
        """Examples and tokens a second of training, and the share of padding among all tokens."""
        seconds = max(self.seconds, 1e-9)
        return {
            "examples_per_s": round(self.examples / seconds, 2),
            "tokens_per_s": round(self.tokens / seconds, 1),
            "padding": round(self.padding / max(self.padded, 1), 4),
        }


@dataclass
class Window:
    """What happened since the last row of metrics.jsonl."""

    totals: Totals = field(default_factory=Totals)
    """Counts over its steps."""
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """For each task met: sum of its losses, number of steps, newest weight, examples."""
    gradients: dict[str, Any] | None = None
    """Norms of the tasks' shared gradients and the cosines between them, of the newest step in
    which they were measured."""

    def add(self, batches: Mapping[str, TaskBatch], outcome: Outcome, seconds: float) -> None:
        """Add a step that took `seconds`."""
        self.totals.add(batches, outcome.padded, seconds)
        for name, batch in batches.items():
            entry = self.tasks.setdefault(
                name, {"loss": 0.0, "steps": 0, "weight": 0.0, "examples": 0}
            )
            entry["loss"] += outcome.losses[name]
            entry["steps"] += 1
            entry["weight"] = outcome.weights[name]
            entry["examples"] += batch.examples
        if outcome.gram is not None:
            # A task of importance 0 that is left out of the balance leaves no gradient.
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
        """Its part of a row of metrics.jsonl."""
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
    """From 0."""
    begin: int = 0
    """Step before which it began."""
    best: float | None = None
    """Best average score of its tasks so far."""
    stale: int = 0
    """Evaluations since then."""


@dataclass
class TrainState:
    """Where a run stands. Everything here is JSON, and survives it to the bit."""

    step: int = 0
    """Updates made so far."""
    positions: dict[str, int] = field(default_factory=dict)
    """Batches that each task's stream has given so far, through all epochs."""
    evaluated: int | None = None
    """Step of the newest evaluation."""
    best_score: float | None = None
    """Best average score so far."""
    best_step: int | None = None
    """Step of the best average score."""
    best: dict[str, Any] = field(default_factory=dict)
    """The results of that evaluation."""
    stale: int = 0
    """Evaluations since the best one."""
    stage: Stage = field(default_factory=Stage)
    """The present stage."""
    skipped: int = 0
    """Steps left out because a number was not finite."""
    totals: Totals = field(default_factory=Totals)
    """Counts since the start."""
    window: Window = field(default_factory=Window)
    """What the next row of metrics.jsonl will tell."""
    weighting: dict[str, Any] = field(default_factory=dict)
    """State of the weighting method."""
    conflicts: dict[str, Any] = field(default_factory=dict)
    """Counts of conflicts between the tasks' gradients."""
    affinity: dict[str, Any] = field(default_factory=dict)
    """Sums of the measured affinities between tasks."""

    def note_results(self, results: dict[str, Any]) -> None:
        """Remember an evaluation. Without a score (no labelled split) the newest counts as the
        best."""
        score = results["average"]
        self.evaluated = self.step
        if score is None or self.best_score is None or score > self.best_score:
            self.best_score, self.best_step, self.best, self.stale = score, self.step, results, 0
        else:
            self.stale += 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainState:
        """What `to_json` gave. Raises ValueError, which names the value, when it is something
        else."""
        return _from_json(cls, values, "")


def _from_json(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from what `asdict` gave. No value is converted: a number that is text is not what
    was saved."""
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
    """Whether a JSON value is of a type. Whole numbers count something here, so none is
    negative."""
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
