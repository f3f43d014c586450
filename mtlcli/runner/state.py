"""Everything about a run that changes while it goes on, other than weights and optimiser moments: `state.json` of a checkpoint.

Orders of data, plans of steps and dropout are pure functions of the seed, the step and these counters, so there is no
generator whose state would have to be saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from mtlcli.runner.step import Outcome, TaskBatch


@dataclass
class TrainState:
    """Counters of a run."""

    step: int = 0
    """Updates made so far."""
    positions: dict[str, int] = field(default_factory=dict)
    """Batches that each task's stream has given so far, through all epochs."""
    best_score: float | None = None
    """Best average score so far."""
    best_step: int | None = None
    """Step of the best average score."""
    stale: int = 0
    """Evaluations since the best one."""
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
    weighting: dict[str, Any] = field(default_factory=dict)
    """State of the weighting method."""
    conflicts: dict[str, Any] = field(default_factory=dict)
    """Counts of conflicts between the tasks' gradients."""
    affinity: dict[str, Any] = field(default_factory=dict)
    """Sums of the measured affinities between tasks."""

    def note_score(self, score: float | None) -> None:
        """Remember an evaluation. Without a score (no labelled split) the newest counts as the best."""
        if score is None or self.best_score is None or score > self.best_score:
            self.best_score, self.best_step, self.stale = score, self.step, 0
        else:
            self.stale += 1

    def count(self, batches: Mapping[str, TaskBatch]) -> None:
        """Add the batches of a step to the counters."""
        for batch in batches.values():
            self.examples += batch.examples
            self.tokens += batch.tokens
            self.padded += batch.padded
            self.padding += batch.padding

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def throughput(self) -> dict[str, float]:
        """Examples and tokens a second of training, and the share of padding among all tokens."""
        seconds = max(self.seconds, 1e-9)
        return {
            "examples_per_s": round(self.examples / seconds, 2),
            "tokens_per_s": round(self.tokens / seconds, 1),
            "padding": round(self.padding / max(self.padded, 1), 4),
        }


class Window:
    """What happened since the last row of metrics.jsonl."""

    def __init__(self) -> None:
        self._counters = TrainState()
        self._losses: dict[str, list[Tensor]] = {}
        self._weights: dict[str, float] = {}
        self._examples: dict[str, int] = {}
        self._gram: tuple[list[str], Tensor] | None = None

    def add(self, batches: Mapping[str, TaskBatch], outcome: Outcome, seconds: float) -> None:
        """Add a step that took `seconds`."""
        self._counters.count(batches)
        self._counters.seconds += seconds
        for name, batch in batches.items():
            self._losses.setdefault(name, []).append(outcome.losses[name])
            self._weights[name] = outcome.weights[name]
            self._examples[name] = self._examples.get(name, 0) + batch.examples
        if outcome.gram is not None:
            self._gram = list(batches), outcome.gram

    def tasks(self) -> dict[str, dict[str, float]]:
        """For each task met: its mean loss over the window's steps, its newest weight, its examples."""
        return {
            name: {
                "loss": sum(loss.item() for loss in losses) / len(losses),
                "weight": self._weights[name],
                "examples": self._examples[name],
            }
            for name, losses in self._losses.items()
        }

    def gradients(self) -> dict[str, Any] | None:
        """Norms of the tasks' shared gradients and the cosines between them, of the newest step in which they were measured."""
        if self._gram is None:
            return None
        names, gram = self._gram
        norms = gram.diagonal().clamp(min=0).sqrt()
        cosines = gram / (norms[:, None] * norms).clamp(min=1e-300)
        return {"tasks": names, "norms": norms.tolist(), "cosines": cosines.tolist()}

    def speed(self) -> dict[str, float]:
        """Throughput within the window."""
        return self._counters.throughput
