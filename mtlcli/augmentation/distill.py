"""Distillation: the run learns from the outputs of trained models as well as from the labels.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; for several tasks, with teacher
annealing: Clark et al. 2019, "BAM! Born-Again Multi-Task Networks for Natural Language
Understanding". For an input x with the label y, the output s of the model and the output t of the
teacher, the loss is

    gold L(y, s) + (1 - gold) D(t, s)

    classes   D = T^2 KL(softmax(t / T) || softmax(s / T))
    labels    D = the mean over labels of T^2 KL(sigmoid(t / T) || sigmoid(s / T))
    numbers   D = (t - s)^2

Under teacher annealing, `gold` grows linearly from 0 in the first step to 1 in the last.

- BAM mixes the labels, gold y + (1 - gold) t, and takes the loss of the mixture. Its gradient is
  that of the loss here at T = 1, since cross entropies are linear in the label, and squared errors
  of a mixture differ from the mixture of squared errors by what does not depend on s. A divergence
  is the cross entropy less the entropy of t, so it is 0 where the model agrees with its teacher.
- The mean of D is taken over all inputs, without class weights; also over those without a label.
- The teachers' outputs for the train rows are computed once, before the first step, without dropout
  and with the teachers' own tokenizers; the run keeps them in `teachers.safetensors`. Words that
  are changed in training (`augment`) are changed for the student alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.augmentation.base import Augmentation
from mtlcli.config.augmentation import Augmenting, augmentations
from mtlcli.config.section import section
from mtlcli.config.task import Task
from mtlcli.data.features import TEACHER
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config
    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput


@augmentations.register("distill", "Distill")
@section
class DistillAugmentation(Augmenting):
    """Learn from the outputs of trained runs as well as from the labels (Hinton et al. 2015; Clark
    et al. 2019, BAM).

    When it helps: a small model for use that comes closer to larger ones, or one model in the place
    of a model for each task.

    Cost: one pass of the teachers over the train rows before the first step; then as without it.
    """

    draws: ClassVar[bool] = False
    """False, because there is nothing to draw."""
    several_passes: ClassVar[bool] = False
    """False, because the teachers' outputs are known before the first step."""
    name: Literal["distill"] = "distill"
    """Augmentation."""
    teachers: list[str] = field(default_factory=list)
    """Run folders, or checkpoints of them. Each teaches the tasks that it shares with the run, by
    name."""
    gold: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of the labels in the loss; null: it grows linearly from 0 in the first step to 1 in the
    last (teacher annealing)."""
    temperature: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Divisor of the logits of classes and labels, of teacher and student, before they are
    compared."""

    def unfit(self, task: Task) -> str | None:
        if task.compares:
            return None
        return (
            f"distillation compares one output for each row, of classes, labels or numbers, and "
            f"its type is {task.type}"
        )

    def other_runs(self) -> list[str]:
        return self.teachers

    def problems(self, config: Config) -> Iterator[Problem]:
        yield from super().problems(config)
        if not self.teachers:
            yield Problem(
                "augmentation=distill needs a run to learn from",
                "augmentation.teachers",
                "name one or several, 'augmentation.teachers=[RUN]'",
            )


class Distill(Augmentation):
    """A loss between the outputs of the model and those of its teachers."""

    gold = 0.0
    """The share of the labels in the loss of the present step."""

    def begin_step(self, step: int, steps: int) -> None:
        fixed = self.config.gold
        self.gold = step / max(1, steps - 1) if fixed is None else fixed

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        from mtlcli.models.multitask import TaskOutput

        encoded, kind = model.encoded(task, batch), model.tasks[task]
        outputs = model.head_outputs(task, batch, encoded)
        gold = kind.loss(outputs, batch) / batch.denominator
        apart = kind.distance(outputs, batch.columns[TEACHER], self.config.temperature)
        loss = self.gold * gold + (1 - self.gold) * apart / batch.examples
        return TaskOutput(model.with_batch_loss(loss, batch, encoded), outputs)
