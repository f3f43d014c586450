"""Extractive question answering: the answer is a span of the context, or there is no answer (SQuAD
1.1 and 2.0).

A context that is too long for the model is cut into overlapping windows; a feature is one window.
The method is that of BERT (Devlin et al. 2019, run_squad.py): each token has a start and an end
score, and position 0 means "no answer here".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.data.features import Features, Split
from mtlcli.data.table import Table
from mtlcli.errors import Problem, count_of
from mtlcli.metrics import compute
from mtlcli.tasks.base import LibraryHead, Outputs, TaskType
from mtlcli.tasks.checks import (
    counted,
    is_text,
    require_finite,
    shown,
    text_problems,
    wrong_type,
)
from mtlcli.tasks.span import SpanTask
from mtlcli.tasks.span.columns import (
    all_sound,
    first_place,
    holds_answers,
    holds_texts,
    is_id,
    lists,
    odd_part,
)
from mtlcli.tasks.span.windows import MISSING, NOWHERE, best_spans, positions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.span.answers import SpanAnswers

LARGEST_ODDS = 30.0
"""The largest threshold that is chosen: beyond it, no answer is given, or one to every question."""


class Span(TaskType[SpanTask]):
    """A task of extractive question answering."""

    token_outputs = True
    item = "window"
    unit = "passage"
    _calibrated = 0.0
    """The threshold that `calibrate` has chosen last."""
    example = (
        [{"id": "a", "prediction_text": "b"}],
        [{"id": "a", "answers": {"text": ["b"], "answer_start": [0]}}],
    )

    @property
    def default_metrics(self) -> list[str]:
        return ["squad_v2" if self.config.no_answer else "squad"]

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        columns = self.config.columns
        return [
            columns.id,
            columns.question,
            columns.context,
            *([columns.answers] if labelled else []),
        ]

    def texts(self, table: Table) -> list[str]:
        """Return the question of each row, and each distinct context once."""
        return table.column(self.config.columns.question) + list(
            dict.fromkeys(table.column(self.config.columns.context))
        )

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows have a label: (rows,). An empty list of answers is a label only where
        `no_answer` allows questions without answer."""
        column = self.config.columns.answers
        if column not in table.rows.column_names or not holds_answers(
            table.rows.column(column).type
        ):
            return np.ones(len(table), bool)
        return np.array(
            [
                any(lists(each)) or (self.config.no_answer and each is not None)
                for each in self._given(table)
            ],
            bool,
        )

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        columns = self.config.columns
        texts = text_problems(table, [columns.question, columns.context])
        problems = self._metric_problems() + self._id_problems(table) + texts
        if columns.answers in table.rows.column_names and not texts:
            problems += self._answer_problems(table, labelled=labelled)
        return problems

    def _metric_problems(self) -> list[Problem]:
        if not self.config.no_answer or "squad" not in self.metrics:
            return []
        what = "metric 'squad' cannot score questions without answer, which no_answer=true allows"
        return [Problem(what, f"tasks.{self.name}.metrics", "use squad_v2")]

    def _id_problems(self, table: Table) -> list[Problem]:
        column = self.config.columns.id
        kind = table.rows.column(column).type
        if not (is_id(kind) or (pa.types.is_struct(kind) and all(is_id(f.type) for f in kind))):
            return [
                wrong_type(
                    table, column, "ids (text or whole numbers) are needed", "give each row an id"
                )
            ]
        missing, repeated, seen = [], [], set()
        ids = self.ids(table)
        for row, value in enumerate(ids):
            if value == "":
                missing.append(row)
            elif value in seen:
                repeated.append(row)
            seen.add(value)
        problems = (
            [
                counted(
                    table, missing, f"column '{column}' is empty or missing", "give each row an id"
                )
            ]
            if missing
            else []
        )
        if repeated:
            value = table.rows.column(column)[repeated[0]].as_py()
            first = ids.index(ids[repeated[0]])
            what = f"id {shown(value)} is that of {table.place(first)} too"
            problems.append(
                counted(
                    table, repeated, what, "give each row its own id: predictions are stored by id"
                )
            )
        return problems

    def _answer_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        column = self.config.columns.answers
        kind = table.rows.column(column).type
        if pa.types.is_null(kind) and not labelled:
            return []
        form = "{text: [...], answer_start: [...]}"
        if not holds_answers(kind):
            if (part := odd_part(kind)) is not None:
                what = f"column '{column}' holds {part}"
                return [
                    Problem(
                        what,
                        table.where(0),
                        f"give each row {form} with texts and whole numbers, as in SQuAD",
                    )
                ]
            fix = f"give each row {form}, as in SQuAD" + (
                "; csv cannot hold it, jsonl can" if is_text(kind) else ""
            )
            return [wrong_type(table, column, f"{form} is needed", fix)]
        contexts = table.column(self.config.columns.context)
        if all_sound(
            contexts, table.rows.column(column), needed=labelled and not self.config.no_answer
        ):
            return []
        malformed, broken, absent, outside, elsewhere = [], [], [], [], []
        given = self._given(table)
        for row, (context, answers) in enumerate(zip(contexts, given, strict=True)):
            texts, starts = lists(answers)
            if len(texts) != len(starts) or not all(texts) or None in starts:
                malformed.append(row)
            elif not all(isinstance(start, int) for start in starts):
                broken.append(row)
            elif not texts and labelled and (answers is None or not self.config.no_answer):
                absent.append(row)
            elif not all(
                start >= 0 and start + len(text) <= len(context)
                for text, start in zip(texts, starts, strict=True)
            ):
                outside.append(row)
            elif not all(
                context.startswith(text, start) for text, start in zip(texts, starts, strict=True)
            ):
                elsewhere.append(row)
        problems = []
        if malformed:
            fix = f"give each row {form} with as many texts as starts and no empty text"
            problems.append(counted(table, malformed, f"column '{column}' is not well-formed", fix))
        if broken:
            starts = lists(given[broken[0]])[1]
            start = next(start for start in starts if not isinstance(start, int))
            fix = "answer_start counts the characters of the context from 0"
            problems.append(
                counted(table, broken, f"answer_start {shown(start)} is not a whole number", fix)
            )
        if absent and not (self._skips and len(absent) < len(table)):
            what, fix = (
                "the question has no answer",
                f"give it one, set tasks.{self.name}.no_answer=true, or leave the row out: "
                f"{self._skip}",
            )
            if self.config.no_answer:
                what = f"column '{column}' is missing"
                fix = (
                    f"give the row {form}, where empty lists mean that there is no answer, or "
                    f"leave the row out: {self._skip}"
                )
            problems.append(counted(table, absent, what, fix))
        if outside:
            length = len(contexts[outside[0]])
            text, start = next(
                (text, start)
                for text, start in zip(*lists(given[outside[0]]), strict=True)
                if not 0 <= start <= length - len(text)
            )
            fix = "answer_start counts the characters of the context from 0"
            what = (
                f"the answer {shown(text)} at answer_start {start} lies outside of the context, "
                f"which has {length:,} characters"
            )
            if holds_texts(kind):
                what = f"the answer {shown(text)} is nowhere in the context"
                fix = "write it exactly as there"
            problems.append(counted(table, outside, what, fix))
        if elsewhere:
            context = contexts[elsewhere[0]]
            text, start = next(
                (text, start)
                for text, start in zip(*lists(given[elsewhere[0]]), strict=True)
                if not context.startswith(text, start)
            )
            found = context[start : start + len(text)]
            fix = (
                "answer_start counts the characters of the context from 0, and the answer is "
                "written exactly as there"
            )
            what = (
                f"the context has {shown(found)} at answer_start {start}, not the answer "
                f"{shown(text)}"
            )
            problems.append(counted(table, elsewhere, what, fix))
        return problems

    def _given(self, table: Table) -> list[Any]:
        """Return the values of the column of answers. An answer that is given as a text alone
        starts where the context first has it, or at -1 where the context lacks it."""
        answers = table.column(self.config.columns.answers)
        if not holds_texts(table.rows.column(self.config.columns.answers).type):
            return answers
        contexts = table.column(self.config.columns.context)
        return [
            texts
            and {
                "text": texts,
                "answer_start": [first_place(text, context) for text in texts],
            }
            for texts, context in zip(answers, contexts, strict=True)
        ]

    def _answers(self, table: Table) -> list[Any]:
        """Return {"text": [...], "answer_start": [...]} for each row, or None where the row has no
        label."""
        column = self.config.columns.answers
        if column not in table.rows.column_names or not holds_answers(
            table.rows.column(column).type
        ):
            return [None] * len(table)
        answers = []
        for answer in self._given(table):
            texts, starts = lists(answer)
            labelled = bool(texts) or (self.config.no_answer and answer is not None)
            answers.append({"text": texts, "answer_start": starts} if labelled else None)
        return answers

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        columns, config = self.config.columns, self.config
        contexts = table.column(columns.context)
        features = encoder.windows(
            table.column(columns.question),
            contexts,
            max_length=self.max_length,
            stride=config.stride,
            max_question_length=config.max_question_length,
        )
        features.columns["start"], features.columns["end"] = positions(
            features, contexts, self._answers(table)
        )
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return a single linear layer unless `head_layers` is set, as in BERT. `dense` has no
        effect, since token states pass no pooling."""
        from mtlcli.tasks.heads import SpanHead

        return SpanHead(hidden, dropout, layers=self.head_layers(0), std=std)

    def library_head(self) -> LibraryHead | str:
        config = self.config
        limits = [
            f"Long contexts were read in windows of {self.max_length} tokens that share "
            f"{config.stride}, and answers have at most {config.max_answer_length} tokens."
        ]
        if config.no_answer:
            limits.append(
                "A question has no answer where the score of no answer exceeds that of the best "
                f"span by more than {config.no_answer_threshold}."
            )
        return LibraryHead("QuestionAnswering", (), None, tuple(limits))

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return, summed over windows, the mean of the cross entropies of start and end. They are
        over the positions that can be predicted: the context, and position 0."""
        import torch
        from torch.nn.functional import cross_entropy

        columns = batch.columns
        position = torch.arange(outputs["start"].shape[1], device=outputs["start"].device)
        inside = (position >= columns["context_start"][:, None]) & (
            position < columns["context_end"][:, None]
        )
        forbidden = ~(inside | (position == NOWHERE))
        start, end = (
            outputs[name].float().masked_fill(forbidden, -torch.inf) for name in ("start", "end")
        )
        start_loss = cross_entropy(start, columns["start"], ignore_index=MISSING, reduction="sum")
        end_loss = cross_entropy(end, columns["end"], ignore_index=MISSING, reduction="sum")
        return (start_loss + end_loss) / 2

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(features.columns["start"][indices] != MISSING))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return the best spans of each question over all its windows.

        Each row gives {"id", "text", "score", "n_best": [{"text", "score", "answer_start"}, ...]};
        a score is the sum of a start and an end logit. If questions may have no answer,
        "no_answer_probability" is added: the logistic function of (score of no answer - score of
        the best span), where the score of no answer is the lowest over the windows. `text` is empty
        when that difference is above `no_answer_threshold`, or, where that is `auto`, above what
        `calibrate` has found.
        """
        starts, ends = outputs["start"], outputs["end"]
        require_finite(self.name, starts, ends)
        first, row = features.offsets[:-1], features.columns["row"]
        no_answer = np.full(len(table), np.inf)
        np.minimum.at(
            no_answer, row, starts[first + NOWHERE].astype(np.float64) + ends[first + NOWHERE]
        )
        char_start, char_end = (
            features.token_columns["char_start"],
            features.token_columns["char_end"],
        )
        # False outside the context, and for tokens that cover no character.
        covers = char_end > char_start
        starts, ends = np.where(covers, starts, -np.inf), np.where(covers, ends, -np.inf)
        begins, stops = (
            first + features.columns["context_start"],
            first + features.columns["context_end"],
        )
        spans: list[dict[tuple[int, int], float]] = [{} for _ in range(len(table))]
        for begin, stop, found in zip(
            begins.tolist(), stops.tolist(), (spans[index] for index in row), strict=True
        ):
            i, j, scores = best_spans(
                starts[begin:stop],
                ends[begin:stop],
                self.config.max_answer_length,
                self.config.n_best,
            )
            places = zip(char_start[begin + i].tolist(), char_end[begin + j].tolist(), strict=True)
            for place, score in zip(places, scores.tolist(), strict=True):
                found[place] = max(score, found.get(place, -math.inf))
        ids, contexts = self.ids(table), table.column(self.config.columns.context)
        return [
            self._prediction(*parts)
            for parts in zip(ids, contexts, spans, no_answer.tolist(), strict=True)
        ]

    def located(self, predictions: list[Any], table: Table) -> list[Any]:
        """Return the predictions with `start` and `end` (exclusive) of the answer in the context,
        or None; and, if questions may have no answer, `no_answer`: whether this one has none."""
        found = []
        contexts = table.column(self.config.columns.context)
        for prediction, context in zip(predictions, contexts, strict=True):
            start = end = None
            if text := prediction["text"]:
                start = context.index(text, prediction["n_best"][0]["answer_start"])
                end = start + len(text)
            more = {"no_answer": not text} if self.config.no_answer else {}
            found.append(prediction | {"start": start, "end": end} | more)
        return found

    @property
    def _threshold(self) -> float:
        given = self.config.no_answer_threshold
        return self._calibrated if given == "auto" else float(given)

    def calibrate(self, outputs: Outputs, split: Split) -> dict[str, float]:
        """Choose the threshold with the best F1: halfway between the two questions that it has to
        tell apart, or beyond the last one."""
        self._calibrated = 0.0
        predictions = self.decode(outputs, split.features, split.table)
        references = self.references(split.table) or []
        scores = compute(
            "squad_v2", references=references, **self.metric_inputs("squad_v2", predictions)
        )
        last = scores["best_f1_thresh"]
        above = [
            probability
            for each in predictions
            if (probability := each["no_answer_probability"]) > last
        ]
        self._calibrated = (_log_odds(last) + _log_odds(min(above, default=1.0))) / 2
        return {"no_answer_threshold": self._calibrated}

    def use_calibration(self, chosen: dict[str, float]) -> None:
        self._calibrated = chosen["no_answer_threshold"]

    def _prediction(
        self, number: str, context: str, spans: dict[tuple[int, int], float], no_answer: float
    ) -> dict[str, Any]:
        ranked = sorted(spans.items(), key=lambda item: (-item[1], item[0]))[: self.config.n_best]
        n_best = [
            {"text": context[start:end].strip(), "score": score, "answer_start": start}
            for (start, end), score in ranked
        ]
        best = ranked[0][1] if ranked else -math.inf
        prediction: dict[str, Any] = {
            "id": number,
            "text": n_best[0]["text"] if n_best else "",
            "score": best if ranked else no_answer,
        }
        if self.config.no_answer:
            probability = _logistic(no_answer - best)
            if probability > _logistic(self._threshold):
                prediction.update(text="", score=no_answer)
            prediction["no_answer_probability"] = probability
        return prediction | {"n_best": n_best}

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """Return the predictions in the form of the hub's metrics.

        squad_v2 gets the best span even where no answer is predicted, together with the threshold,
        so that it can search for a better threshold: a `best_f1_thresh` of p corresponds to
        no_answer_threshold = log(p / (1 - p)).
        """
        if metric != "squad_v2":
            return {
                "predictions": [
                    {"id": prediction["id"], "prediction_text": prediction["text"]}
                    for prediction in predictions
                ]
            }
        inputs = [
            {
                "id": prediction["id"],
                "prediction_text": prediction["n_best"][0]["text"] if prediction["n_best"] else "",
                "no_answer_probability": prediction.get("no_answer_probability", 0.0),
            }
            for prediction in predictions
        ]
        return {
            "predictions": inputs,
            "no_answer_threshold": _logistic(self._threshold),
        }

    def official_files(self, predictions: list[Any]) -> dict[str, Any]:
        """Return the content of `.json` (id -> answer), which the official scripts of SQuAD 1.1 and
        2.0 read, and, if questions may have no answer, of `.na_prob.json` (id -> probability of no
        answer), which the script of SQuAD 2.0 reads as --na-prob-file."""
        files: dict[str, Any] = {
            ".json": {prediction["id"]: prediction["text"] for prediction in predictions}
        }
        if self.config.no_answer:
            files[".na_prob.json"] = {
                prediction["id"]: prediction["no_answer_probability"] for prediction in predictions
            }
        return files

    def references(self, table: Table) -> list[Any] | None:
        """Return {"id", "answers": {"text": [...], "answer_start": [...]}} for each row, or None
        when a row has no label."""
        answers = self._answers(table)
        if None in answers:
            return None
        return [
            {"id": number, "answers": answer}
            for number, answer in zip(self.ids(table), answers, strict=True)
        ]

    def gold(self, table: Table) -> list[Any]:
        """Return the texts of the answers of each row; an empty list means that the question has no
        answer, None that the row has no label."""
        return [None if answers is None else answers["text"] for answers in self._answers(table)]

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        return [{"id": row["id"], "answers": {"text": row["gold"]}} for row in rows]

    def clusters(self, table: Table) -> list[Any]:
        """Return the passage of each question."""
        return table.column(self.config.columns.context)

    def describe(self, gold: list[Any]) -> str:
        """Return the number of questions with and without an answer."""
        without = sum(not texts for texts in gold)
        return f"{len(gold) - without:,} with an answer, {without:,} without"

    def note(self, what: str, table: Table, features: Features) -> Problem | None:
        """Return the warning about questions that are cut."""
        if what != "questions cut":
            return None
        rows, count = features.noted[what], features.notes[what]
        limit = self.config.max_question_length
        brief = (
            f"{table.split}: {count_of(count, 'question is', 'questions are')} cut to "
            f"{limit} tokens"
        )
        text = f"the question is cut to its first {limit} tokens{table.others(rows, count)}"
        fix = f"raise tasks.{self.name}.max_question_length, or shorten the question"
        return Problem(text, table.where(rows[0]), fix, brief)

    def answers(self) -> SpanAnswers:
        from mtlcli.tasks.span.answers import SpanAnswers

        return SpanAnswers(self)

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the share of questions without answer, which is the score of an empty text. No
        other constant text scores well."""
        return sum(not reference["answers"]["text"] for reference in references) / len(references)

    def ids(self, table: Table) -> list[str]:
        """Return the id of each row as text, empty where it has none; an id of several parts, such
        as that of a passage and that of a query, is joined by `-`."""
        return [
            "-".join(map(str, value.values()))
            if isinstance(value, dict)
            else ""
            if value is None
            else str(value)
            for value in table.column(self.config.columns.id)
        ]


def _logistic(value: float) -> float:
    """Return 1 / (1 + exp(-value)), for any value."""
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _log_odds(probability: float) -> float:
    """Return log(p / (1 - p)), from -LARGEST_ODDS for 0 to LARGEST_ODDS for 1."""
    if not 0 < probability < 1:
        return LARGEST_ODDS if probability else -LARGEST_ODDS
    return max(-LARGEST_ODDS, min(math.log(probability / (1 - probability)), LARGEST_ODDS))
