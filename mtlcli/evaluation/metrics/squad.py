"""The metric of SQuAD 1.1 as an `evaluate.Metric` module."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from mtlcli.evaluation.metrics import answers

DESCRIPTION = """
Exact match and token F1 of answers as in the official script of SQuAD 1.1, as fractions from 0 to 1 instead of percent.
"""

INPUTS = """
Args:
    predictions: {"id", "prediction_text"} of each question.
    references: {"id", "answers": {"text": [...], "answer_start": [...]}} of each question.
Returns:
    f1, exact_match
"""

CITATION = """
@inproceedings{rajpurkar2016,
  title={{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  author={Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  booktitle={EMNLP},
  year={2016}
}
"""


class Squad(evaluate.Metric):
    """`mtlcli.evaluation.metrics.answers.squad` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        string = datasets.Value("string")
        gold = {"text": datasets.Sequence(string), "answer_start": datasets.Sequence(datasets.Value("int32"))}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": {"id": string, "prediction_text": string},
                    "references": {"id": string, "answers": gold},
                }
            ),
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        return answers.squad(predictions, references)
