"""DB-MTL, dual balancing (Lin, Jiang, Ye, Zhang, Chen, Chen, Liu & Kwok 2023, "Dual-Balancing for
Multi-Task Learning", algorithm 1), as in the authors' code.

Losses are balanced by a logarithm, and gradients by their lengths. With the moving average m_t of
the gradient of log(L_t + 1e-8) in the shared parameters, at first 0, in step s (from 1),

    m_t <- g_t + b_s (m_t - g_t),   b_s = beta / s^decay,   g_t = dL_t / (L_t + 1e-8)
    update = sum_t a_t m_t,         a_t = max_j |m_j| / (|m_t| + 1e-8)

so that all averages take part with the length of the longest. The private parameters of a task
follow log(L_t + 1e-8). `weighting=log` is the first half alone.

Multiplying a loss by a number does not change the update, so that importance would do nothing. The
averages take the memory of the shared parameters once for each task, and as much in each
checkpoint. s counts the steps of the run. Where a task is absent from a step, its average rests.
Tasks of importance 0 are left out of everything.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.kept_rows import Blocks, RowKeeping

EPS = 1e-8


@weightings.register("db_mtl", "DBMTL")
@section
class DBMTLWeighting(WeightingConfig):
    """DB-MTL: gradients of the losses' logarithms, averaged over steps and brought to the length of
    the longest (Lin et al. 2023).

    When it helps: losses and gradients both of unlike size.

    Cost: K gradients, as with all methods on gradients, and K moving averages of them on every
    device and in every checkpoint.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """The requirements of the method."""
    on_gradients: ClassVar[bool] = True
    """The weights are put on gradients."""
    keeps_rows: ClassVar[bool] = True
    """A checkpoint holds the averages of each task."""
    name: Literal["db_mtl"] = "db_mtl"
    """Method."""
    beta: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of the past in the moving averages of the gradients; 0: the gradients of the step."""
    decay: Annotated[float, Ge(0)] = 0.5
    """Power of the step by which beta is divided; 0: beta stays."""


class DBMTL(RowKeeping):
    """Averages of the gradients of logarithms, all of the same length."""

    kept_name = "averages"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self._norms: dict[str, float] = {}

    def absorb(self, step: Step, blocks: Blocks) -> Blocks:
        """Move the averages, and return them in place of the step's gradients."""
        import torch

        past = self.config.beta / (step.number + 1) ** self.config.decay
        scales = self.private_weights(step)
        squares = dict.fromkeys(step.tasks, 0.0)
        names = self.balanced(step)
        found: Blocks = {}
        for parameter, rows in blocks.items():
            averages = torch.zeros_like(rows)
            for name in names:
                place = step.tasks.index(name)
                gradient = rows[place] * scales[name]
                kept = self.kept[name].get(parameter)
                average = (1 - past) * gradient if kept is None else gradient.lerp(kept, past)
                self.kept[name][parameter] = averages[place] = average
                squares[name] += average.square().sum(dtype=torch.float64).item()
            found[parameter] = averages
        self._norms = {name: squares[name] ** 0.5 for name in names}
        return found

    def weights(self, step: Step) -> dict[str, float]:
        """Return a_t, and 0 for a task of importance 0. The weights are for the averages."""
        longest = max(self._norms.values(), default=0.0)
        return {
            name: longest / (self._norms[name] + EPS) if name in self._norms else 0.0
            for name in step.tasks
        }

    def private_weights(self, step: Step) -> dict[str, float]:
        """Return 1 / (L_t + 1e-8), the derivative of the logarithm."""
        assert step.losses is not None
        return {
            name: 1 / (step.losses[name] + EPS) if self.tasks[name].weight > 0 else 0.0
            for name in step.tasks
        }
