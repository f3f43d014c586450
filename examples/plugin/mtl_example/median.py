"""A task type: one real number for a text, learned by its absolute error.

It is `regression` with another loss, so that outliers move predictions less: the constant with the
least absolute error is the median, not the mean. What a task type of its own has to write is the
list of abstract methods of `mtlcli.tasks.base.TaskType`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mtlcli.config.section import section
from mtlcli.config.task import task_types
from mtlcli.tasks.regression import RegressionTask
from mtlcli.tasks.regression.task import Regression

if TYPE_CHECKING:
    from torch import Tensor

    from mtlcli.data.batches import Batch


@task_types.register("median", "Median")
@section
class MedianTask(RegressionTask):
    """One real number, learned by its absolute error."""

    type: Literal["median"] = "median"  # type: ignore[assignment]
    """Task type."""


class Median(Regression):
    """The task itself. Features, head and predictions are those of `regression`."""

    @property
    def default_metrics(self) -> list[str]:
        """The metrics of tasks that name none: the one in within_one.py."""
        return ["within_one"]

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the summed absolute error of the rows with a score."""
        score = batch.columns["score"].float()
        error = (outputs["logits"].float().squeeze(-1) - score.nan_to_num()).abs()
        return (error * ~score.isnan()).sum()

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the share of scores that the best constant is near to: as many as lie within 2."""
        near = [sum(low <= other <= low + 2 for other in references) for low in references]
        return max(near) / len(references)
