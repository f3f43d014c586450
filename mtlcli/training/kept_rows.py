"""The gradient of a step whose weighting keeps numbers for each task and each shared parameter
(`weighting/kept_rows.py`)."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlcli.training.finite import require_finite_gram
from mtlcli.training.gradient_rows import GradientRows
from mtlcli.training.passes import Passes
from mtlcli.training.step import Outcome, StepGradient
from mtlcli.training.task_batch import Batches
from mtlcli.weighting.base import Step
from mtlcli.weighting.kept_rows import RowKeeping


class KeptRows(StepGradient):
    """The gradient rows of the plain losses, summed over ranks, go to the weighting in blocks, one
    for each shared parameter; what it returns is combined by its weights."""

    def __init__(self, passes: Passes, weighting: RowKeeping) -> None:
        super().__init__(passes, weighting)
        self._keeping = weighting

    def __call__(self, batches: Batches, step: Step) -> Outcome:
        groups = self._passes.for_rows(batches)
        rows = GradientRows(self._parameters.shared, self._ranks)
        losses = self._run(batches, step, groups, rows=rows)
        blocks = {
            self._parameters.shared_names[index]: block for index, block in rows.whole_blocks()
        }
        step.gram = _gram(blocks, len(batches))
        require_finite_gram(step, batches)
        kept = self._keeping.absorb(step, blocks)
        weights = self._agreed_weights(step)
        factors = torch.tensor([weights[name] for name in batches], device=self._ranks.device)
        for name, block in kept.items():
            parameter = self._parameters.named[name]
            parameter.grad = (factors @ block).view_as(parameter)
        private = self._keeping.private_weights(step)
        for name in batches:
            for parameter in self._parameters.private[name]:
                if parameter.grad is not None:
                    parameter.grad *= private[name]
        self._passes.sum_gradients(shared=False)
        return self._finish(step, losses, weights, groups)

    def probe(self, batches: Batches, step: Step) -> Outcome:
        return self(batches, step)


def _gram(blocks: dict[str, Tensor], count: int) -> Tensor:
    """Return the inner products of rows that are given in blocks: (K, K) float64 on the CPU."""
    total = torch.zeros(count, count, dtype=torch.float64)
    for block in blocks.values():
        total += (block @ block.T).double().cpu()
    return total
