"""The gradient of a step: how the losses of its tasks, or their gradients, become one gradient in
`.grad`.

What the weighting declares decides the way. `WeightedSum` needs only weights, and autograd adds the
gradients up; `MeasuredSum` also measures the tasks' gradients. `LossesFirst` takes the weights from
the losses, `GradientsFirst` takes them from the gradients; both keep the shared gradients of the
tasks apart, as gradient rows, until the weights are known. Gradients of parameters that belong to
one task go straight into `.grad`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.seeds import SHARING, step_seed
from mtlcli.training.finite import (
    require_finite_gram,
    require_finite_losses,
    require_finite_weights,
)
from mtlcli.training.gradient_rows import DTYPES, GradientRows, Projection, without_factors
from mtlcli.training.mixed_batches import MixedBatches
from mtlcli.training.passes import Passes, PassGroup, padded_tokens, passes_by_task
from mtlcli.training.task_batch import Batches
from mtlcli.weighting.base import Step, Weighting, When
from mtlcli.weighting.gradients.base import GradientBalancing
from mtlcli.weighting.inner_steps import InnerSteps
from mtlcli.weighting.kept_rows import RowKeeping


@dataclass
class Outcome:
    """The result of a step's backward passes; the gradients lie in `.grad`."""

    losses: Tensor
    """(K,): the mean loss of each task over all ranks and micro-batches, on the device."""
    weights: dict[str, Any]
    """The factor of each task's loss, or of its shared gradient, in the update: a number, or a
    scalar tensor on the device that nobody has read yet."""
    gram: Tensor | None
    """(K, K) float64: inner products of the gradients of the plain losses; None when they were not
    measured."""
    padded: int
    """The number of tokens that went through the trunk on this rank, with padding."""


