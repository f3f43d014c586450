"""ExcessMTL (He, Zhou, Zhang, Yue, Zhao & Li 2024, "Robust Multi-Task Learning with Excess Risks",
algorithm 1), as in the authors' code.

The excess risk of a task, how much of its loss can still be removed, is estimated by a quadratic
form of its gradient g_t with a diagonal estimate of the Hessian, as in AdaGrad:

    H_t <- H_t + g_t^2                          e_t = sum_p g_tp^2 / sqrt(H_tp + 1e-7)
    w_t <- w_t exp(eta e_t / e_t(first)),       scaled so that the weights sum to K

The weights start at 1; the first step, which gives e_t(first), leaves them. They are put on the
losses, and the importance of a task multiplies its weight. A loss that noise keeps high has a large
loss but a small excess risk, so that its task does not take over, as it would with weights that
follow the losses.

g_t is the gradient of the plain loss with respect to all shared parameters, over all devices. H
takes the memory of the shared parameters once for each task, and as much in each checkpoint. When a
step lacks tasks, the weights of the others keep their sum. Tasks of importance 0 count as absent.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.base import Step, WeightedTask, same_tasks
from mtlcli.weighting.kept_rows import Blocks, RowKeeping

EPS = 1e-7
LEAST = 1e-12
"""The smallest weight. A weight of 0 could never rise again."""


@weightings.register("excess", "Excess")
@section
class ExcessWeighting(WeightingConfig):
    """ExcessMTL: tasks with more excess risk left, by their gradients, weigh more (He et al. 2024).

    When it helps: tasks with noisy labels, whose loss stays high whatever is done: the paper's
    setting.

    Cost: a backward pass for each task, and a number for each task and shared parameter, in memory
    and in checkpoints.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True)
    """The requirements of the method."""
    keeps_rows: ClassVar[bool] = True
    """A checkpoint holds the sums of squares of each task."""
    name: Literal["excess"] = "excess"
    """Method."""
    step_size: Annotated[float, Gt(0)] = 0.01
    """How strongly the excess risks of a step change the weights; the authors' robust step size."""


class Excess(RowKeeping):
    """Weights that follow estimates of the excess risks."""

    kept_name = "squares"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self._weights = dict.fromkeys(tasks, 1.0)
        self._first: dict[str, float] = {}

    def absorb(self, step: Step, blocks: Blocks) -> Blocks:
        """Add up the squares, and move the weights of the step's tasks."""
        import torch

        names = self.balanced(step)
        risks = dict.fromkeys(names, 0.0)
        for name in names:
            place, kept, parts = step.tasks.index(name), self.kept[name], []
            for parameter, rows in blocks.items():
                squares = rows[place].square()
                kept[parameter] = kept[parameter] + squares if parameter in kept else squares
                parts.append((squares / (kept[parameter] + EPS).sqrt()).sum(dtype=torch.float64))
            risks[name] = torch.stack(parts).sum().item() if parts else 0.0
        self._move(risks)
        return blocks

    def _move(self, risks: dict[str, float]) -> None:
        """Multiply the weights of tasks whose first excess risk is known by exponentials of their
        relative risks, and keep the sum of all weights of the step."""
        known = {
            name: risk / self._first[name] for name, risk in risks.items() if self._first.get(name)
        }
        before = sum(self._weights[name] for name in known)
        # The largest exponent is 0: only the ratios matter.
        largest = max(known.values(), default=0.0)
        moved = {
            name: max(
                self._weights[name] * math.exp(self.config.step_size * (risk - largest)), LEAST
            )
            for name, risk in known.items()
        }
        scale = before / sum(moved.values()) if moved else 1.0
        self._weights |= {name: weight * scale for name, weight in moved.items()}
        self._first |= {name: risk for name, risk in risks.items() if not self._first.get(name)}

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        return {name: self.tasks[name].weight * self._weights[name] for name in step.tasks}

    def private_weights(self, step: Step) -> dict[str, float]:
        """Return the same weights: they are put on the whole loss."""
        return self.weights(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the first excess risks; the squares are tensors."""
        return {"weights": dict(self._weights), "first": dict(self._first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["weights"], self.tasks)
        self._weights = {name: float(weight) for name, weight in state["weights"].items()}
        self._first = {name: float(risk) for name, risk in state["first"].items()}
