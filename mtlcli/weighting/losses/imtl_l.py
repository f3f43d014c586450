"""IMTL-L, the loss balance of impartial multi-task learning (Liu et al. 2021, "Towards Impartial
Multi-task Learning", eq. 7).

With a learned log scale s_t for each task, starting at 0, the objective is

    sum_t a_t (exp(s_t) L_t - s_t)

so that exp(s_t) L_t = 1 at the optimum: all losses have the same size. The importance a_t
multiplies the task's term as a whole: the optimum of s stays, and the effective weight of the loss
is a_t exp(s_t). With s_t = -log sigma_t^2 the objective is twice that of `uncertainty` for a
regression. torchjd's IMTLL keeps the scales in one tensor and needs every task in every step; the
tests compare with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@weightings.register("imtl_l", "IMTLL")
@section
class IMTLLWeighting(WeightingConfig):
    """Learned scales that bring all losses to the same size (IMTL-L, Liu et al. 2021).

    When it helps: losses of unlike scale, for example a regression beside classification.

    Cost: none; one learned number for each task.
    """

    name: Literal["imtl_l"] = "imtl_l"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the log scales; they follow the run's schedule and have no weight decay."""


class IMTLL(LossWeighting):
    """Learned log scales, one for each task."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        import torch

        super().__init__(config, tasks)
        # There is one parameter for each task, so that the optimiser leaves alone the tasks that
        # are absent from a step.
        self.log_scale = {name: torch.nn.Parameter(torch.zeros(())) for name in tasks}

    def weights(self, step: Step) -> dict[str, float]:
        """Return a_t exp(s_t)."""
        import torch

        return {
            name: self.tasks[name].weight * torch.exp(self.log_scale[name].detach()).item()
            for name in step.tasks
        }

    def weights_unread(self, step: Step) -> dict[str, float | Tensor]:
        """Return a_t exp(s_t) as scalar tensors."""
        import torch

        return {
            name: self.tasks[name].weight * torch.exp(self.log_scale[name].detach())
            for name in step.tasks
        }

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the log scales: K scalars."""
        return {f"log_scale.{name}": parameter for name, parameter in self.log_scale.items()}

    def objective(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the paper's total over the tasks of the step."""
        import torch

        terms = [
            self.tasks[name].weight
            * (torch.exp(self.log_scale[name]) * loss - self.log_scale[name])
            for name, loss in losses.items()
        ]
        return torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the log scales by task."""
        return {"log_scale": {name: s.item() for name, s in self.log_scale.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the log scales. Raises ValueError unless the tasks are the same."""
        import torch

        same_tasks(state["log_scale"], self.tasks)
        with torch.no_grad():
            for name, value in state["log_scale"].items():
                self.log_scale[name].fill_(value)
