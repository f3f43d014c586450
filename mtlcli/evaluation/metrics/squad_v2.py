"""The metric of SQuAD 2.0 as an `evaluate.Metric` module."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from mtlcli.evaluation.metrics import answers

DESCRIPTION = """
Exact match and token F1 of answers, where a question may have none, as in the official script of SQuAD 2.0, as fractions from 0 to 1
instead of percent.
"""

INPUTS = """
Args:
    predictions: {"id", "prediction_text", "no_answer_probability"} of each question.
    references: {"id", "answers": {"text": [...], "answer_start": [...]}} of each question.
    no_answer_threshold: a no_answer_probability above it says that there is no answer; 1.0 by default, as in the official script.
Returns:
    f1, exact_match, best_f1, best_f1_thresh, best_exact, best_exact_thresh, and where there are such questions HasAns_f1, HasAns_exact,
    NoAns_f1, NoAns_exact
"""

CITATION = """
@inproceedings{rajpurkar2018,
  title={Know What You Don't Know: Unanswerable Questions for {SQuAD}},
  author={Rajpurkar, Pranav and Jia, Robin and Liang, Percy},
  booktitle={ACL},
  year={2018}
}
"""


class SquadV2(evaluate.Metric):
    """`mtlcli.evaluation.metrics.answers.squad_v2` behind the API of evaluate."""

    def _info(self) -> evaluate.MetricInfo:
        string = datasets.Value("string")
        gold = {"text": datasets.Sequence(string), "answer_start": datasets.Sequence(datasets.Value("int32"))}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": {"id": string, "prediction_text": string, "no_answer_probability": datasets.Value("float64")},
                    "references": {"id": string, "answers": gold},
                }
            ),
        )

    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], no_answer_threshold: float = 1.0
    ) -> dict[str, float]:
        return answers.squad_v2(predictions, references, no_answer_threshold)
