"""Matthews as an `evaluate.Metric` module."""

from __future__ import annotations

import datasets
import evaluate

from mtlcli.evaluation.metrics import scores

DESCRIPTION = """
Matthews correlation of class ids, -1 to 1, for any number of classes. 0.0 when either side is constant.
"""

INPUTS = """
Args:
    predictions: class ids.
    references: class ids, as many.
Returns:
    matthews
"""

CITATION = """
@article{gorodkin2004,
  title={Comparing two {K}-category assignments by a {K}-category correlation coefficient},
  author={Gorodkin, Jan},
  journal={Computational Biology and Chemistry},
  volume={28},
  pages={367--374},
  year={2004}
}
"""


class Matthews(evaluate.Metric):
    """`mtlcli.evaluation.metrics.scores.matthews` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return scores.matthews(predictions, references)
