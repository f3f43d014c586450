"""Spearman as an `evaluate.Metric` module."""

from __future__ import annotations

import datasets
import evaluate

from mtlcli.evaluation.metrics import scores

DESCRIPTION = """
Spearman rank correlation of real numbers, -1 to 1; equal numbers share their mean rank. 0.0 when either side is constant.
"""

INPUTS = """
Args:
    predictions: real numbers.
    references: real numbers, as many.
Returns:
    spearman
"""

CITATION = """
@article{spearman1904,
  title={The Proof and Measurement of Association between Two Things},
  author={Spearman, Charles},
  journal={The American Journal of Psychology},
  volume={15},
  pages={72--101},
  year={1904}
}
"""


class Spearman(evaluate.Metric):
    """`mtlcli.evaluation.metrics.scores.spearman` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return scores.spearman(predictions, references)
