"""What augmentations have in common: they stand between a task's batch and its loss.

An augmentation acts in training alone, inside the forward pass of a micro-batch
(`MultiTaskModel.forward`). What it gives is the loss of the task for everything above: weightings
weigh it, its gradient is the gradient of the task. So it needs nothing of a sharing strategy, a
weighting, an engine, or of how often a batch is cut. Its random numbers come from torch's
generator, which each step seeds (see `training.trainer.seed_dropout`).

Changes of the words of a text are made before, when the batch is built: see `tasks/words.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlcli.config.augmentation import Augmenting
    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput


class Augmentation(ABC):
    """Base class of all augmentations."""

    def __init__(self, config: Augmenting) -> None:
        self.config: Any = config

    def acts_on(self, task: str) -> bool:
        """Return whether the training of a task is augmented."""
        tasks: list[str] | None = self.config.tasks
        return tasks is None or task in tasks

    def begin_step(self, step: int, steps: int) -> None:
        """Note that step `step` of `steps`, counted from 0, begins. By default, steps are equal."""

    @abstractmethod
    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        """Return what the model gives for a batch of `task` in training, with the loss that is
        trained: normalised as that of `MultiTaskModel.forward`."""


def no_augmentation(config: Any) -> None:
    """Return None: nothing stands in the place of the forward pass."""
