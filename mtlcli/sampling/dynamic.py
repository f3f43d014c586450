"""Dynamic sampling: tasks that fall behind get more.

Gottumukkala, Dua, Singh & Gardner 2020, "Dynamic Sampling Strategies for Multi-Task Reading
Comprehension": after each evaluation, the share of a task is proportional to the gap between a
reference score R_t (in the paper that of a model trained on the task alone) and the present score
S_t of the task's main metric:

    gap_t = max(0, R_t - S_t)        p_t = floor / K + (1 - floor) gap_t / sum_j gap_j

Until the first evaluation, and where no task has a gap, tasks are equally likely.

Differences:
- The reference of a task that has none in the configuration is 1, the score of a perfect model.
- `floor` keeps a task that has reached its reference in training, so that it is not forgotten; the
  paper has none (floor 0).
- The paper chooses the number of examples of an epoch, here each step draws a task. Evaluations
  come where `runner.eval_every` puts them.

The scores of the newest evaluation are part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import suggest
from mtlcli.sampling.base import RandomSampling

if TYPE_CHECKING:
    import numpy as np


@samplings.register("dynamic", "Dynamic")
@section
class DynamicSampling(SamplingConfig):
    """One task per step, more often the further its newest validation score is below a reference
    (Gottumukkala et al. 2020).

    When it helps: some tasks reach their level sooner than others, and there are scores to reach
    (`references`).

    Cost: none beside the evaluations, which have to be frequent enough to steer
    (`runner.eval_every`).
    """

    needs_scores: ClassVar[bool] = True
    """Every trained task needs a validation score."""
    name: Literal["dynamic"] = "dynamic"
    """Policy."""
    references: dict[str, float] = field(default_factory=dict)
    """Task -> the score of its main metric that counts as reached, for example that of a model
    trained on the task alone; 1 for tasks without an entry."""
    floor: Annotated[float, Ge(0), Le(1)] = 0.1
    """The part of all steps that is shared out equally, whatever the scores."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield the problems of the references in a run that trains these tasks."""
        for name in self.references:
            if name not in trained:
                yield Problem(
                    f"task '{name}' is not trained in the run",
                    f"sampling.references.{name}",
                    suggest(name, trained),
                )


class Dynamic(RandomSampling):
    """Policy that follows the newest validation scores."""

    def __init__(self, config: Any, sizes: Any, seed: int) -> None:
        super().__init__(config, sizes, seed)
        self._scores: dict[str, float] = {}

    def note_results(self, results: Mapping[str, Any]) -> None:
        """Take over the main scores of the policy's tasks."""
        self._scores = {name: float(results["tasks"][name]["main"]) for name in self.names}

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task until the next evaluation: (K,)."""
        import numpy as np

        count, floor = len(self.names), self.config.floor
        gaps = np.array(
            [
                max(0.0, self.config.references.get(name, 1.0) - self._scores.get(name, 0.0))
                for name in self.names
            ]
        )
        if not self._scores or not gaps.any():
            return np.full(count, 1 / count)
        found: np.ndarray = floor / count + (1 - floor) * gaps / gaps.sum()
        return found

    def statistics(self, step: int) -> dict[str, Any]:
        """Return the probability of each task."""
        return dict(zip(self.names, self.probabilities(step).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the scores of the newest evaluation."""
        return {"scores": dict(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scores. Raises ValueError unless they are of the policy's tasks."""
        scores = state["scores"]
        if scores and list(scores) != self.names:
            raise ValueError(f"the scores are of {list(scores)}, the run trains {self.names}")
        self._scores = {name: float(score) for name, score in scores.items()}
