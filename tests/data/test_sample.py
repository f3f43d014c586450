"""The sample world: columns, determinism, no leak, sensible labels."""

from __future__ import annotations

from collections import Counter

import pytest

from mtlcli.data.sample import sample_paths, sample_table

TABLES = [(path, split) for path, splits in sample_paths().items() for split in splits]
TEXTS = ("sentence", "sentence1", "sentence2", "premise", "hypothesis", "question1", "question2", "question")


@pytest.mark.parametrize("path", [path for path, splits in sample_paths().items() if len(splits) > 1])
def test_no_text_of_train_is_in_validation(path: str) -> None:
    # Questions on a paragraph and readings of a pronoun are few, so both splits ask the same; what they are about is not shared.
    texts = ("context",) if path.startswith("squad") else ("sentence1",) if path == "glue/wnli" else TEXTS
    train, *others = (sample_table(path, split, 0) for split in sample_paths()[path])
    seen = {text for name in texts if name in train.column_names for text in train[name].to_pylist()}
    for table in others:
        for name in texts:
            if name in table.column_names:
                assert seen.isdisjoint(table[name].to_pylist())


@pytest.mark.parametrize(("path", "split"), TABLES)
def test_rows_are_unique_and_no_label_rules(path: str, split: str) -> None:
    rows = sample_table(path, split, 0).to_pylist()
    if path.startswith("squad"):
        keys = Counter(row["id"] for row in rows)
        for row in rows:
            for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
                assert row["context"][start : start + len(text)] == text
    else:
        keys = Counter(tuple(value for name, value in row.items() if name in TEXTS) for row in rows)
        labels = Counter(row["label"] for row in rows)
        if path != "glue/ax":
            assert max(labels.values()) < 0.65 * len(rows)
    assert max(keys.values()) == 1


def test_unknown_table_is_a_key_error() -> None:
    for path, split in (("glue/none", "train"), ("glue/cola", "test")):
        with pytest.raises(KeyError):
            sample_table(path, split, 0)
