"""From answers in characters to token positions and back, row checks, loss, and decoding against a
plain search."""

from __future__ import annotations

import math
import os
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from mtlcli.config.task import Source
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, Split
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import RunError
from mtlcli.metrics import compute
from mtlcli.tasks.span import SpanTask
from mtlcli.tasks.span.task import Span

WORDS = [
    "river",
    "Zürich",
    "naïve",
    "東京",
    "Москва",
    "🙂🙃",
    "e\u0301clair",
    "don't",
    "(1998)",
    "3.5%",
    "well-known",
    "café",
    "İstanbul",
    "x",
]
GAPS = [" ", " ", " ", "  ", ", ", ". ", "\n", "\u00a0", " \u2013 "]


def task(**changes: Any) -> Span:
    settings: dict[str, Any] = {
        "max_length": 40,
        "stride": 14,
        "max_question_length": 8,
        "max_answer_length": 30,
        "n_best": 5,
    } | changes
    return Span("qa", SpanTask(source=Source(path="x"), **settings))


def table(rows: list[dict[str, Any]]) -> Table:
    answers = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("question", pa.string()),
            ("context", pa.string()),
            ("answers", answers),
        ]
    )
    return Table(pa.Table.from_pylist(rows, schema=schema), "qa.jsonl", "validation")


def row(
    number: int,
    context: str,
    answer: str | None = None,
    start: int | None = None,
    question: str = "which river is it",
) -> dict[str, Any]:
    answers: dict[str, Any] = {"text": [], "answer_start": []}
    if answer is not None:
        answers = {
            "text": [answer],
            "answer_start": [context.index(answer) if start is None else start],
        }
    return {"id": f"q{number}", "question": question, "context": context, "answers": answers}


def paragraphs(
    count: int, words: tuple[int, int] = (1, 60), answer_words: int = 4
) -> list[dict[str, Any]]:
    """Paragraphs of odd words and gaps; the answer is a run of words, which may have repeated words
    before it."""
    dice = random.Random(5)
    rows = []
    for number in range(count):
        context, places = dice.choice(["", " ", "\t\n"]), []
        for _ in range(dice.randint(*words)):
            word = dice.choice(WORDS)
            places.append((len(context), len(context) + len(word)))
            context += word + dice.choice(GAPS)
        first = dice.randrange(len(places))
        last = min(len(places), first + dice.randint(1, answer_words)) - 1
        start, end = places[first][0], places[last][1]
        question = " ".join(dice.choice(WORDS) for _ in range(dice.randint(1, 12)))
        rows.append(row(number, context, context[start:end], start, question))
    return rows


