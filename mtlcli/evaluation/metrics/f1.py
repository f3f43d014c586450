"""F1 as an `evaluate.Metric` module."""

from __future__ import annotations

import datasets
import evaluate

from mtlcli.evaluation.metrics import scores

DESCRIPTION = """
F1 of class ids, 0 to 1: of class 1 when there are two classes, else the unweighted mean over the classes that occur (macro F1).
"""

INPUTS = """
Args:
    predictions: class ids.
    references: class ids, as many.
    classes: number of classes, optional; by default two when no id is above 1.
Returns:
    f1
"""

CITATION = """
@book{vanRijsbergen1979,
  title={Information Retrieval},
  author={van Rijsbergen, C. J.},
  publisher={Butterworths},
  year={1979}
}
"""


class F1(evaluate.Metric):
    """`mtlcli.evaluation.metrics.scores.f1` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int], classes: int | None = None) -> dict[str, float]:
        return scores.f1(predictions, references, classes)
