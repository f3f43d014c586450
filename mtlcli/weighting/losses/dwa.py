"""Dynamic weight average, DWA (Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with
Attention", eq. 7).

    r_t = L_t(e - 1) / L_t(e - 2)        w_t = K exp(r_t / T) / sum_j exp(r_j / T)

L_t(e) is the mean loss of task t in epoch e (or in a window of `every` steps), T the temperature. A
task whose loss falls slowly has a larger r_t and a larger weight. The importance of a task
multiplies w_t.

Tasks may be absent from steps and from whole windows: L_t(e - 1) and L_t(e - 2) are then the means
of the last two finished windows in which the task took part. K is the number of tasks that have two
such windows, whether or not they are in the step; the other tasks weigh 1, as every task does in
the paper's first two epochs. torchjd's DWA has one vector for all tasks of every step and no state
that can be saved; the tests compare with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks
from mtlcli.weighting.losses.positive import require_positive


@weightings.register("dwa", "DWA")
@section
class DWAWeighting(WeightingConfig):
    """Dynamic weight average: tasks whose loss falls slowly weigh more (Liu, Johns & Davison 2019).

    When it helps: tasks that learn at unlike speed in runs of several windows; before the third
    window it is the plain sum.

    Cost: none.
    """

    name: Literal["dwa"] = "dwa"
    """Method."""
    temperature: Annotated[float, Gt(0)] = 2.0
    """Temperature of the softmax; the larger the value, the more equal the weights."""
    every: Annotated[int, Gt(0)] | None = None
    """Number of steps over which losses are averaged before they are compared; null: an epoch."""


class DWA(LossWeighting):
    """Weights from the last two windows' mean losses."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self._window = 0
        self._sums: dict[str, tuple[float, int]] = dict.fromkeys(tasks, (0.0, 0))
        # The means of the last finished windows, the newest last: at most two.
        self._means: dict[str, list[float]] = {name: [] for name in tasks}

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        import torch

        self._finish_window(step)
        known = [name for name, means in self._means.items() if len(means) == 2]
        rates = torch.tensor([self._rate(name, step) for name in known], dtype=torch.float64)
        weights = dict(
            zip(
                known,
                (len(known) * (rates / self.config.temperature).softmax(0)).tolist(),
                strict=True,
            )
        )
        return {name: self.tasks[name].weight * weights.get(name, 1.0) for name in step.tasks}

    def needs_last_step(self, step: Step) -> bool:
        """Return whether a window begins with the step: the one before is over then."""
        return self._window_of(step) != self._window

    def learn(self, step: Step) -> None:
        """Add the losses to those of the window."""
        assert step.losses is not None
        self._finish_window(step)
        for name in step.tasks:
            total, count = self._sums[name]
            self._sums[name] = total + step.losses[name], count + 1

    def remarks(self, steps: int, steps_per_epoch: int) -> list[str]:
        """Report how long the method is the plain sum: for the paper's first two epochs, or
        windows."""
        window = self.config.every or steps_per_epoch
        shorter = max(1, steps // 10)
        fix = (
            f"; weighting.every={shorter} compares windows of "
            f"{'1 step' if shorter == 1 else f'{shorter} steps'}"
        )
        if 2 * window >= steps:
            what = (
                f"the plain sum in all {steps} steps: the first two windows of {window} steps "
                "each have none before them"
            )
            return [f"warning: weighting=dwa is {what}{fix}"]
        what = (
            f"weighting=dwa is the plain sum in the first {2 * window} of {steps} steps, two "
            f"windows of {window}"
        )
        return [f"warning: {what}{fix}" if 4 * window > steps else what]

    def _window_of(self, step: Step) -> int:
        every: int | None = self.config.every
        return step.epoch if every is None else step.number // every

    def _finish_window(self, step: Step) -> None:
        """Turn the sums of a window into means once a step belongs to a later window."""
        window = self._window_of(step)
        if window == self._window:
            return
        for name, (total, count) in self._sums.items():
            if count:
                self._means[name] = [*self._means[name], total / count][-2:]
        self._window = window
        self._sums = dict.fromkeys(self.tasks, (0.0, 0))

    def _rate(self, name: str, step: Step) -> float:
        older, newer = self._means[name]
        require_positive(name, older, step, "dwa")
        return newer / older

    def state_dict(self) -> dict[str, Any]:
        """Return the window, its sums so far, and the means of the windows before."""
        return {
            "window": self._window,
            "sums": {name: list(pair) for name, pair in self._sums.items()},
            "means": {name: list(means) for name, means in self._means.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError unless the tasks are the same."""
        same_tasks(state["means"], self.tasks)
        self._window = int(state["window"])
        self._sums = {
            name: (float(total), int(count)) for name, (total, count) in state["sums"].items()
        }
        self._means = {name: list(means) for name, means in state["means"].items()}
