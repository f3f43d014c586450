"""The end of a step: the check of its numbers, the clip, the update, and the moment at which the
host knows the numbers.

On a CPU, they are known at once (`Immediate`). A GPU works through what the host has launched, and
a host that waits for a number lets it run dry. So there (`Deferred`) the optimiser itself leaves
out the update of a step that is not finite, and the host reads the numbers of a step once it has
launched the next one. This takes what only torch's fused AdamW has: a tensor that scales the
gradients (the clip) and a tensor that stops the update. What a step still waits for:

    optimiser   adamw: nothing; any other, and parameters in shards: the norm, in every step
    weighting   static, random, annealed, uncertainty, imtl_l: nothing
                dwa: the losses of the last step of a window, before the next window
                scale_free: the losses of the step before
                gls, log, stch: the losses of the step; famo also its norm and its losses afterwards
                on gradients, and gradnorm: losses and inner products of the step
    sharing     one with statistics: these, every `logger.every` steps
    logger      a probe: as a weighting on gradients
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtlcli.models.shards import is_shard
from mtlcli.training.finite import (
    finite_gradient_norm,
    norm_error,
    require_finite,
    require_finite_losses,
    require_finite_weights,
)
from mtlcli.training.optimizers import Optimizers
from mtlcli.training.step import Outcome
from mtlcli.training.task_batch import Batches
from mtlcli.training.trained_parameters import TrainedParameters
from mtlcli.weighting.base import Step, Weighting

DEFERRING = {"cuda"}
"""The kinds of devices on which a host does not wait for the numbers of a step."""
FIX_LEARNED = "lower weighting.lr, or choose another weighting"
"""Advice for the user about a parameter of the weighting that is not finite."""


@dataclass
class Updated:
    """A step whose update has been launched."""

    step: Step
    batches: Batches
    outcome: Outcome
    lr: float
    """The learning rate of the first parameter group."""
    norm: Callable[[], float]
    """Wait until the numbers of the step are known, fill in its losses and weights, and return the
    norm of its gradient. Raises NotFinite when the update was left out because a number of the step
    is not finite, RunError when the update has made one."""


@dataclass
class Launched:
    """What the kernels of a step leave on the device."""

    losses: Tensor
    """(K,): the mean loss of each task."""
    numbers: Tensor
    """One vector: the norm of the whole gradient, K losses, the norm of each gradient, the weights
    that are tensors, the learned parameters."""
    gradients: list[str]
    """The names of the parameters that have a gradient."""
    weights: list[str]
    """The tasks whose weights are tensors."""


class Update(ABC):
    """The way in which steps end."""

    lag: ClassVar[int]
    """The number of steps that may be launched before the numbers of a step are known."""

    def __init__(self, optimizer: Optimizers, weighting: Weighting, clip: float | None) -> None:
        """`clip`: the norm to which the whole gradient is shortened; None: any norm."""
        self._optimizer, self._weighting, self._clip = optimizer, weighting, clip

    @property
    def _lr(self) -> float:
        lr: float = self._optimizer.param_groups[0]["rate"]
        return lr

    @abstractmethod
    def __call__(
        self, parameters: TrainedParameters, step: Step, batches: Batches, outcome: Outcome
    ) -> Updated:
        """Check the gradient of the step in `.grad`, shorten it, and update all parameters. Raises
        NotFinite, before the update, when a number of the step is known and not finite."""


class Immediate(Update):
    """All numbers are known before the update."""

    lag = 0

    def __call__(
        self, parameters: TrainedParameters, step: Step, batches: Batches, outcome: Outcome
    ) -> Updated:
        norm = finite_gradient_norm(parameters, self._weighting, step, batches)
        if self._clip is not None:
            # One after the other: those of the model may be shards, and torch does not mix them
            # with other tensors.
            for each in (parameters.all, self._weighting.parameters()):
                torch.nn.utils.clip_grads_with_norm_(each, self._clip, norm)
        self._optimizer.step()
        require_finite(self._weighting.named_parameters(), f"step {step.number}", FIX_LEARNED)
        return Updated(step, batches, outcome, self._lr, norm.item)


class Deferred(Update):
    """The numbers of a step are known after the next step has been launched."""

    lag = 1

    def __init__(
        self,
        optimizer: Optimizers,
        weighting: Weighting,
        clip: float | None,
        device: torch.device,
    ) -> None:
        """`device`: where the parameters of the weighting and the learning rates go, so that
        nothing is copied between it and the host."""
        super().__init__(optimizer, weighting, clip)
        for parameter in weighting.parameters():
            parameter.data = parameter.data.to(device)
        optimizer.keep_rates_on(device)

    def __call__(
        self, parameters: TrainedParameters, step: Step, batches: Batches, outcome: Outcome
    ) -> Updated:
        launched = self.launch(parameters, outcome)
        return self.updated(parameters, step, batches, outcome, launched)

    def launch(self, parameters: TrainedParameters, outcome: Outcome) -> Launched:
        """Launch the clip and the update. Nothing is read."""
        learned = self._weighting.named_parameters()
        gradients = {
            name: each.grad
            for name, each in (parameters.named | learned).items()
            if each.grad is not None
        }
        norms = torch.stack(torch._foreach_norm(list(gradients.values())))
        numbers = torch.cat([torch.linalg.vector_norm(norms).view(1), outcome.losses])
        self._launch(numbers)
        tensors = {name: each for name, each in outcome.weights.items() if isinstance(each, Tensor)}
        more = [*tensors.values(), *(each.detach() for each in learned.values())]
        every = [numbers, norms, *([torch.stack(more)] if more else [])]
        return Launched(outcome.losses, torch.cat(every), list(gradients), list(tensors))

    def updated(
        self,
        parameters: TrainedParameters,
        step: Step,
        batches: Batches,
        outcome: Outcome,
        launched: Launched,
    ) -> Updated:
        """Begin to copy the numbers of a step to the host."""
        arriving = Arriving(launched.numbers)
        learned = list(self._weighting.named_parameters())

        def norm() -> float:
            norm, *read = arriving.read()
            values = iter(read)
            step.losses = {name: next(values) for name in batches}
            norms = {name: next(values) for name in launched.gradients}
            outcome.weights |= {name: next(values) for name in launched.weights}
            require_finite_losses(step, batches)
            require_finite_weights(outcome.weights, self._weighting, step)
            if not math.isfinite(norm):
                raise norm_error(norm, norms, parameters, step, batches)
            left = {name: torch.tensor(next(values)) for name in learned}
            require_finite(left, f"step {step.number}", FIX_LEARNED)
            return norm

        return Updated(step, batches, outcome, self._lr, norm)

    def clear(self) -> None:
        """Drop all gradients."""
        self._optimizer.zero_grad()

    def _launch(self, numbers: Tensor) -> None:
        """Let the optimiser update, unless a number is not finite. `numbers`: the norm of the whole
        gradient, and others."""
        # The difference is 0, but NaN for infinity and NaN; isfinite() launches more.
        bad = (numbers - numbers).sum().isnan().float()
        # The same factor as that of torch's `clip_grads_with_norm_`.
        scale = None
        if self._clip is not None:
            scale = ((numbers[0] + 1e-6) / self._clip).clamp(min=1.0)
        for _, part in self._optimizer.parts:
            part.grad_scale, part.found_inf = scale, bad  # type: ignore[attr-defined]
        self._optimizer.step()


class Arriving:
    """Numbers on their way from a device to the host."""

    def __init__(self, numbers: Tensor) -> None:
        """`numbers`: (n,)."""
        on_gpu = numbers.device.type == "cuda"
        # Memory that is not pinned would be copied at once, while the host waits.
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=on_gpu)
        self._numbers.copy_(numbers, non_blocking=True)
        self._arrived = torch.cuda.Event() if on_gpu else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> list[float]:
        """Wait for the numbers, and return them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers.tolist()


def choose_update(
    optimizer: Optimizers,
    weighting: Weighting,
    clip: float | None,
    device: torch.device,
    *,
    fast: bool,
) -> Update:
    """Return the way in which the steps of a run end on a device. `clip`: see `Update`. `fast`:
    whether the run takes more than the plain path (`runner.fast`)."""
    if (
        fast
        and device.type in DEFERRING
        and not weighting.losses_after_step
        and all(type(part) is torch.optim.AdamW for _, part in optimizer.parts)
        # The norm of parameters that are cut into shards is no plain tensor.
        and not any(
            is_shard(parameter) for group in optimizer.param_groups for parameter in group["params"]
        )
    ):
        return Deferred(optimizer, weighting, clip, device)
    return Immediate(optimizer, weighting, clip)
