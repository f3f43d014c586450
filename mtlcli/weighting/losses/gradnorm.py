"""GradNorm (Chen, Badrinarayanan, Lee & Rabinovich 2018, "GradNorm: Gradient Normalization for
Adaptive Loss Balancing in Deep Multitask Networks", algorithm 1).

With weights w_t, starting at 1, and the norms G_t = w_t |g_t| of the weighted gradients, a step of
Adam lowers

    L_grad = sum_t |G_t - mean(G) r_t^alpha|,  r_t = (L_t / L_t(0)) / mean_j (L_j / L_j(0))

where the target mean(G) r_t^alpha is held constant, so that dL_grad/dw_t = sign(G_t - target_t)
|g_t|. Afterwards the weights are scaled so that their sum stays K. A task whose loss has fallen
less than the others' has r_t > 1 and is given larger gradients.

- L_t(0) is the mean of the task's losses in its first N steps (`first_steps`), as far as there have
  been any. The paper takes the first loss alone, N = 1, or the theoretical log C for C classes,
  which a regression does not have. Each r_t is relative to L_t(0) for the whole run: with a first
  loss from one small batch, two equal tasks ended at weights of 1.40 and 0.60.
- g_t is the gradient of the plain loss with respect to what `step.gram` was measured on, all shared
  parameters; the paper takes the last shared layer. The weights of a step come from the steps
  before it, as in the paper.
- The importance of a task multiplies w_t at the end and is not in G_t: what is balanced is the
  gradient without it, so that the gradients that are summed have sizes in proportion to importance
  (alpha = 0).
- The paper does not treat weights below 0, which Adam's momentum can bring about: here a weight
  stays at or above `FLOOR`.
- When a step lacks tasks, the means are over the tasks it has, and the weights of these tasks keep
  their sum. Tasks of importance 0 count as absent: they leave no gradient to measure.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.adam import Adam
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks
from mtlcli.weighting.losses.positive import require_positive

FLOOR = 1e-3
"""The smallest weight before scaling. The weights of the plain sum are 1."""


@weightings.register("gradnorm", "GradNorm")
@section
class GradNormWeighting(WeightingConfig):
    """Gradient normalisation: learns weights that bring the tasks' gradients to similar size (Chen
    et al. 2018).

    When it helps: tasks whose gradients differ in size and which learn at unlike speed.

    Cost: the norms of K gradients in each step: 0.95 to 1.10 times the time of the plain sum, and K
    gradients in memory.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True)
    """The requirements of the method."""
    name: Literal["gradnorm"] = "gradnorm"
    """Method."""
    alpha: Annotated[float, Ge(0)] = 1.5
    """How strongly slowly learning tasks are favoured; 0: all gradients have the same size."""
    lr: Annotated[float, Gt(0)] = 0.025
    """Learning rate of the weights, which have an Adam of their own; constant over the run."""
    first_steps: Annotated[int, Gt(0)] = 20
    """Number of first steps whose mean loss is the reference of a task's later losses. The paper
    has 1, but the loss of a single batch is a noisy reference for the whole run."""


class GradNorm(LossWeighting):
    """Weights learned from gradient norms and rates of training."""

    measures_gradients = True

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self._weights = dict.fromkeys(tasks, 1.0)
        # The sum and the number of the losses that make up L_t(0).
        self._first: dict[str, tuple[float, int]] = dict.fromkeys(tasks, (0.0, 0))
        self._adam = Adam(tasks, config.lr)

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        return {name: self.tasks[name].weight * self._weights[name] for name in step.tasks}

    def learn(self, step: Step) -> None:
        """Make one step of Adam on the weights of the step's tasks, then scale the weights."""
        gradient = self._gradient(step)
        before = sum(self._weights[name] for name in gradient)
        self._adam.step(self._weights, gradient)
        moved = {name: max(self._weights[name], FLOOR) for name in gradient}
        scale = before / sum(moved.values())
        self._weights |= {name: weight * scale for name, weight in moved.items()}

    def _gradient(self, step: Step) -> dict[str, float]:
        """Return dL_grad / dw_t for each task that is balanced."""
        import torch

        assert step.losses is not None and step.gram is not None, (
            "losses and gradients are measured in every step"
        )
        plain = {
            name: norm
            for name, norm in zip(step.tasks, step.gram.diagonal().sqrt(), strict=True)
            if self.tasks[name].weight > 0
        }
        rates = torch.tensor([self._share_left(name, step) for name in plain], dtype=torch.float64)
        if not rates.any():
            # Every loss is 0: no task trains faster than another, and r_t would be 0 / 0.
            rates = torch.ones_like(rates)
        norms = torch.stack([self._weights[name] * norm for name, norm in plain.items()])
        target = norms.mean() * (rates / rates.mean()) ** self.config.alpha
        sign = (norms - target).sign().tolist()
        return {
            name: direction * norm.item()
            for direction, (name, norm) in zip(sign, plain.items(), strict=True)
        }

    def _share_left(self, name: str, step: Step) -> float:
        """Return L_t / L_t(0)."""
        assert step.losses is not None
        loss, (total, count) = step.losses[name], self._first[name]
        if count < self.config.first_steps:
            total, count = self._first[name] = total + loss, count + 1
            require_positive(name, total, step, "gradnorm")
        return loss / (total / count)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the first losses and Adam's moments."""
        return {
            "weights": dict(self._weights),
            "first": {name: list(pair) for name, pair in self._first.items()},
            "adam": self._adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["weights"], self.tasks)
        self._weights = dict(state["weights"])
        self._first = {
            name: (float(total), int(count)) for name, (total, count) in state["first"].items()
        }
        self._adam.load_state_dict(state["adam"])
