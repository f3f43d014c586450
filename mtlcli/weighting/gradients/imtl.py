"""IMTL, impartial multi-task learning (Liu et al. 2021, "Towards Impartial Multi-task Learning"):
IMTL-L on the losses and IMTL-G on the gradients of what tasks share, together.

IMTL-L (losses/imtl_l.py) learns a log scale s_t for each task, which minimises exp(s_t) L_t - s_t.
IMTL-G (imtl_g.py) then combines the gradients of the scaled losses exp(s_t) L_t:

    d = sum_t a_t exp(s_t) g_t,   d . g_s / |g_s| = d . g_t / |g_t|,   sum_t a_t = 1

The scales do not change the direction of d, but its length; the private parameters of a task follow
exp(s_t) L_t. The differences are those of the two methods: a is times K, and an update without a
positive projection counts as a failure of the solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, Needs, weightings
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.gradients.imtl_g import IMTLG

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@weightings.register("imtl", "IMTL")
@section
class IMTLWeighting(Balancing):
    """IMTL-L on the losses and IMTL-G on the gradients of the scaled losses, together (Liu et al.
    2021).

    When it helps: losses of unlike scale, and tasks that should all move equally far.

    Cost: K gradients, as with all methods on gradients, and one learned number for each task.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """The requirements of the method."""
    name: Literal["imtl"] = "imtl"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the log scales; they follow the run's schedule and have no weight decay."""


class IMTL(IMTLG):
    """IMTL-G on the gradients of losses that IMTL-L has scaled."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        from mtlcli.weighting.losses.imtl_l import IMTLL

        super().__init__(config, tasks)
        self._scales = IMTLL(config, tasks)

    def factors(self, step: Step) -> dict[str, float]:
        """Return exp(s_t) times the importance."""
        return self._scales.weights(step)

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the log scales: K scalars."""
        return self._scales.named_parameters()

    def objective(self, losses: dict[str, Tensor]) -> Tensor:
        """Return IMTL-L's total over the tasks of the step."""
        return self._scales.objective(losses)

    def state_dict(self) -> dict[str, Any]:
        """Return the base class's state and the log scales."""
        return super().state_dict() | self._scales.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        super().load_state_dict(state)
        self._scales.load_state_dict({"log_scale": state["log_scale"]})
