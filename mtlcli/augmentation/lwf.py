"""Learning without forgetting: on the texts of the new task, the heads of earlier tasks keep giving
what they gave when the run began.

Li & Hoiem 2016, "Learning without Forgetting". For an input x of the new task with the label y,
with s_k(x) the output of the head of the earlier task k and t_k(x) the same at the beginning, the
loss is

    L(x, y) + strength sum_k D(t_k(x), s_k(x))

    classes   D = T^2 KL(softmax(t / T) || softmax(s / T))       T: the temperature
    labels    D = the mean over labels of T^2 KL(sigmoid(t / T) || sigmoid(s / T))
    numbers   D = (t - s)^2

Differences from the paper: there, D is the cross entropy of the two distributions, without T^2; its
gradient is that of the divergence here divided by T^2. There, the new head is first trained alone
(a warm-up step), for which `optim.unfreeze_every` is the means here. The outputs t are computed
once, before the first step and without dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.augmentation.base import Earlier, Keeper
from mtlcli.config.augmentation import Keeping, augmentations
from mtlcli.config.section import section
from mtlcli.config.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput


@augmentations.register("lwf", "LwF")
@section
class LwFAugmentation(Keeping):
    """Heads of earlier tasks are held to the outputs that they began with, on the texts of the new
    task (Li & Hoiem 2016, LwF).

    When it helps: a new task is learned from a run that has learned others, which must not be
    forgotten, and whose texts are like those of the new task.

    Cost: one pass over the train rows before the first step; then the heads of earlier tasks.
    """

    name: Literal["lwf"] = "lwf"
    """Augmentation."""
    strength: Annotated[float, Gt(0), Le(1_000_000)] = 1.0
    """Factor of the sum over earlier tasks; the paper's lambda."""
    temperature: Annotated[float, Gt(0), Le(1000)] = 2.0
    """Divisor of the logits of classes and labels before they are compared."""

    def unfit_earlier(self, task: Task) -> str | None:
        if task.form == "text":
            return "it is put as prompt and answer (form=text), and has no head to hold"
        if task.compares and task.mixes:
            return None
        return (
            "its head gets the texts of another task, and is asked for classes, labels or numbers "
            f"of a whole text, and its type is {task.type}"
        )


class LwF(Keeper):
    """A loss between the outputs of earlier heads and those that they began with."""

    _outputs: dict[str, Tensor]
    """Earlier task -> the outputs of its head at the beginning, for the new task's rows."""
    _new = ""

    def acts_on(self, task: str) -> bool:
        return task == self._new

    def look(self, model: MultiTaskModel, earlier: Earlier) -> dict[str, Tensor]:
        return {name: earlier.outputs(name) for name in earlier.names}

    def keep(self, kept: dict[str, Tensor], earlier: Earlier, device: torch.device) -> None:
        self._outputs, self._new = dict(kept), earlier.new

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        from mtlcli.models.multitask import TaskOutput

        encoded = model.encoded(task, batch)
        own = model.output(task, batch, encoded)
        loss = own.loss
        for name, outputs in self._outputs.items():
            # A strategy may encode the same text otherwise for another task.
            states = encoded if model.one_pass(task, name) else model.encoded(name, batch)
            before = outputs[batch.indices].to(batch.input_ids.device)
            found = model.head_outputs(name, batch, states)
            apart = model.tasks[name].distance(found, before, self.config.temperature)
            loss = loss + self.config.strength * apart / batch.examples
        return TaskOutput(loss, own.outputs)