def measure_gram(
    passes: Passes,
    batches: Batches,
    scales: Mapping[str, float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the inner products of the plain losses' shared gradients: (K, K) float64.

    They come from passes of their own over losses times `scales`, which leave `.grad` empty and the
    random state as it was.
    """
    rows = GradientRows(passes.parameters.shared, passes.ranks, dtype)
    devices = [passes.ranks.device] if passes.ranks.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        passes.run(batches, passes.for_rows(batches), scales, rows)
    passes.clear_gradients()
    rows.agree_on_columns()
    return without_factors(rows.gram(), list(scales.values()))


class StepGradient(ABC):
    """Base class of the ways to compute the gradient of a step.

    K tasks need K backward passes, unless mixed batches combine them.
    """

    def __init__(self, passes: Passes, weighting: Weighting) -> None:
        self._passes, self._weighting = passes, weighting
        self._parameters, self._ranks = passes.parameters, passes.ranks

    @abstractmethod
    def __call__(self, batches: Batches, step: Step) -> Outcome:
        """Fill `.grad` of the model's and the weighting's parameters, and `step.losses` if the
        losses are read. Raises NotFinite when a loss that is read or a gradient that is measured is
        not finite, and RunError when a weight is not."""

    @abstractmethod
    def probe(self, batches: Batches, step: Step) -> Outcome:
        """Do the same, and measure `step.gram` in any case."""

    def _run(
        self,
        batches: Batches,
        step: Step,
        groups: list[PassGroup],
        scales: Mapping[str, Any] | None = None,
        rows: GradientRows | None = None,
        *,
        read: bool = True,
    ) -> Tensor:
        """Run the passes of the step. Return its losses (K,), and note them in the step if they are
        to be `read`."""
        with self._passes.model.training_passes():
            losses = self._passes.run(batches, groups, scales, rows, summed=rows is None)
        if read:
            step.losses = dict(zip(batches, losses.tolist(), strict=True))
            require_finite_losses(step, batches)
        require_finite_gram(step, batches)
        if rows is not None:
            rows.agree_on_columns()
        return losses

    def _weights(self, step: Step) -> dict[str, float]:
        """Return the weights of a step, which all ranks know by themselves."""
        weights = self._weighting.weights(step)
        require_finite_weights(weights, self._weighting, step)
        return weights

    def _agreed_weights(self, step: Step) -> dict[str, float]:
        """Return the weights of a step, as rank 0 has found them."""
        weights: dict[str, float] = self._ranks.broadcast_json(self._weighting.weights(step))
        require_finite_weights(weights, self._weighting, step)
        return weights

    def _finish(
        self, step: Step, losses: Tensor, weights: dict[str, Any], groups: list[PassGroup]
    ) -> Outcome:
        """Add the gradients of the trunk's penalty and of the weighting's objective. Every rank has
        the same parameters and losses, so these gradients are the same on every rank and need no
        reduction."""
        penalty = self._passes.model.penalty()
        # Skip a penalty all of whose parameters are frozen.
        if penalty is not None and penalty.requires_grad:
            penalty.backward()
        if learned := self._weighting.parameters():
            near = losses.to(learned[0].device)
            self._weighting.objective(dict(zip(step.tasks, near, strict=True))).backward()
        padded = padded_tokens(groups, self._passes.model.packing)
        return Outcome(losses, weights, step.gram, padded)


class WeightedSum(StepGradient):
    """The sum of losses whose weights are known before the step. Autograd adds the gradients up, so
    mixed batches can take the place of one pass for each task."""

    def __init__(
        self, passes: Passes, weighting: Weighting, mixed: MixedBatches | None, *, read: bool
    ) -> None:
        """`mixed`: None where tasks go through the trunk one after the other. `read`: whether the
        losses and weights of a step are read from the device before its update."""
        super().__init__(passes, weighting)
        self._mixed, self._read = mixed, read

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        weights: dict[str, Any] = (
            self._weights(step) if self._read else self._weighting.weights_unread(step)
        )
        return self.run(batches, step, self.passes_of(batches), weights)

    def passes_of(self, batches: Batches) -> list[PassGroup]:
        """Return the passes of a step."""
        mixed = self._mixed if len(batches) > 1 else None
        return mixed.passes(batches) if mixed else passes_by_task(batches)

    def run(
        self, batches: Batches, step: Step, groups: list[PassGroup], weights: dict[str, Any]
    ) -> Outcome:
        """Do the work of a call, whose passes and weights are known."""
        losses = self._run(batches, step, groups, weights, read=self._read)
        self._passes.sum_gradients()
        return self._finish(step, losses, weights, groups)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        if self._mixed is None or len(batches) == 1:
            return MeasuredSum(self._passes, self._weighting)(batches, step)
        step.gram = measure_gram(self._passes, batches, dict.fromkeys(batches, 1.0))
        return self(batches, step)


class MeasuredSum(StepGradient):
    """The sum of losses whose weights are known before the step, with the inner products of the
    tasks' gradients."""

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        weights = self._weights(step)
        groups = self._passes.for_rows(batches)
        rows = GradientRows(self._parameters.shared, self._ranks)
        losses = self._run(batches, step, groups, weights, rows)
        step.gram = without_factors(rows.gram(), [weights[name] for name in batches])
        require_finite_gram(step, batches)
        # The rows are gradients of losses that are weighted already.
        rows.combine([1.0] * len(batches), reduced=False)
        self._passes.sum_gradients()
        return self._finish(step, losses, weights, groups)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        return self(batches, step)


class LossesFirst(StepGradient):
    """The sum of losses whose weights depend on the losses of the step."""

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        groups = self._passes.for_rows(batches)
        rows = GradientRows(self._parameters.shared, self._ranks)
        losses = self._run(batches, step, groups, rows=rows)
        weights = self._agreed_weights(step)
        rows.combine([weights[name] for name in batches], reduced=False)
        for name in batches:
            for parameter in self._parameters.private[name]:
                if parameter.grad is not None:
                    parameter.grad *= weights[name]
        self._passes.sum_gradients()
        return self._finish(step, losses, weights, groups)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        step.gram = measure_gram(self._passes, batches, dict.fromkeys(batches, 1.0))
        return self(batches, step)


class GradientsFirst(StepGradient):
    """Balanced gradients: the shared gradients are combined by weights that depend on them.
    Parameters of one task get the gradient of their own loss times its factor, the importance in
    most methods."""

    def __init__(self, passes: Passes, weighting: GradientBalancing, seed: int) -> None:
        """`seed`: of the random projection, if the weighting asks for one."""
        super().__init__(passes, weighting)
        self._balancing = weighting
        config = weighting.config
        self._dtype = DTYPES[config.rows]
        self._last_layers = (
            None
            if config.last_layers is None
            else passes.model.last_layers(self._parameters.shared_names, config.last_layers)
        )
        self._projection = (
            None if config.projection is None else Projection(config.projection, seed)
        )

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        known = self._weighting.known(step)
        factors = self._balancing.factors(step)
        groups = self._passes.for_rows(batches)
        rows = GradientRows(self._parameters.shared, self._ranks, self._dtype)
        losses = self._run(batches, step, groups, factors, rows)
        if known != "before":
            gram = self._estimate(rows) if known == "gradients" else rows.gram()
            step.gram = without_factors(gram, list(factors.values()))
            require_finite_gram(step, batches)
        weights = self._agreed_weights(step)
        summed = self._combine(rows, weights, known, step)
        self._passes.sum_gradients(shared=not summed)
        weights = self._shorten(weights, known)
        used = {name: weights[name] * factors[name] for name in batches}
        return self._finish(step, losses, used, groups)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        if self._weighting.known(step) == "before":
            factors = self._balancing.factors(step)
            step.gram = measure_gram(self._passes, batches, factors, self._dtype)
        return self(batches, step)

    def _estimate(self, rows: GradientRows) -> Tensor:
        """Return the inner products of the rows, or the approximation that the weighting asks
        for."""
        if self._last_layers is not None:
            return rows.gram_of_some(self._last_layers)
        if self._projection is not None:
            return rows.gram_of_projection(self._projection)
        return rows.gram()

    def _combine(
        self, rows: GradientRows, weights: dict[str, float], known: When, step: Step
    ) -> bool:
        """Combine the gradient rows into the shared parameters' `.grad`; return whether the result
        is already summed over ranks."""
        if known == "rows":
            method = self._weighting
            rows.apply(lambda vectors, start, total: method.combine(step, vectors, start, total))
            return True
        # Weights that come from the exact Gram matrix were measured on rows that `gram` has summed
        # over ranks; in all other cases combine this rank's rows.
        summed = known == "gradients" and self._last_layers is None and self._projection is None
        rows.combine([weights[name] for name in step.tasks], reduced=summed)
        return summed

    def _shorten(self, weights: dict[str, float], known: When) -> dict[str, float]:
        """Scale the shared gradients down to the length that the weighting promises, if its weights
        could not ensure that length, and return the weights scaled by the same factor."""
        limit = self._weighting.left_to_shorten(known)
        gradients = [
            parameter.grad for parameter in self._parameters.shared if parameter.grad is not None
        ]
        if limit is None or not gradients:
            return weights
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not norm > limit:  # The check of the whole gradient reports a NaN.
            return weights
        torch._foreach_mul_(gradients, limit / norm)
        return {name: weight * (limit / norm) for name, weight in weights.items()}


class Backward:
    """The backward passes of the steps of a stage, in the way that the weighting declares."""

    def __init__(
        self,
        model: MultiTaskModel,
        weighting: Weighting,
        ranks: Ranks,
        *,
        bf16: bool,
        seed: int = 0,
        tasks: Collection[str] | None = None,
        together: bool = True,
        max_tokens: int | None = None,
        input_format: InputFormat | None = None,
        read: bool = True,
    ) -> None:
        """Choose the way of the weighting.

        `tasks`: the tasks that are trained; None: all tasks that the weighting knows. `together`:
        whether tasks go through the trunk in mixed batches where the trunk and the weighting allow.
        `max_tokens`, `input_format`: see `MixedBatches`. `read`: see `WeightedSum`.
        """
        self.passes = Passes(
            model, list(weighting.tasks) if tasks is None else tasks, ranks, bf16=bf16
        )
        mixed = MixedBatches(
            model.hidden,
            ranks.device.type,
            max_tokens=max_tokens,
            input_format=input_format,
            packed=model.packing is not None,
        )
        # A recorder knows the parameters that tasks share when all of them are trained.
        shared = [name for name, users in model.users().items() if len(users) > 1]
        if (
            together
            and model.recorder is not None
            and shared == self.passes.parameters.shared_names
        ):
            self.passes.packs = mixed.packs
        self._weighting = weighting
        self._losses_first = LossesFirst(self.passes, weighting)
        self._usual: StepGradient
        if isinstance(weighting, GradientBalancing):
            self._usual = GradientsFirst(self.passes, weighting, seed)
        elif isinstance(weighting, RowKeeping):
            # Imported only here: that module imports this one.
            from mtlcli.training.kept_rows import KeptRows

            self._usual = KeptRows(self.passes, weighting)
        elif isinstance(weighting, InnerSteps):
            from mtlcli.training.inner_steps import MetaGradient

            self._usual = MetaGradient(self.passes, weighting)
        elif weighting.measures_gradients:
            self._usual = MeasuredSum(self.passes, weighting)
        else:
            self._usual = WeightedSum(
                self.passes,
                weighting,
                mixed if together and model.trunk.joint else None,
                read=read,
            )

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        """Fill `.grad` of the model's and the weighting's parameters: see `StepGradient`."""
        return self._way(step)(batches, step)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        """Do the same, and measure the inner products of the gradients in any case, which does not
        change the update."""
        return self._way(step).probe(batches, step)

    @property
    def plain(self) -> WeightedSum | None:
        """What computes the gradient of all steps as that of one sum of losses, or None."""
        usual = self._usual
        alone = type(self._weighting).known is Weighting.known
        return usual if isinstance(usual, WeightedSum) and alone else None

    def _way(self, step: Step) -> StepGradient:
        self.passes.model.draw(step_seed(step.seed, step.number, SHARING))
        return self._losses_first if self._weighting.known(step) == "losses" else self._usual
