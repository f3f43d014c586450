"""GradDrop (Chen et al. 2020, "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient
Sign Dropout", algorithm 1).

In each coordinate with the tasks' gradients g_t, one sign is kept and the gradients of the other
are dropped:

    P = (1 + sum_t g_t / sum_t |g_t|) / 2      the purity of the sign: the share of the positive
    keep the positive ones if P > U, the negative ones if not, with U uniform on [0, 1]

so that on average the update is sum_t |g_t| (P^2 - (1 - P)^2) = sum_t g_t: unbiased. Where all
tasks agree, nothing is dropped; `leak` keeps a share of what is dropped (the paper has one for each
task).

Differences: the paper applies it to the gradients of the activations where tasks part (summed over
the batch for the sign); here, as in later comparisons and torchjd's GradDrop, to those of the
shared parameters. torchjd's GradDrop is not used: it draws from torch's global generator for the
matrix it is given, so that the result would depend on how rows are cut into blocks and distributed
over ranks. Here the draw of a coordinate depends on the run's seed, the step and its place alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.gradients.base import GradientBalancing

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("graddrop", "GradDrop")
@section
class GradDropWeighting(Balancing):
    """Keeps the gradients of one sign in each coordinate, drawn by how much the tasks agree (Chen
    et al. 2020).

    When it helps: many tasks that disagree about signs. The noise of its draws can also lead out of
    poor minima, says the paper.

    Cost: K gradients, which are combined number by number: 1.05 to 1.21 times the time of the plain
    sum, and most memory of all methods here that keep no state.
    """

    name: Literal["graddrop"] = "graddrop"
    """Method."""
    leak: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the dropped gradients that is kept; 1 is the plain sum."""
    every: Literal[1] = 1
    """Always 1: the method has no weights to reuse."""
    last_layers: None = None
    """Always null: every coordinate is drawn for itself."""
    projection: None = None
    """Always null: every coordinate is drawn for itself."""


class GradDrop(GradientBalancing):
    """Gradients of one sign in each coordinate, which is drawn by purity."""

    when = "rows"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self._drawn: tuple[int, Tensor] | None = None

    def weights(self, step: Step) -> dict[str, float]:
        """Return 1 for each task: the method has no weights, and each gradient takes part as it
        is."""
        return dict.fromkeys(step.tasks, 1.0)

    def combine(self, step: Step, rows: Tensor, start: int, total: int) -> Tensor:
        """Return for each column the sum of the rows of the drawn sign, plus `leak` times the sum
        of the others."""
        import torch

        draws = self._draws(step, total)[start : start + rows.shape[1]].to(rows.device)
        positive, negative = rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0)
        # Where all entries are 0, the purity 0 / 0 is not above the draw, and the negative sum,
        # which is 0, is kept.
        purity = positive / (positive - negative)
        kept = torch.where(purity > draws, positive, negative)
        return kept + self.config.leak * (positive + negative - kept)

    def _draws(self, step: Step, total: int) -> Tensor:
        """Return the uniform numbers (total,) of the step, which are drawn at once and kept until
        the next step."""
        import torch

        if self._drawn is None or self._drawn[0] != step.number or len(self._drawn[1]) != total:
            self._drawn = step.number, torch.rand(total, generator=step.generator())
        return self._drawn[1]
