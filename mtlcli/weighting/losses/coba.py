"""CoBa (Gong et al. 2024, "CoBa: Convergence Balancer for Multitask Finetuning of Large Language
Models"), as in the authors' code (MFTCoder).

Weights follow the slopes of the validation losses. Every `every` steps, before the update, the
model's loss on one validation batch of each task is measured, without dropout. With the ratio of
such a loss to the task's first one, a_t is the slope of a straight line through the last N ratios
of task t (least squares), and a_max that through the largest ratio of all tasks at each time. Over
K tasks, and with the last N slopes of each task and all n slopes a_max so far,

    RCS = softmax_t(K a_t / sum_j |a_j|)                  which tasks converge slowly
    ACS = softmax_t(-N a_t / sum_i |a_t(i)|)              which converge as fast as before
    DF  = min(1, n softmax_i(-tau n a_max(i) / sum_j |a_max(j)|) at the newest i)
    w   = softmax_t(K (DF RCS + (1 - DF) ACS)),  then  w <- m + (1 - K m) w  with m = 1 / (10 K)

The first `warmup` measurements leave the plain sum. The importance of a task multiplies its weight.
Tasks of importance 0 are left out of everything.

Differences: the authors' weights sum to 1, here to K, like those of the plain sum. The minimum in
DF stands in the paper, not in the code. The code takes the last N - warmup + 1 slopes for ACS, here
the last N, as in the paper. A task whose slopes are all 0 has the slope 0 in each softmax.

Validation batches are drawn from the task's first validation split, in an order that is a function
of the seed; each is as large as a training batch. A measurement costs a forward pass for each task,
about a third of a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("coba", "CoBa")
@section
class CoBaWeighting(WeightingConfig):
    """CoBa: weights from the slopes of validation losses, measured on a batch of each task (Gong et
    al. 2024).

    When it helps: tasks that converge, or begin to overfit, at unlike times. The paper fine-tunes
    large language models.

    Cost: a forward pass on a validation batch of each task at each measurement, about a third of a
    step.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, validation=True)
    """The requirements of the method."""
    name: Literal["coba"] = "coba"
    """Method."""
    every: Annotated[int, Gt(0)] = 1
    """Number of steps between two measurements of the validation losses."""
    warmup: Annotated[int, Ge(2)] = 100
    """Number of measurements after which the weights begin to move."""
    window: Annotated[int, Ge(2)] = 200
    """Number of measurements through which the slopes are laid; the paper's N."""
    tau: Annotated[float, Gt(0)] = 5.0
    """How sharply a rising largest slope leads from RCS to ACS."""


class CoBa(LossWeighting):
    """Weights from slopes of validation losses."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self._first: dict[str, float] = {}
        self._ratios: dict[str, list[float]] = {name: [] for name in tasks}
        self._slopes: dict[str, list[float]] = {name: [] for name in tasks}
        self._largest: list[float] = []
        self._weights = dict.fromkeys(tasks, 1.0)
        self._measured = 0

    def validates(self, step: Step) -> bool:
        """Return whether the validation losses are measured before this step."""
        return bool(step.number % self.config.every == 0)

    def learn_validation(self, step: Step, losses: dict[str, float]) -> None:
        """Note the losses; after the warm-up, find the slopes and the weights."""
        names = [name for name in step.tasks if self.tasks[name].weight > 0]
        for name in names:
            first = self._first.setdefault(name, losses[name] or 1.0)
            self._ratios[name] = [*self._ratios[name], losses[name] / first][-self.config.window :]
        self._measured += 1
        if self._measured < self.config.warmup:
            return
        for name in names:
            slopes = [*self._slopes[name], slope(self._ratios[name])]
            self._slopes[name] = slopes[-self.config.window :]
        count = min(len(self._ratios[name]) for name in names) if names else 0
        if count:
            newest = zip(*(self._ratios[name][-count:] for name in names), strict=True)
            self._largest.append(slope([max(each) for each in newest]))
            self._weights |= dict(zip(names, self._balanced(names).tolist(), strict=True))

    def _balanced(self, names: list[str]) -> Tensor:
        """Return the weights (K,), of sum K, float64."""
        import torch

        count = len(names)
        now = torch.tensor([self._slopes[name][-1] for name in names], dtype=torch.float64)
        relative = (count * _relative(now)).softmax(0)
        own = torch.stack([_newest_to_all(self._slopes[name]) for name in names])
        absolute = (-own).softmax(0)
        largest = torch.tensor(self._largest, dtype=torch.float64)
        falls = -self.config.tau * len(largest) * _relative(largest)
        divergence = min(1.0, len(largest) * falls.softmax(0)[-1].item())
        shares = (count * (divergence * relative + (1 - divergence) * absolute)).softmax(0)
        least = 1 / (10 * count)
        return count * (least + (1 - count * least) * shares)

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        return {name: self.tasks[name].weight * self._weights[name] for name in step.tasks}

    def remarks(self, steps: int, steps_per_epoch: int) -> list[str]:
        """Add a warning if the weights never move in a run."""
        found = super().remarks(steps, steps_per_epoch)
        measured = -(-steps // self.config.every)
        if measured < self.config.warmup:
            found.append(
                f"warning: weighting=coba is the plain sum in all {steps} steps: weights move "
                f"after {self.config.warmup} measurements, and the run has {measured}; "
                f"weighting.warmup={max(2, measured // 10)} begins sooner"
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the first losses, the ratios and slopes, and the weights."""
        return {
            "first": dict(self._first),
            "ratios": {name: list(values) for name, values in self._ratios.items()},
            "slopes": {name: list(values) for name, values in self._slopes.items()},
            "largest": list(self._largest),
            "weights": dict(self._weights),
            "measured": self._measured,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["weights"], self.tasks)
        self._first, self._weights = dict(state["first"]), dict(state["weights"])
        self._ratios = {name: list(values) for name, values in state["ratios"].items()}
        self._slopes = {name: list(values) for name, values in state["slopes"].items()}
        self._largest, self._measured = list(state["largest"]), int(state["measured"])


def slope(values: list[float]) -> float:
    """Return the slope of the straight line through values at 0, 1, 2, ... (least squares); 0 for
    one value."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((place - middle) ** 2 for place in range(len(values)))
    if not spread:
        return 0.0
    return sum((place - middle) * (each - mean) for place, each in enumerate(values)) / spread


def _relative(values: Tensor) -> Tensor:
    """Return values divided by the sum of their sizes: (n,); 0 where all are 0."""
    total = values.abs().sum()
    return values / total if total > 0 else values


def _newest_to_all(values: list[float]) -> Tensor:
    """Return the newest value relative to the mean size of all: a scalar, float64."""
    import torch

    found = torch.tensor(values, dtype=torch.float64)
    return len(values) * _relative(found)[-1]
