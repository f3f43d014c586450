"""Tags onto sub-words and back, row checks, loss and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from mtlcli.config.task import Source
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import NO_TARGET
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.tasks.tagging import TaggingColumns, TaggingTask
from mtlcli.tasks.tagging.task import Tagging

WORDS = [["Anna", "unbelievably", "visits", "New York", "."], ["No", "\u200b", "."]]
TAGS = [["B-PER", "O", "O", "B-LOC", "O"], ["O", "O", "O"]]


def task(labels: list[str] | None = None, **options: Any) -> Tagging:
    return Tagging(
        "toy",
        TaggingTask(
            source=Source(path="x"),
            columns=TaggingColumns(),
            labels=labels,
            max_length=32,
            **options,
        ),
    )


def table(words: Any = WORDS, tags: Any = TAGS, metadata: dict[str, str] | None = None) -> Table:
    rows = pa.table({"tokens": pa.array(words), "tags": pa.array(tags)})
    return Table(rows.replace_schema_metadata(metadata), "toy.jsonl", "train")


def encoder() -> TextEncoder:
    texts = ["anna visits new york . no", "un believ ably", "word0 word1"] * 3
    return TextEncoder(build_tokenizer(texts, 80), uses_segments=False)


def prepared(labels: list[str] | None = None, **options: Any) -> Tagging:
    made = task(labels, **options)
    made.prepare(table())
    return made


def test_the_first_token_of_a_word_carries_its_tag() -> None:
    made, text = prepared(), encoder()
    assert made.config.labels == ["B-LOC", "B-PER", "O"]
    assert made.default_metrics == ["entity_f1", "tag_accuracy"]
    features = made.encode(table(), text)
    first = slice(0, features.offsets[1])
    words, tags = features.token_columns["word"][first], features.token_targets["tag"][first]
    assert [int(word) for word in words if word >= 0] == [0, 1, 2, 3, 4]
    assert [made.labels[tag] for tag in tags if tag != NO_TARGET] == TAGS[0]
    assert ((words >= 0) == (tags != NO_TARGET)).all()
    # "unbelievably" and "New York" have more tokens than one.
    assert len(words) > 2 + len(WORDS[0]) + 1
    # The control character has no token, so it has no part in the loss.
    assert features.columns["words"].tolist() == [5, 2]
    assert features.notes["words without a token"] == 1


def test_perfect_outputs_give_the_tags_back_and_no_loss() -> None:
    made, text = prepared(), encoder()
    features = made.encode(table(), text)
    targets = features.token_targets["tag"]
    logits = np.zeros((len(targets), 3), np.float32)
    logits[np.arange(len(targets)), np.maximum(targets, 0)] = 40.0
    predictions = made.decode({"logits": logits}, features, table())
    assert [prediction["tags"] for prediction in predictions] == TAGS
    assert predictions[0]["entities"] == [
        {"type": "PER", "text": "Anna", "first": 0, "last": 0},
        {"type": "LOC", "text": "New York", "first": 3, "last": 3},
    ]
    batch = collate(features, np.array([1, 0]), input_format=InputFormat(0, False), denominator=7.0)
    padded = torch.zeros(2, batch.input_ids.shape[1], 3)
    padded[batch.attention_mask] = torch.from_numpy(
        np.concatenate([logits[features.offsets[1] :], logits[: features.offsets[1]]])
    )
    assert float(made.loss({"logits": padded}, batch)) == pytest.approx(0.0, abs=1e-6)
    # All 7 words with a token count, and nothing else: padding, special tokens, later sub-words.
    flat = torch.zeros_like(padded)
    assert float(made.loss({"logits": flat}, batch)) == pytest.approx(7 * np.log(3), rel=1e-6)
    assert made.items(features, np.array([0, 1])) == 7


@pytest.mark.parametrize("stride", [0, 3, 4])
def test_each_word_of_a_long_sentence_counts_in_one_window(stride: int) -> None:
    words = [[f"word{number % 2}" for number in range(100)]]
    long = table(words, [["A" if number % 3 else "B" for number in range(100)]])
    made = task(stride=stride)
    made.prepare(long)
    features = made.encode(long, encoder())
    assert features.notes["windows"] >= 3 and features.longest <= 32
    assert sorted(features.token_columns["word"][features.token_columns["word"] >= 0]) == list(
        range(100)
    )
    assert features.columns["words"].sum() == 100


def test_ids_are_those_of_the_names_in_the_file() -> None:
    names = '{"info": {"features": {"tags": {"feature": {"names": ["O", "B-PER"]}}}}}'
    made, rows = task(), table([["a", "b"]], [[1, 0]], {"huggingface": names})
    made.prepare(rows)
    assert made.labels == ["O", "B-PER"]
    assert made.references(rows) == [["B-PER", "O"]]
    # The order of the task's own list does not matter where the file has names.
    assert task(["B-PER", "O"]).references(rows) == [["B-PER", "O"]]


def test_entities_are_scored_only_where_tags_spell_them() -> None:
    made = task(["NOUN", "VERB"], metrics=["entity_f1"])
    (problem,) = made.check(table([["a"]], [["NOUN"]]), labelled=True)
    assert problem.where == "tasks.toy.metrics" and "spell entities" in problem.what


@pytest.mark.parametrize(
    ("words", "tags", "what", "fix"),
    [
        ([["a", "b"]], [["O"]], "there are 1 tags for 2 words", "exactly one tag"),
        ([["a", ""]], [["O", "O"]], "word 2 of 2 in column 'tokens' is empty", "delete it"),
        ([["a"], []], [["O"], ["O"]], "column 'tokens' has no words", "leave the row out"),
        (["a b"], [["O"]], "lists of words are needed", "csv cannot hold lists"),
        ([["a"]], ["O"], "lists of tags or of ids are needed", "columns.label"),
        ([["a"]], [["B-PERR"]], "has the tag 'B-PERR', which is not one", "did you mean 'B-PER'"),
        ([["a"]], [[None]], "has no tag", "tasks.toy.labels"),
        ([["a"], ["b"]], [["O"], None], "column 'tags' has no tags", "unlabelled=skip"),
        ([["a"]], [[7]], "has the tag '7'", "tasks.toy.labels"),
    ],
)
def test_faults_of_rows_are_named(words: Any, tags: Any, what: str, fix: str) -> None:
    (problem,) = task(["O", "B-PER"]).check(table(words, tags), labelled=True)
    assert what in problem.what and fix in problem.fix
    assert problem.where.startswith("toy.jsonl, row")


def test_weights_of_tags_are_those_of_torch() -> None:
    made = prepared(["B-LOC", "B-PER", "O"], class_weights={"O": 0.5, "B-LOC": 3.0})
    features = made.encode(table(), encoder())
    batch = collate(features, np.array([0, 1]), input_format=InputFormat(0, False), denominator=1.0)
    logits = torch.randn(*batch.input_ids.shape, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        batch.token_targets["tag"].flatten(),
        weight=torch.tensor([3.0, 1.0, 0.5]),
    )
    found = made.loss({"logits": logits}, batch) / made.items(features, np.array([0, 1]))
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    made = prepared(["B-LOC", "B-PER", "O"], class_weights="balanced")
    made.prepare(table())
    tags = [tag for row in table().column("tags") for tag in row or []]
    wanted = compute_class_weight("balanced", classes=np.array(made.labels), y=tags)
    assert made._weights == pytest.approx(wanted)
    # An evaluation reads no train split, and computes no loss to learn from.
    unread = task(["B-LOC", "B-PER", "O"], class_weights="balanced")
    assert unread._weights is None
