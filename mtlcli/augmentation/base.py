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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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

    def penalty(self, model: MultiTaskModel) -> Tensor | None:
        """Return a loss that is added once a step, whatever tasks are in it, or None."""
        return None

    @abstractmethod
    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        """Return what the model gives for a batch of `task` in training, with the loss that is
        trained: normalised as that of `MultiTaskModel.forward`."""


class Earlier(Protocol):
    """What is asked about earlier tasks before the first step of a run, when the model has the
    weights that the run begins with."""

    names: list[str]
    """The earlier tasks."""
    new: str
    """The task that is learned now."""

    def rows(self, task: str, count: int) -> Iterator[Batch]:
        """Yield train rows of a task, `count` at most, each as a batch of its own."""
        ...

    def outputs(self, task: str) -> Tensor:
        """Return what the head of an earlier task gives for the train rows of the new task:
        (features, outputs), fp32, in host memory."""
        ...


class Keeper(Augmentation):
    """Base class of augmentations that keep earlier tasks from being forgotten."""

    def acts_on(self, task: str) -> bool:
        """Return whether the training of a task is augmented."""
        return False

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        """Return what the model gives for a batch, as it is."""
        return model.output(task, batch, model.encoded(task, batch))

    @abstractmethod
    def look(self, model: MultiTaskModel, earlier: Earlier) -> dict[str, Tensor]:
        """Return what has to be kept, in host memory; the run folder holds it from then on."""

    @abstractmethod
    def keep(self, kept: dict[str, Tensor], earlier: Earlier, device: torch.device) -> None:
        """Take what `look` has returned, in this or in an earlier process of the run."""


def no_augmentation(config: Any) -> None:
    """Return None: nothing stands in the place of the forward pass."""
