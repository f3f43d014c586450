"""SDMGrad (Xiao, Ban & Ji 2023, "Direction-oriented Multi-objective Learning: Simple and Provable
Stochastic Algorithms").

MGDA, pulled towards the mean gradient g_0 = sum_t g_t / K by lambda (`pull`), eq. 6:

    w = argmin |sum_t w_t g_t + lambda g_0|^2  over the simplex
    d = (sum_t w_t g_t + lambda g_0) / (1 + lambda)

The minimum is not computed but followed: SGD with momentum, projected onto the simplex, a few steps
for each step of the run, from the w of the step before (algorithm 1), on gradients divided by their
mean norm (section 6.1):

    v <- momentum v + G (w + lambda / K)        v = 0 at first in each step of the run
    w <- projection of w - lr v

The paper takes G = J_1 J_2' from two independent batches, which makes the gradient in w unbiased.
Here both are the batch of the step: the noise of a gradient then adds its variance to the diagonal
of G, so that tasks with noisy gradients weigh less than in the paper, the more the smaller the
batch; the third batch of the paper, for the update, is this one as well.

The learning rate is 0.25, not the 10 of the authors' code. SGD is stable below 2 (1 + momentum) /
(largest eigenvalue of G), which is about 3 / K to 3 here; at 10 it jumps between corners of the
simplex and follows nothing: a change of the gradients by 1e-7, the rounding between one rank and
two, changed the weights of 8 random tasks by up to 2.7 in a single step.

torchjd's SDMGradWeighting is not used: it keeps w by position and forgets it when the number of
tasks changes. Here w belongs to task names: for a step without some tasks, the others' w are
projected onto the simplex; a new one starts at 1 / K. d is times K, so that equal gradients give
weights of 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.gradients.base import GradientBalancing, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("sdmgrad", "SDMGrad")
@section
class SDMGradWeighting(Balancing):
    """The shortest vector in the convex hull of the gradients, pulled towards their mean and
    tracked by SGD (Xiao, Ban & Ji 2023).

    When it helps: as `mgda`, with small and noisy batches, and a pull towards the mean so that no
    task stops the others.

    Cost: K gradients, as with all methods on gradients, and `inner_steps` small steps on K numbers.
    """

    name: Literal["sdmgrad"] = "sdmgrad"
    """Method."""
    pull: Annotated[float, Ge(0)] = 0.3
    """Pull towards the mean gradient, the paper's lambda; 0 is MGDA; the larger the value, the
    closer the update to the sum."""
    inner_steps: Annotated[int, Gt(0)] = 20
    """Steps of the SGD on the weights in each step of the run."""
    inner_lr: Annotated[float, Gt(0)] = 0.25
    """Learning rate of that SGD. The authors' 10 is far from stable."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Momentum of that SGD."""


class SDMGrad(GradientBalancing):
    """The minimum-norm point pulled towards the mean, followed by SGD."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.simplex: dict[str, float] = {}

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return K times the weights of d, and update w."""
        import torch

        gram, _ = unit_scale(gram)
        gram = gram / gram.diagonal().sqrt().mean() ** 2
        count, config = len(gram), self.config
        w = project_onto_simplex(
            torch.tensor(
                [self.simplex.get(name, 1 / count) for name in step.tasks], dtype=torch.float64
            )
        )
        velocity = torch.zeros(count, dtype=torch.float64)
        for _ in range(config.inner_steps):
            velocity = config.momentum * velocity + gram @ (w + config.pull / count)
            w = project_onto_simplex(w - config.inner_lr * velocity)
        self.simplex |= dict(zip(step.tasks, w.tolist(), strict=True))
        return (count * w + config.pull) / (1 + config.pull)

    def state_dict(self) -> dict[str, Any]:
        """Return the base class's state and w by task."""
        return super().state_dict() | {"simplex": dict(self.simplex)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError when the run lacks tasks of the
        state."""
        super().load_state_dict(state)
        self.simplex = dict(state["simplex"])


def project_onto_simplex(point: Tensor) -> Tensor:
    """Return the closest point with entries >= 0 and sum 1: the point minus a number, cut off at 0
    (Duchi et al. 2008, figure 1)."""
    import torch

    descending = point.sort(descending=True).values
    shifts = (descending.cumsum(0) - 1) / torch.arange(1, len(point) + 1)
    kept = int((descending > shifts).sum())
    return (point - shifts[kept - 1]).clamp(min=0)
