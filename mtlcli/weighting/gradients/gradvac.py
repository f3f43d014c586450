"""GradVac (Wang et al. 2021, "Gradient Vaccine: Investigating and Improving Multi-task Optimization
in Massively Multilingual Models").

As in PCGrad, each gradient g_i meets those of the other tasks j in random order. Where its cosine
phi with g_j is below the goal a_ij, it is turned until the cosine is a_ij (eq. 3), and the goal
follows the cosines that were met (eq. 4):

    if phi < a_ij:  g_i <- g_i + |g_i| c / (|g_j| sqrt(1 - a_ij^2)) g_j
                    with c = a_ij sqrt(1 - phi^2) - phi sqrt(1 - a_ij^2)
    a_ij <- (1 - beta) a_ij + beta phi        a_ij = 0 at first, beta = 0.01

With a_ij = 0 that is PCGrad. The update is the sum of the turned gradients; equal gradients give
weights of 1.

torchjd's GradVacWeighting is not used: it keeps the goals by position and forgets all of them when
the number of tasks changes; here they belong to pairs of task names. The mathematics and the random
orders are the same. Differences from the paper: one vector for all shared parameters (the paper's
best is one for each layer). A cosine with a zero gradient does not exist and is passed over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.gradients.base import GradientBalancing

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST = 1 - 1e-12
"""Largest goal that a cosine is turned to. No finite correction makes a cosine 1; a goal reaches 1
only by rounding, when gradients are equal step after step."""


@weightings.register("gradvac", "GradVac")
@section
class GradVacWeighting(Balancing):
    """Turns gradients towards one another until their cosines reach the moving average of past ones
    (Wang et al. 2021).

    When it helps: tasks whose gradients are alike to unlike degrees. The paper has translation
    between many languages.

    Cost: K gradients, as with all methods on gradients, and K x K projections on their Gram matrix.
    """

    name: Literal["gradvac"] = "gradvac"
    """Method."""
    beta: Annotated[float, Ge(0), Lt(1)] = 0.01
    """Share of the newest cosine in the moving average of two tasks' cosines."""


class GradVac(GradientBalancing):
    """Gradients turned towards one another, up to the average of their cosines."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.goals: dict[str, dict[str, float]] = {}

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the sums of the coefficients of the turned gradients, and let the goals follow the
        cosines."""
        import torch

        count = len(gram)
        generator = step.generator()
        norms = gram.diagonal().sqrt().tolist()
        total = torch.zeros(count, dtype=torch.float64)
        for i, task in enumerate(step.tasks):
            goals = self.goals.setdefault(task, {})
            others = [j for j in range(count) if j != i]
            own = torch.zeros(count, dtype=torch.float64)
            own[i] = 1.0
            for j in [
                others[place] for place in torch.randperm(count - 1, generator=generator).tolist()
            ]:
                products = gram @ own
                norm = math.sqrt(max((own @ products).item(), 0.0))
                if norm == 0 or norms[j] == 0:
                    continue
                cosine = max(-1.0, min(1.0, products[j].item() / (norm * norms[j])))
                goal = goals.get(step.tasks[j], 0.0)
                goals[step.tasks[j]] = (1 - self.config.beta) * goal + self.config.beta * cosine
                goal = min(goal, HIGHEST)
                if cosine < goal:
                    sine, sine_of_goal = math.sqrt(1 - cosine**2), math.sqrt(1 - goal**2)
                    own[j] += (
                        norm * (goal * sine - cosine * sine_of_goal) / (norms[j] * sine_of_goal)
                    )
            total += own
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return the base class's state and the goals, task by task."""
        return super().state_dict() | {
            "goals": {task: dict(goals) for task, goals in self.goals.items()}
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError when the run lacks tasks of the
        state."""
        super().load_state_dict(state)
        self.goals = {task: dict(goals) for task, goals in state["goals"].items()}
