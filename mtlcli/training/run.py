"""The parts of a run, which the trainer puts to work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mtlcli.config import Config, weightings
from mtlcli.config.remarks import crowded
from mtlcli.data.batches import InputFormat, Stream
from mtlcli.data.features import Features, Split
from mtlcli.data.source import DataSource
from mtlcli.distributed.process_group import Ranks
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import count_of
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.rundir.saver import Saver
from mtlcli.tasks.base import TaskType
from mtlcli.trackers.tracking import Tracking
from mtlcli.training.stages import Stages
from mtlcli.training.task_batch import TaskBatch, build_inner_batches, build_task_batch
from mtlcli.weighting.base import WeightedTask, Weighting

VALIDATION_SEED = 500_000_000
"""Added to the seeds of the validation batches, so that they are not those of training batches."""
Watch = Callable[[int, dict[str, Any]], str]
"""A function that is told of each evaluation but the last, its step and its results. It returns the
reason to stop the run there, or an empty text."""


@dataclass
class Run:
    """The parts of a run, built and ready to train."""

    config: Config
    """The resolved config: steps, learning rate and precision are known."""
    model: MultiTaskModel
    """The trunk and the heads, on this rank's device."""
    stages: Stages
    """The stages, which choose the tasks of each step."""
    weighting: Weighting
    """The weighting method, which turns losses or gradients into one update."""
    streams: dict[str, Stream]
    """The order of each trained task's features."""
    train: dict[str, Features]
    """Encoded train splits."""
    splits: dict[str, dict[str, Split]]
    """Validation splits by task."""
    calibration: dict[str, Split]
    """The rows for calibration, of the tasks that need them."""
    input_format: InputFormat
    """The rule by which features become batches."""
    steps: int
    """The number of updates."""
    eval_every: int
    """The number of steps between evaluations."""
    folder: RunFolder
    """The run folder."""
    saver: Saver
    """The writer of checkpoints."""
    console: Console
    """The output to the terminal and log.txt."""
    ranks: Ranks
    """The place of this process among the ranks."""
    interrupt: Interrupt
    """The signals that ask the run to stop."""
    source: DataSource
    """The source of the table rows."""
    watch: Watch | None = None
    """What is told of each evaluation, in a run of one process."""
    tracking: Tracking = field(init=False)
    """The trackers of the run, which work on the first rank."""
    _validation: dict[str, Stream] = field(default_factory=dict)
    """The order of the validation features of tasks whose losses a weighting asks for."""

    def __post_init__(self) -> None:
        self.tracking = Tracking(self.folder, self.console, main=self.ranks.is_main)

    @property
    def sharded(self) -> bool:
        """Whether each rank holds only shards of the parameters."""
        return self.config.runner.engine == "fsdp"

    @property
    def bf16(self) -> bool:
        """Whether matrix products are in bf16."""
        return self.config.runner.precision == "bf16"

    @property
    def max_tokens(self) -> int | None:
        """The number of padded tokens of a task that may go through the model at once on this rank;
        None: no bound."""
        bound = self.config.runner.max_tokens
        return (
            bound // (self.ranks.world_size * self.config.runner.accumulation)
            if isinstance(bound, int)
            else None
        )

    def describe(self) -> Iterator[str]:
        """Yield lines about what the run is going to do, and on what."""
        per_epoch, counts = self.stages.steps_per_epoch, self.model.parameter_counts()
        threads, device = torch.get_num_threads(), self.ranks.device.type
        yield (
            f"{count_of(self.steps, 'step')} ({self.steps / per_epoch:.3g} epochs of "
            f"{per_epoch:,}), lr {self.config.optim.lr:g}, {self.config.runner.precision}, "
            f"{self.ranks.world_size} x {device}, {count_of(threads, 'thread')}, "
            f"{counts['total']:,} parameters, {counts['shared']:,} shared"
        )
        if device == "cpu":
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            yield from crowded(self.config.runner, local, threads)

    def fetch(self, task: str, position: int) -> TaskBatch:
        """Return this rank's share of a batch of a task's stream."""
        given = (self.model.tasks[task], self.train[task], self.streams[task].indices(position))
        options: dict[str, Any] = {
            "input_format": self.input_format,
            "accumulation": self.config.runner.accumulation,
            "ranks": self.ranks,
            "max_tokens": self.max_tokens,
            "in_step": self.sharded,
            "seed": (self.config.seed, position),
        }
        batch = build_task_batch(*given, **options)
        if (count := self.config.weighting.inner_batches) > 1:
            batch.inner = build_inner_batches(*given, count, **options)
        return batch

    def fetch_validation(self, task: str, number: int) -> TaskBatch:
        """Return this rank's share of batch `number` of a task's first validation split, in an
        order that is a function of the seed and the task's place."""
        features = next(iter(self.splits[task].values())).features
        if task not in self._validation:
            self._validation[task] = Stream(
                features.example_lengths,
                sizes=features.example_sizes,
                batch_size=self.model.tasks[task].config.batch_size
                or self.config.runner.batch_size,
                seed=VALIDATION_SEED + self.config.seed * 1000 + list(self.streams).index(task),
            )
        return build_task_batch(
            self.model.tasks[task],
            features,
            self._validation[task].indices(number),
            input_format=self.input_format,
            accumulation=self.config.runner.accumulation,
            ranks=self.ranks,
        )


def build_weighting(config: Config, tasks: Mapping[str, TaskType[Any]]) -> Weighting:
    """Return the weighting method of a run that trains these tasks."""
    weighted = {
        name: WeightedTask(task.config.weight, task.loss_kind) for name, task in tasks.items()
    }
    made: Weighting = weightings.implementation(config.weighting.name)(config.weighting, weighted)
    return made
