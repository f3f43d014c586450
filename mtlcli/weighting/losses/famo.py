"""FAMO (Liu, Feng, Stone & Liu 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1).

With logits xi_t, starting at 0, and z = softmax(xi) over the tasks of a step,

    w_t = K c z_t / L_t,  c = 1 / sum_j (z_j / L_j)

is the direction in which the logarithms of the losses fall at the rates z_t. After the update, the
losses of the same batches are computed again, and Adam with weight decay gamma follows the gradient

    z_t (d_t - sum_j z_j d_j),  d_t = log L_t(before) - log L_t(after)

so that a task whose loss fell faster than the others' loses weight. The paper's weights sum to 1;
here to K, like those of the plain sum. The smallest value of a loss is taken to be 0 (the authors'
`min_losses`), and 1e-8 is added to losses, as in the authors' code.

The method is invariant to the scale of a loss, so importance is put on its result: it multiplies
w_t. The logits do not take importance into account and partly counteract it: the loss of an
important task falls faster, and its z_t sinks. Tasks of importance 0 are left out of K, z and c.
torchjd's FAMO has neither importance nor a state that can be saved; the tests compare with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.adam import Adam
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8


@weightings.register("famo", "FAMO")
@section
class FAMOWeighting(WeightingConfig):
    """Fast adaptive multitask optimisation: makes all losses fall at the same rate; one more
    forward pass per step (Liu et al. 2023).

    When it helps: many tasks with losses of unlike scale, where K gradients are too dear. With
    MiniLM on four GLUE tasks it learned STS-B more slowly than the plain sum.

    Cost: a second forward pass: 1.3 to 1.4 times the time of the plain sum.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """The requirements of the method."""
    name: Literal["famo"] = "famo"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.025
    """Learning rate of the logits, which have an Adam of their own; constant over the run."""
    weight_decay: Annotated[float, Ge(0)] = 0.001
    """Weight decay of the logits, which pulls them towards equal weights; the paper's gamma."""


class FAMO(LossWeighting):
    """Logits that level the rates at which the losses fall."""

    when = "losses"
    losses_after_step = True

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.logits = dict.fromkeys(tasks, 0.0)
        self._adam = Adam(tasks, config.lr, config.weight_decay)

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        import torch

        assert step.losses is not None
        names = self._balanced(step)
        rates = self._shares(names) / torch.tensor(
            [step.losses[name] + EPS for name in names], dtype=torch.float64
        )
        found = dict(zip(names, (len(names) * rates / rates.sum()).tolist(), strict=True))
        return {name: self.tasks[name].weight * found.get(name, 0.0) for name in step.tasks}

    def learn_after(self, step: Step, losses: dict[str, float]) -> None:
        """Make one step of Adam on the logits of the step's tasks."""
        import torch

        assert step.losses is not None
        names = self._balanced(step)
        shares = self._shares(names)
        fall = torch.tensor(
            [math.log(step.losses[name] + EPS) - math.log(losses[name] + EPS) for name in names],
            dtype=torch.float64,
        )
        gradient = shares * (fall - shares @ fall)
        self._adam.step(self.logits, dict(zip(names, gradient.tolist(), strict=True)))

    def _balanced(self, step: Step) -> list[str]:
        return [name for name in step.tasks if self.tasks[name].weight > 0]

    def _shares(self, names: list[str]) -> Tensor:
        """Return z for the tasks `names`: (K,)."""
        import torch

        return torch.tensor([self.logits[name] for name in names], dtype=torch.float64).softmax(0)

    def state_dict(self) -> dict[str, Any]:
        """Return the logits and Adam's moments."""
        return {"logits": dict(self.logits), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["logits"], self.tasks)
        self.logits = dict(state["logits"])
        self._adam.load_state_dict(state["adam"])
