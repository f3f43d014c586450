"""Accuracy as an `evaluate.Metric` module."""

from __future__ import annotations

import datasets
import evaluate

from mtlcli.evaluation.metrics import scores

DESCRIPTION = """
Share of class ids that are right, 0 to 1.
"""

INPUTS = """
Args:
    predictions: class ids.
    references: class ids, as many.
Returns:
    accuracy
"""

CITATION = """
@article{scikit-learn,
  title={Scikit-learn: Machine Learning in {P}ython},
  author={Pedregosa, F. and Varoquaux, G. and Gramfort, A. and Michel, V. and others},
  journal={Journal of Machine Learning Research},
  volume={12},
  pages={2825--2830},
  year={2011}
}
"""


class Accuracy(evaluate.Metric):
    """`mtlcli.evaluation.metrics.scores.accuracy` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return scores.accuracy(predictions, references)
