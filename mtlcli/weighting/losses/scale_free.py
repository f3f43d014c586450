"""Scale-free sum: each loss divided by a moving average of itself.

    m <- d m + (1 - d) L_t        w_t = a_t / M_t,  M_t = m / (1 - d^n)

after n losses of the task, with decay d, importance a_t and m = 0 at first; M_t is the weighted
mean of those losses (the bias correction of Adam). Multiplying a loss by a constant changes
nothing, and every term is near its importance. This is practice rather than a paper; with d = 0 it
is close to `log`, whose weight is 1 / L_t.

M_t is made from the losses before the step. The weights are then known before the step, and it
costs as much as with the plain sum. A step that holds a task for the first time is the exception:
nothing is known of the scale of the task's loss, so the step's own loss is taken, once it is known.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, When, same_tasks
from mtlcli.weighting.losses.positive import require_positive


@weightings.register("scale_free", "ScaleFree")
@section
class ScaleFreeWeighting(WeightingConfig):
    """Each loss divided by the moving average of its own past values.

    When it helps: losses of unlike scale, with weights that change slowly.

    Cost: none.
    """

    name: Literal["scale_free"] = "scale_free"
    """Method."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay of the moving average; 0: only the task's previous loss counts."""


class ScaleFree(LossWeighting):
    """Weights that are one over the size of the loss."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        # For each task: m and n.
        self._averages: dict[str, tuple[float, int]] = dict.fromkeys(tasks, (0.0, 0))

    def known(self, step: Step) -> When:
        """Return "before", or "losses" if the step holds a task for the first time."""
        return "before" if all(self._averages[name][1] for name in step.tasks) else "losses"

    def weights(self, step: Step) -> dict[str, float]:
        """Return a_t / M_t."""
        return {name: self.tasks[name].weight / self._size(name, step) for name in step.tasks}

    def _size(self, name: str, step: Step) -> float:
        average, count = self._averages[name]
        if count:
            size = average / (1 - self.config.decay**count)
        else:
            assert step.losses is not None, "known() asked for the losses"
            size = step.losses[name]
        require_positive(name, size, step, "scale_free")
        return size

    def learn(self, step: Step) -> None:
        """Add the losses to the averages."""
        assert step.losses is not None
        decay = self.config.decay
        for name in step.tasks:
            average, count = self._averages[name]
            self._averages[name] = decay * average + (1 - decay) * step.losses[name], count + 1

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of the losses of each task."""
        return {"averages": {name: list(pair) for name, pair in self._averages.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["averages"], self.tasks)
        self._averages = {
            name: (float(average), int(count))
            for name, (average, count) in state["averages"].items()
        }
