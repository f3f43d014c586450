"""Homoscedastic uncertainty (Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to
Weigh Losses").

With s_t = log sigma_t^2 learned for each task, the negative log likelihood of the paper is, up to
constants,

    regression (squared error, eq. 5):       exp(-s) / 2 * L + s / 2
    classification (cross entropy, eq. 10):  exp(-s)     * L + s / 2

so that at the optimum sigma^2 = L for regression and sigma^2 = 2 L for classification. The term of
a task is multiplied by its importance w_t as a whole: the optimum of s stays, and the effective
weight of the loss is w_t times the paper's. The paper's s starts at 0; so does this one.
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


@weightings.register("uncertainty", "Uncertainty")
@section
class UncertaintyWeighting(WeightingConfig):
    """Learned homoscedastic uncertainty (Kendall, Gal & Cipolla 2018).

    When it helps: regression and classification together, whose losses have unlike units: the
    paper's setting.

    Cost: none; one learned number for each task.
    """

    name: Literal["uncertainty"] = "uncertainty"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the log variances; they follow the run's schedule and have no weight
    decay."""


class Uncertainty(LossWeighting):
    """Learned log variances, one for each task."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        import torch

        super().__init__(config, tasks)
        # There is one parameter for each task, so that the optimiser leaves alone the tasks that
        # are absent from a step.
        self.log_variance = {name: torch.nn.Parameter(torch.zeros(())) for name in tasks}
        self._scale = {
            name: 0.5 if task.loss_kind == "regression" else 1.0 for name, task in tasks.items()
        }

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t * c_t * exp(-s_t), with c = 1/2 for regression and 1 for classification."""
        import torch

        return {
            name: self.tasks[name].weight
            * self._scale[name]
            * torch.exp(-self.log_variance[name].detach()).item()
            for name in step.tasks
        }

    def weights_unread(self, step: Step) -> dict[str, float | Tensor]:
        """Return w_t * c_t * exp(-s_t) as scalar tensors."""
        import torch

        return {
            name: self.tasks[name].weight
            * self._scale[name]
            * torch.exp(-self.log_variance[name].detach())
            for name in step.tasks
        }

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the log variances: K scalars."""
        return {f"log_variance.{name}": parameter for name, parameter in self.log_variance.items()}

    def objective(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the paper's total over the tasks of the step. Tasks that are absent leave their s
        alone."""
        import torch

        terms = []
        for name, loss in losses.items():
            s = self.log_variance[name]
            terms.append(
                self.tasks[name].weight * (self._scale[name] * torch.exp(-s) * loss + s / 2)
            )
        return torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the log variances by task."""
        return {"log_variance": {name: s.item() for name, s in self.log_variance.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the log variances. Raises ValueError unless the tasks are the same."""
        import torch

        values = state["log_variance"]
        same_tasks(values, self.tasks)
        with torch.no_grad():
            for name, value in values.items():
                self.log_variance[name].fill_(value)