def byte_level(texts: list[str], trim: bool) -> TextEncoder:
    """As RoBERTa's: several tokens can stand for one character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return TextEncoder(tokenizer.to_str(), uses_segments=False)


def encoder(kind: str, rows: Table) -> TextEncoder:
    texts = task().texts(rows)
    if kind == "wordpiece":
        return TextEncoder(build_tokenizer(texts, 300), uses_segments=True)
    return byte_level(texts, trim=kind == "bytes")


def gold_outputs(features: Features) -> dict[str, np.ndarray]:
    """What a perfect model gives: all weight on the true positions of each window."""
    outputs = {}
    for name in ("start", "end"):
        outputs[name] = np.zeros(features.offsets[-1], np.float32)
        outputs[name][features.offsets[:-1] + features.columns[name]] = 10
    return outputs


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "bytes with spaces"])
def test_gold_positions_give_back_every_answer_exactly(kind: str) -> None:
    rows = table(paragraphs(300))
    short_enough = (
        {"stride": 60, "max_length": 120}
        if kind != "wordpiece"
        else {"stride": 30, "max_length": 60}
    )
    qa = task(max_answer_length=60, **short_enough)
    features = qa.encode(rows, encoder(kind, rows))
    assert features.notes["windows"] > 50 and features.notes["questions cut"] > 50
    assert qa.check(rows, labelled=True) == []
    predictions = qa.decode(gold_outputs(features), features, rows)
    # An answer that is no longer than the stride lies wholly in at least one window.
    for prediction, reference in zip(predictions, rows.rows.to_pylist(), strict=True):
        assert prediction["id"] == reference["id"]
        assert prediction["text"] == reference["answers"]["text"][0]
        place = prediction["n_best"][0]["answer_start"]
        assert reference["context"][place:].lstrip().startswith(prediction["text"])
    scores = compute(
        "squad", references=qa.references(rows), **qa.metric_inputs("squad", predictions)
    )
    assert scores["exact_match"] == 1.0


def test_only_windows_that_hold_the_whole_answer_point_at_it() -> None:
    words = [f"w{number}" for number in range(60)]
    context = " ".join(words)
    rows = table(
        [
            row(0, context, "w30 w31 w32"),
            row(1, context, " ".join(words[10:50])),
            row(2, context),
            row(3, context, " w30 w31 w32 "),
        ]
    )
    qa = task(no_answer=True, max_length=40, stride=10)
    encoded = encoder("wordpiece", rows)
    features = qa.encode(rows, encoded)
    char_start = features.token_columns["char_start"]
    char_end = features.token_columns["char_end"]
    for number in range(len(features)):
        offset = features.offsets[number]
        first, last = features.columns["start"][number], features.columns["end"][number]
        window = slice(
            offset + features.columns["context_start"][number],
            offset + features.columns["context_end"][number],
        )
        begin, end = context.index("w30"), context.index("w32") + 3
        if (
            features.columns["row"][number] in (0, 3)
            and char_start[window][0] <= begin
            and char_end[window][-1] >= end
        ):
            assert (char_start[offset + first], char_end[offset + last]) == (begin, end)
        else:
            assert (first, last) == (0, 0)
    assert set(features.columns["row"][features.columns["start"] > 0]) == {0, 3}
    assert qa.items(features, np.arange(len(features))) == len(features)


def test_positions_cover_answers_with_white_space_and_beside_uncovered_characters() -> None:
    contexts = [
        ("one two three", " two ", "two"),
        ("the 50th game", "50", "50th"),
        ("one two\u200b", "two\u200b", "two"),
        ("\x00one two", "\x00one two", "one two"),
    ]
    rows = table(
        [row(number, context, answer) for number, (context, answer, _) in enumerate(contexts)]
    )
    qa = task()
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    removed = [pre_tokenizers.Split(character, "removed") for character in "\u200b\x00"]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*removed, pre_tokenizers.WhitespaceSplit()])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    features = qa.encode(rows, TextEncoder(tokenizer.to_str(), uses_segments=True))
    predictions = qa.decode(gold_outputs(features), features, rows)
    assert [prediction["text"] for prediction in predictions] == [text for _, _, text in contexts]


def test_rows_without_label_are_left_out_of_the_loss() -> None:
    rows = table([row(0, "one two"), row(1, "one two", "two")])
    qa = task()
    features = qa.encode(rows, encoder("wordpiece", rows))
    assert features.columns["start"].tolist()[0] == -100 and qa.items(features, np.arange(2)) == 1
    assert qa.references(rows) is None
    bare = Table(rows.rows.drop_columns(["answers"]), "qa.jsonl", "test")
    assert qa.references(bare) is None and qa.check(bare, labelled=False) == []
    assert qa.items(qa.encode(bare, encoder("wordpiece", rows)), np.arange(2)) == 0
    assert task(no_answer=True).references(rows) is not None, (
        "empty lists are a label where questions may have no answer"
    )


def test_loss_is_the_mean_of_start_and_end_cross_entropy_over_context_and_first_position() -> None:
    rows = table(
        [
            row(0, "one two three four", "two three"),
            row(1, "a longer context of eight words or so"),
            row(2, "one"),
        ]
    )
    qa = task(no_answer=True)
    features = qa.encode(rows, encoder("wordpiece", rows))
    features.columns["start"][2] = features.columns["end"][2] = -100
    batch = collate(features, np.arange(3), input_format=InputFormat(0, True), denominator=2)
    generator = torch.Generator().manual_seed(0)
    outputs = {
        name: torch.randn(batch.input_ids.shape, generator=generator, requires_grad=True)
        for name in ("start", "end")
    }
    loss = qa.loss(outputs, batch)
    expected = 0.0
    for number in range(2):
        begin, end = (
            features.columns["context_start"][number],
            features.columns["context_end"][number],
        )
        for name, logits in outputs.items():
            allowed = [0, *range(begin, end)]
            values = [logits[number, place].item() for place in allowed]
            expected += (
                math.log(sum(map(math.exp, values)))
                - logits[number, features.columns[name][number]].item()
            ) / 2
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    gradient = outputs["start"].grad
    assert gradient is not None and gradient.isfinite().all() and not gradient[2].any()
    assert not gradient[~batch.attention_mask].any()
    assert not gradient[0, 1 : features.columns["context_start"][0]].any()
    assert (
        qa.loss({name: value.bfloat16() for name, value in outputs.items()}, batch).dtype
        == torch.float32
    )


def search(
    outputs: dict[str, np.ndarray], features: Features, contexts: list[str], max_answer_length: int
) -> list[dict[tuple[int, int], float]]:
    """Every allowed span of every window with its score, the best score of spans that are in
    several windows."""
    found: list[dict[tuple[int, int], float]] = [{} for _ in contexts]
    for number in range(len(features)):
        offset = features.offsets[number]
        begin, end = (
            features.columns["context_start"][number],
            features.columns["context_end"][number],
        )
        for first in range(begin, end):
            for last in range(first, min(end, first + max_answer_length)):
                place = (
                    int(features.token_columns["char_start"][offset + first]),
                    int(features.token_columns["char_end"][offset + last]),
                )
                score = float(outputs["start"][offset + first] + outputs["end"][offset + last])
                spans = found[features.columns["row"][number]]
                spans[place] = max(score, spans.get(place, -math.inf))
    return found


@pytest.mark.parametrize("max_answer_length", [1, 3, 100])
def test_decoding_finds_the_best_spans_over_all_windows(max_answer_length: int) -> None:
    rows = table(paragraphs(40))
    qa = task(
        no_answer=True, max_answer_length=max_answer_length, n_best=7, no_answer_threshold=0.5
    )
    features = qa.encode(rows, encoder("wordpiece", rows))
    dice = np.random.default_rng(0)
    outputs = {
        name: dice.normal(size=features.offsets[-1]).astype(np.float32) for name in ("start", "end")
    }
    outputs["start"][features.offsets[:-1]] += np.where(features.columns["row"] % 2, 12, 0)
    contexts = rows.column("context")
    predictions = qa.decode(outputs, features, rows)
    empty = 0
    for number, (spans, prediction) in enumerate(
        zip(search(outputs, features, contexts, max_answer_length), predictions, strict=True)
    ):
        best = sorted(spans.items(), key=lambda item: -item[1])[:7]
        assert [entry["score"] for entry in prediction["n_best"]] == pytest.approx(
            [score for _, score in best]
        )
        assert [entry["text"] for entry in prediction["n_best"]] == [
            contexts[number][start:end] for (start, end), _ in best
        ]
        assert [entry["answer_start"] for entry in prediction["n_best"]] == [
            start for (start, _), _ in best
        ]
        windows = np.flatnonzero(features.columns["row"] == number)
        nothing = min(
            float(outputs["start"][features.offsets[i]])
            + float(outputs["end"][features.offsets[i]])
            for i in windows
        )
        difference = nothing - best[0][1]
        assert prediction["no_answer_probability"] == pytest.approx(1 / (1 + math.exp(-difference)))
        assert prediction["text"] == (
            "" if difference > 0.5 else contexts[number][slice(*best[0][0])]
        )
        assert prediction["score"] == pytest.approx(nothing if difference > 0.5 else best[0][1])
        empty += prediction["text"] == ""
    assert 0 < empty < 40


def test_windows_in_any_order_give_the_same_predictions_and_every_question_may_have_an_answer() -> (
    None
):
    rows = table(paragraphs(10))
    qa = task()
    features = qa.encode(rows, encoder("wordpiece", rows))
    dice = np.random.default_rng(0)
    outputs = {
        name: dice.normal(size=features.offsets[-1]).astype(np.float32) for name in ("start", "end")
    }
    for values in outputs.values():
        values[features.offsets[:-1]] = 100
    predictions = qa.decode(outputs, features, rows)
    assert all(
        prediction["text"] and "no_answer_probability" not in prediction
        for prediction in predictions
    )
    order = np.random.default_rng(1).permutation(len(features))
    tokens = np.concatenate(
        [np.arange(features.offsets[i], features.offsets[i + 1]) for i in order]
    )
    shuffled = Features(
        features.ids[tokens],
        np.concatenate([[0], np.cumsum(features.lengths[order])]),
        features.segments[order],
        {name: column[order] for name, column in features.columns.items()},
        {name: column[tokens] for name, column in features.token_columns.items()},
    )
    assert (
        qa.decode({name: values[tokens] for name, values in outputs.items()}, shuffled, rows)
        == predictions
    )


def test_a_token_that_stands_for_no_character_is_no_end_of_an_answer() -> None:
    rows = table([row(0, "one two three", "two")])
    qa = task(n_best=100)
    features = qa.encode(rows, encoder("wordpiece", rows))
    outputs = {name: np.zeros(features.offsets[-1], np.float32) for name in ("start", "end")}
    empty = features.columns["context_start"][0] + 1
    features.token_columns["char_end"][empty] = features.token_columns["char_start"][empty]
    outputs["start"][empty] = outputs["end"][empty] = 100
    (prediction,) = qa.decode(outputs, features, rows)
    assert prediction["score"] == 0 and all(entry["text"] for entry in prediction["n_best"])


def test_a_generated_text_of_nothing_is_no_answer() -> None:
    rows = table([row(0, "one two", "two"), row(1, "one two"), row(2, "one two")])
    for no_answer, word in ((True, ""), (False, "Unanswerable")):
        answers = task(no_answer=no_answer).answers()
        assert answers is not None
        found = answers.from_texts(["two", " ", "Unanswerable"], rows)
        assert [prediction["text"] for prediction in found] == ["two", "", word]
        said = [prediction.get("no_answer_probability") for prediction in found]
        assert said == ([0.0, 1.0, 1.0] if no_answer else [None] * 3)


def test_extreme_and_broken_outputs() -> None:
    rows = table([row(0, "one two", "two"), row(1, "one two")])
    qa = task(no_answer=True)
    features = qa.encode(rows, encoder("wordpiece", rows))
    outputs = {name: np.zeros(features.offsets[-1], np.float32) for name in ("start", "end")}
    outputs["start"][features.offsets[0]], outputs["start"][features.offsets[1]] = -2000, 2000
    predictions = qa.decode(outputs, features, rows)
    assert [prediction["no_answer_probability"] for prediction in predictions] == [0.0, 1.0]
    assert [bool(prediction["text"]) for prediction in predictions] == [True, False]
    outputs["end"][3] = np.nan
    with pytest.raises(RunError, match="not finite"):
        qa.decode(outputs, features, rows)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 2.0])
def test_squad_v2_scores_are_those_of_the_texts_with_the_threshold_applied(
    threshold: float,
) -> None:
    paragraph_rows = [
        entry if number % 3 else row(number, entry["context"])
        for number, entry in enumerate(paragraphs(60, words=(1, 6)))
    ]
    rows = table(paragraph_rows)
    qa = task(no_answer=True, no_answer_threshold=threshold)
    features = qa.encode(rows, encoder("wordpiece", rows))
    dice = np.random.default_rng(0)
    outputs = {
        name: gold + dice.normal(scale=5, size=len(gold))
        for name, gold in gold_outputs(features).items()
    }
    predictions = qa.decode(outputs, features, rows)
    references = qa.references(rows)
    files = qa.official_files(predictions)
    texts, probabilities = files[".json"], files[".na_prob.json"]
    assert list(texts) == rows.column("id") and 0 < sum(not text for text in texts.values()) < 60
    official = [
        {"id": key, "prediction_text": texts[key], "no_answer_probability": probabilities[key]}
        for key in texts
    ]
    scores = compute("squad_v2", references=references, **qa.metric_inputs("squad_v2", predictions))
    plain = compute("squad_v2", official, references)
    for key in ("f1", "exact_match", "HasAns_f1", "NoAns_f1", "HasAns_exact", "NoAns_exact"):
        assert scores[key] == pytest.approx(plain[key])
    assert scores["best_f1"] >= max(scores["f1"], plain["best_f1"])
    # The best threshold that is reported is one that can be set: the score becomes the best.
    found = scores["best_f1_thresh"]
    if 0 < found < 1:
        better = task(no_answer=True, no_answer_threshold=math.log(found / (1 - found)) + 1e-9)
        again = better.decode(outputs, features, rows)
        assert compute(
            "squad_v2", references=references, **better.metric_inputs("squad_v2", again)
        )["f1"] == pytest.approx(scores["best_f1"])
    assert qa.majority(references or [], "squad_v2") == pytest.approx(1 / 3)


def test_squad_files_metrics_and_majority() -> None:
    rows = table([row(0, "one two", "two")])
    qa = task()
    features = qa.encode(rows, encoder("wordpiece", rows))
    predictions = qa.decode(gold_outputs(features), features, rows)
    assert qa.official_files(predictions) == {".json": {"q0": "two"}}
    assert qa.metrics == ["squad"] and task(no_answer=True).metrics == ["squad_v2"]
    assert qa.majority(qa.references(rows) or [], "squad") == 0.0
    assert (
        compute(
            "squad_v2", references=qa.references(rows), **qa.metric_inputs("squad_v2", predictions)
        )["f1"]
        == 1.0
    )


OUTSIDE = "lies outside of the context, which has 7 characters"


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"question": "  "}, "row 2", "column 'question' is empty or missing"),
        ({"context": ""}, "row 2", "column 'context' is empty or missing"),
        ({"id": "q0"}, "row 2", "id 'q0' is that of row 1 too"),
        ({"id": ""}, "row 2", "column 'id' is empty or missing"),
        (
            {"answers": {"text": ["two"], "answer_start": [3]}},
            "row 2",
            "the context has ' tw' at answer_start 3, not the answer 'two'",
        ),
        (
            {"answers": {"text": ["two"], "answer_start": [5]}},
            "row 2",
            f"the answer 'two' at answer_start 5 {OUTSIDE}",
        ),
        (
            {"answers": {"text": ["two"], "answer_start": [-3]}},
            "row 2",
            f"the answer 'two' at answer_start -3 {OUTSIDE}",
        ),
        (
            {"answers": {"text": ["two"], "answer_start": [4, 5]}},
            "row 2",
            "column 'answers' is not well-formed",
        ),
        (
            {"answers": {"text": [""], "answer_start": [4]}},
            "row 2",
            "column 'answers' is not well-formed",
        ),
        (
            {"answers": {"text": [None], "answer_start": [4]}},
            "row 2",
            "column 'answers' is not well-formed",
        ),
        ({"answers": {"text": [], "answer_start": []}}, "row 2", "the question has no answer"),
        ({"answers": None}, "row 2", "the question has no answer"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, Any], where: str, what: str) -> None:
    good = [row(number, "one two", "two") for number in range(3)]
    good[1] |= changes
    (problem,) = task().check(table(good), labelled=True)
    assert (problem.where, problem.what) == (f"qa.jsonl, {where}", what)
    assert problem.fix


def test_rows_with_an_answer_are_found() -> None:
    rows = [row(0, "one two", "two"), row(1, "one two"), row(2, "one two") | {"answers": None}]
    rows.append(row(3, "one two") | {"answers": {"text": [], "answer_start": [3]}})
    assert task().labelled(table(rows)).tolist() == [True, False, False, True], (
        "what is malformed is refused, not left out"
    )
    assert task(no_answer=True).labelled(table(rows)).tolist() == [True, True, False, True]


def test_many_bad_rows_are_one_problem_and_no_answer_is_a_matter_of_the_task() -> None:
    rows = table([row(0, "one two", "two"), row(1, "one two"), row(2, "one two")])
    (problem,) = task().check(rows, labelled=True)
    assert (
        problem.what == "the question has no answer (and 1 more: row 3)"
        and "tasks.qa.no_answer=true" in problem.fix
    )
    assert task(no_answer=True).check(rows, labelled=True) == []
    (problem,) = task(no_answer=True, metrics=["squad_v2", "squad"]).check(rows, labelled=True)
    assert problem.where == "tasks.qa.metrics"


@pytest.mark.parametrize(
    "answers",
    [
        # as pandas writes them
        [{"text": ["two"], "answer_start": [4.0]}, {"text": [], "answer_start": []}, None],
        [[{"text": "two", "answer_start": 4}], [], None],  # as the published files have them
    ],
)
def test_other_forms_of_answers(answers: list[Any]) -> None:
    columns = {"id": ["q0", "q1", "q2"], "question": ["which?"] * 3, "context": ["one two"] * 3}
    rows = Table(pa.table({**columns, "answers": answers}), "qa.jsonl", "train")
    usual = {"text": ["two"], "answer_start": [4]}
    (absent,) = task(no_answer=True).check(rows, labelled=True)
    assert absent.where == "qa.jsonl, row 3"
    sound = rows.head(2)
    assert task(no_answer=True).check(sound, labelled=True) == []
    references = task(no_answer=True).references(sound)
    assert references is not None and references[0]["answers"] == usual
    assert str(references[0]["answers"]) == str(usual), "27.0 is 27"
    half = Table(
        pa.table({**columns, "answers": [{"text": ["two"], "answer_start": [4.5]}] * 3}),
        "qa.jsonl",
        "train",
    )
    (problem,) = task().check(half, labelled=True)
    assert problem.what == "answer_start 4.5 is not a whole number (and 2 more: rows 2, 3)"


def test_answers_as_texts_alone_stand_where_the_context_first_has_them_as_words() -> None:
    context = "Oscar drives a car, and the other car waits"
    columns = {
        "id": [{"passage": 3, "query": number} for number in range(3)],
        "question": ["which?"] * 3,
        "context": [context] * 3,
    }
    rows = Table(
        pa.table({**columns, "answers": [["car"], ["rive", "waits"], []]}), "qa.jsonl", "train"
    )
    references = task(no_answer=True).references(rows)
    assert references is not None
    assert [reference["id"] for reference in references] == ["3-0", "3-1", "3-2"]
    assert [reference["answers"]["answer_start"] for reference in references] == [[15], [7, 38], []]
    assert task(no_answer=True).check(rows, labelled=True) == []
    assert task().labelled(rows).tolist() == [True, True, False]
    rows = Table(pa.table({**columns, "answers": [["bus"], ["car"], None]}), "qa.jsonl", "train")
    nowhere, absent = sorted(task().check(rows, labelled=True), key=lambda each: each.where)
    assert nowhere.where == "qa.jsonl, row 1" and absent.where == "qa.jsonl, row 3"
    assert nowhere.what == "the answer 'bus' is nowhere in the context"
    columns["id"] = columns["id"][:1] * 3
    rows = Table(pa.table({**columns, "answers": [["car"]] * 3}), "qa.jsonl", "train")
    (problem,) = task().check(rows, labelled=True)
    assert problem.where == "qa.jsonl, row 2" and "is that of row 1 too" in problem.what


def test_columns_of_the_wrong_type() -> None:
    columns = {"id": [1, 2], "question": ["a", "b"], "context": ["one", "two"]}
    flat = Table(pa.table({**columns, "answers": ["one", "two"]}), "qa.csv", "train")
    (problem,) = task().check(flat, labelled=True)
    assert (
        "column 'answers' holds text ('one'), where {text: [...], answer_start: [...]} is needed"
        in problem.what
    )
    for answers, what in [
        (
            {"text": ["one"], "answer_start": ["0"]},
            "holds text in answer_start, where whole numbers are needed",
        ),
        (
            [{"text": "one", "answer_start": True}],
            "holds true and false in answer_start, where whole numbers are needed",
        ),
        ({"text": [1], "answer_start": [0]}, "holds whole numbers in text, where texts are needed"),
        (
            {"text": ["one"], "answer_start": 0},
            "holds one answer_start, where a list is needed, also of one",
        ),
    ]:
        rows = Table(pa.table({**columns, "answers": [answers] * 2}), "qa.jsonl", "train")
        assert [problem.what for problem in task().check(rows, labelled=True)] == [
            f"column 'answers' {what}"
        ]
    numbers = Table(
        pa.table({**columns, "id": [0.5, 1.5], "answers": pa.nulls(2)}), "qa.csv", "test"
    )
    assert [problem.what[:25] for problem in task().check(numbers, labelled=False)] == [
        "column 'id' holds numbers"
    ]


@pytest.mark.skipif("MTL_DATA" not in os.environ, reason="needs the real data sets")
@pytest.mark.parametrize(
    ("name", "max_length", "stride"), [("squad", 384, 128), ("squad_v2", 128, 32)]
)
def test_gold_positions_give_back_every_real_answer(
    name: str, max_length: int, stride: int
) -> None:
    rows = Table(
        pq.read_table(Path(os.environ["MTL_DATA"]) / name / "validation.parquet"),
        name,
        "validation",
    )
    qa = task(
        max_length=max_length,
        stride=stride,
        max_question_length=64,
        no_answer=name == "squad_v2",
        max_answer_length=max_length,
    )
    assert qa.check(rows, labelled=True) == []
    features = qa.encode(
        rows, TextEncoder(build_tokenizer(qa.texts(rows.head(3000)), 8000), uses_segments=True)
    )
    predictions = qa.decode(gold_outputs(features), features, rows)
    references = qa.references(rows)
    assert references is not None
    answered = set(features.columns["row"][features.columns["start"] > 0].tolist())
    kept, wrong = [], []
    for number, context in enumerate(rows.column("context")):
        answers = references[number]["answers"]
        if not answers["text"]:
            kept.append(number)
            continue
        start, text = answers["answer_start"][0], answers["text"][0]
        around = (
            context[start - 1 : start + 1] if start else " ",
            context[start + len(text) - 1 : start + len(text) + 1],
        )
        # The data set has answers that start or end inside a word ("5" of "50", "20" of "£20"): no
        # tokenizer gives these back.
        inside = any(
            len(pair) == 2
            and not any(letter.isspace() or letter in string.punctuation for letter in pair)
            for pair in around
        )
        if number in answered and not inside:
            kept.append(number)
            wrong += (
                []
                if predictions[number]["text"] == text.strip() or name == "squad_v2"
                else [number]
            )
    assert len(kept) > 0.99 * len(rows) and not wrong
    metric = qa.metrics[0]
    inputs = qa.metric_inputs(metric, [predictions[number] for number in kept])
    assert (
        compute(metric, references=[references[number] for number in kept], **inputs)["exact_match"]
        == 1.0
    )


def test_the_threshold_is_chosen_between_the_questions_that_it_tells_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by trying every threshold between two neighbouring questions."""
    draw = random.Random(5)
    qa = task(no_answer=True, no_answer_threshold="auto")
    for _ in range(40):
        odds = [draw.uniform(-8, 8) for _ in range(12)]
        golds = [draw.choice(["x", "y", None]) for _ in odds]
        rows = table(
            [
                {
                    "id": str(number),
                    "question": "q",
                    "context": "x y",
                    "answers": {
                        "text": [gold] if gold else [],
                        "answer_start": ["x y".index(gold)] if gold else [],
                    },
                }
                for number, gold in enumerate(golds)
            ]
        )
        found = [
            qa._prediction(str(number), "x y", {(0, 1): 0.0}, odd)
            for number, odd in enumerate(odds)
        ]
        monkeypatch.setattr(qa, "decode", lambda *parts, found=found: found)
        chosen = qa.calibrate({}, Split(rows, None))["no_answer_threshold"]  # type: ignore[arg-type]

        def score(threshold: float, odds: list[float] = odds, golds: list[Any] = golds) -> int:
            given = [None if odd > threshold else "x" for odd in odds]
            return sum(a == b for a, b in zip(given, golds, strict=True))

        assert score(chosen) == max(map(score, [-30, *odds]))
        assert min(abs(chosen - odd) for odd in odds) > 1e-3
        texts = [qa._prediction("0", "x y", {(0, 1): 0.0}, odd)["text"] for odd in odds]
        assert texts == ["" if odd > chosen else "x" for odd in odds]
