"""The gradient of a step whose weighting takes inner steps on each task
(`weighting/inner_steps.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mtlcli.training.finite import require_finite_losses
from mtlcli.training.passes import Passes, PassGroup, passes_by_task
from mtlcli.training.step import Outcome, StepGradient, measure_gram
from mtlcli.training.task_batch import Batches, TaskBatch
from mtlcli.weighting.base import Step
from mtlcli.weighting.inner_steps import InnerSteps


class MetaGradient(StepGradient):
    """The parameters themselves take the inner steps of a task, and are put back after them. The
    loss of a step is that of the first inner batch of each task, before any inner step."""

    def __init__(self, passes: Passes, weighting: InnerSteps) -> None:
        super().__init__(passes, weighting)
        self._inner = weighting

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        weights = self._weights(step)
        total: dict[Parameter, Tensor] = {}
        losses, groups = [], []
        for name, batch in batches.items():
            parts = batch.inner or [batch]
            loss, gradient = self._of_task(name, parts)
            losses.append(loss)
            groups += [group for part in parts for group in passes_by_task({name: part})]
            for parameter, each in gradient.items():
                if parameter in total:
                    total[parameter].add_(each, alpha=weights[name])
                else:
                    total[parameter] = each.mul_(weights[name])
        for parameter, each in total.items():
            parameter.grad = each
        step.losses = dict(zip(batches, torch.stack(losses).tolist(), strict=True))
        require_finite_losses(step, batches)
        return self._finish(step, torch.stack(losses), dict[str, Any](weights), groups)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        step.gram = measure_gram(self._passes, batches, dict.fromkeys(batches, 1.0))
        return self(batches, step)

    @torch.no_grad()
    def _of_task(self, name: str, parts: list[TaskBatch]) -> tuple[Tensor, dict[Parameter, Tensor]]:
        """Return the loss of a task and its gradient, with the parameters as they were."""
        config, ahead = self._inner.config, self._inner.looks_ahead
        trained = [
            parameter
            for parameter in (*self._parameters.shared, *self._parameters.private[name])
            if parameter.requires_grad
        ]
        before = {parameter: parameter.detach().clone() for parameter in trained}
        found: dict[Parameter, Tensor] = {}
        losses = []
        for number, part in enumerate(parts):
            losses.append(self._pass(name, part))
            reached = [parameter for parameter in trained if parameter.grad is not None]
            if ahead and number == len(parts) - 1:
                found = {parameter: _gradient(parameter).clone() for parameter in reached}
                break
            for parameter in reached:
                found[parameter] = parameter
                parameter.sub_(_gradient(parameter), alpha=config.inner_lr)
        if not ahead:
            found = {each: (before[each] - each) / config.inner_lr for each in found}
        for parameter, values in before.items():
            parameter.copy_(values)
        self._passes.clear_gradients()
        return losses[0], found

    @torch.enable_grad()
    def _pass(self, name: str, part: TaskBatch) -> Tensor:
        """Fill `.grad` with the gradient of a task's mean loss over all ranks, and return the loss,
        a scalar."""
        self._passes.clear_gradients()
        batches = {name: part}
        groups: list[PassGroup] = passes_by_task(batches)
        with self._passes.model.training_passes():
            losses = self._passes.run(batches, groups, summed=True)
        self._passes.sum_gradients()
        return losses[0]


def _gradient(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
