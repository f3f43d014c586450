"""Smooth Tchebycheff scalarisation, STCH (Lin et al. 2024, "Smooth Tchebycheff Scalarization for
Multi-Objective Optimization", eq. 8).

    mu log sum_t exp(lambda_t (f_t - z_t) / mu)

is a smooth maximum of the objectives f_t above the ideal point z. The authors' code for multi-task
learning sets f_t = log(L_t / r_t), z_t = 0 and lambda_t = 1, where r_t, "nadir" there, is the mean
loss of the task in an epoch after a warm-up that minimises sum_t log L_t. This is that method with
three differences:

- The preference of a task is its importance a_t, put on the loss: f_t = log x_t with x_t = a_t L_t
  / r_t. Outside of the logarithm, importance would have the opposite effect as soon as L_t < r_t
  and f_t is negative. For mu towards 0 all a_t L_t / r_t become equal.
- The objective is exp of the authors' over the tasks of the step, which has the same minima and the
  same direction:

      M = (sum_t x_t^p / K)^(1/p),  p = 1/mu        w_t = K dM/dL_t = (x_t / M)^(p-1) a_t / r_t

  M is the power mean of the x_t: their geometric mean for large mu, their mean at mu = 1 (the
  authors' default; the weights are then fixed), the largest for mu towards 0. With the r_t of a
  step scaled to a geometric mean of 1, equal losses with equal references give w_t = 1. The warm-up
  is `gls`, which is exp of theirs in the same way.

- The warm-up and the measurement of r_t are shares of the run, not epochs (theirs: 4 and 1 of 200).
  A task that is absent during the measurement takes the first loss that it has afterwards; steps
  that hold such a task keep the warm-up's weights until it has one.

r_t is no true nadir (the worst value on the Pareto front) and 0 no true ideal point: neither is
known in training. A task of importance 0 counts in no mean. torchjd's STCH is the paper's formula;
the tests compare with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.errors import Problem
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks
from mtlcli.weighting.losses.gls import geometric_weights
from mtlcli.weighting.losses.positive import positive_losses


@weightings.register("stch", "STCH")
@section
class STCHWeighting(WeightingConfig):
    """Smooth Tchebycheff: gives most weight to the task with the largest remaining share of its
    reference loss (Lin et al. 2024).

    When it helps: the task that is worst must not fall behind, and a share of the run can be spared
    to measure references.

    Cost: none.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """The requirements of the method."""
    name: Literal["stch"] = "stch"
    """Method."""
    mu: Annotated[float, Gt(0)] = 0.5
    """Smoothing: near 0, only the worst task counts; large values give the geometric mean. At 1,
    the default of the authors' code, the weights would be constant once the references are
    measured."""
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Share of the run before the reference losses are measured; the geometric mean of the losses
    until they are."""
    reference: Annotated[float, Gt(0), Lt(1)] = 0.05
    """Share of the run, after the warm-up, over which each task's mean loss is its reference."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        if self.warmup + self.reference >= 1:
            yield Problem(
                f"weighting.warmup={self.warmup:g} and weighting.reference={self.reference:g} take "
                "up the whole run: "
                "no step is left to balance",
                "weighting.warmup",
                "lower one of weighting.warmup and weighting.reference",
            )


class STCH(LossWeighting):
    """The derivative of the power mean of the losses in units of their references."""

    when = "losses"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        # The sum and the number of the losses that make up the reference.
        self._sums: dict[str, tuple[float, int]] = dict.fromkeys(tasks, (0.0, 0))

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t, importance included. Raises RunError when a loss is 0 or negative."""
        losses = positive_losses(step, self.tasks, "stch")
        if step.number < self._window(step.total)[1] or not all(
            self._sums[name][1] for name in losses
        ):
            return geometric_weights(step, self.tasks, "stch")
        weights = dict.fromkeys(step.tasks, 0.0)
        if losses:
            weights |= self._power_mean_weights(losses)
        return weights

    def _power_mean_weights(self, losses: dict[str, float]) -> dict[str, float]:
        import torch

        reference = torch.tensor(
            [total / count for total, count in (self._sums[name] for name in losses)],
            dtype=torch.float64,
        )
        scale = (
            torch.tensor([self.tasks[name].weight for name in losses], dtype=torch.float64)
            / reference
        )
        scale = scale * reference.log().mean().exp()
        # In logarithms, because x^p overflows for small mu.
        x = (scale * torch.tensor(list(losses.values()), dtype=torch.float64)).log()
        power = 1 / self.config.mu
        mean = ((power * x).logsumexp(0) - math.log(len(losses))) / power
        return dict(zip(losses, (((power - 1) * (x - mean)).exp() * scale).tolist(), strict=True))

    def learn(self, step: Step) -> None:
        """Add the losses to the references, while these are measured."""
        assert step.losses is not None
        begin, end = self._window(step.total)
        for name in step.tasks:
            total, count = self._sums[name]
            if begin <= step.number < end or (step.number >= end and not count):
                self._sums[name] = total + step.losses[name], count + 1

    def _window(self, total: int) -> tuple[int, int]:
        """Return the first step and the end of the steps over which references are measured in a
        run of `total` steps. At least one step is measured."""
        begin = round(self.config.warmup * total)
        return begin, begin + max(1, round(self.config.reference * total))

    def remarks(self, steps: int, steps_per_epoch: int) -> list[str]:
        """Warn if the method is `gls` for more than half of the run, until the references are
        measured."""
        end = self._window(steps)[1]
        if end <= steps / 2:
            return super().remarks(steps, steps_per_epoch)
        extent = f"all {steps} steps" if end >= steps else f"the first {end} of {steps} steps"
        fix = "lower weighting.warmup or weighting.reference, or train longer"
        return [
            f"warning: weighting=stch weights as gls does in {extent}, until its references are "
            f"measured; {fix}"
        ]

    def report(self) -> dict[str, Any]:
        """Return the reference loss of each task that has one."""
        return {
            "reference_losses": {
                name: total / count for name, (total, count) in self._sums.items() if count
            }
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and the number of the losses of each reference."""
        return {"sums": {name: list(pair) for name, pair in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["sums"], self.tasks)
        self._sums = {
            name: (float(total), int(count)) for name, (total, count) in state["sums"].items()
        }
