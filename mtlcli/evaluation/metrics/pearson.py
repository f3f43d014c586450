"""Pearson as an `evaluate.Metric` module."""

from __future__ import annotations

import datasets
import evaluate

from mtlcli.evaluation.metrics import scores

DESCRIPTION = """
Pearson correlation of real numbers, -1 to 1. 0.0 when either side is constant.
"""

INPUTS = """
Args:
    predictions: real numbers.
    references: real numbers, as many.
Returns:
    pearson
"""

CITATION = """
@article{pearson1895,
  title={Note on Regression and Inheritance in the Case of Two Parents},
  author={Pearson, Karl},
  journal={Proceedings of the Royal Society of London},
  volume={58},
  pages={240--242},
  year={1895}
}
"""


class Pearson(evaluate.Metric):
    """`mtlcli.evaluation.metrics.scores.pearson` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return scores.pearson(predictions, references)
