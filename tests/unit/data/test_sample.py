"""The sample world: the hub's columns, the same rows everywhere, no leak, labels that no single
word gives away."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtlcli.data import sample
from mtlcli.data.sample import catalogue, sample_paths, sample_table, words
from mtlcli.data.sample.world import World

# test_sample_catalogue.py is about the others.
PATHS = {path: splits for path, splits in sample_paths().items() if path not in catalogue.TABLES}
TABLES = [(path, split) for path, splits in PATHS.items() for split in splits]
TEXTS = (
    "sentence",
    "sentence1",
    "sentence2",
    "premise",
    "hypothesis",
    "question1",
    "question2",
    "question",
)
TWO_TEXTS = ["glue/mrpc", "glue/qqp", "glue/mnli", "glue/qnli", "glue/rte", "glue/wnli"]
SQUAD = [
    *(("id", "string"), ("title", "string"), ("context", "string"), ("question", "string")),
    ("answers", "struct<text: list<element: string>, answer_start: list<element: int32>>"),
]
WORDS = ("tokens", "list<element: string>")
TAGGED = ("ud_ewt", "conll2003")
# The column whose texts are in one row only, of the tables that are no GLUE and no SQuAD.
KEYS = {
    "ud_ewt": "tokens",
    "conll2003": "tokens",
    "go_emotions": "text",
    "multi30k": "translation",
    "wmt16": "translation",
    "cnn_dailymail": "article",
    "xsum": "document",
    "samsum": "dialogue",
    "wikitext": "text",
    "swag": "sent1",
    "super_glue/copa": "premise",
    "race": "article",
    "ms_marco": "passages",
    "sem_eval_2010_task_8": "sentence",
    "tacred": "token",
}
TRANSLATED = [("translation", "struct<de: string, en: string>")]
COLUMNS = {
    "glue/cola": [("sentence", "string"), ("label", "int64"), ("idx", "int32")],
    "glue/sst2": [("sentence", "string"), ("label", "int64"), ("idx", "int32")],
    "glue/mrpc": [
        ("sentence1", "string"),
        ("sentence2", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "glue/stsb": [
        ("sentence1", "string"),
        ("sentence2", "string"),
        ("label", "float"),
        ("idx", "int32"),
    ],
    "glue/qqp": [
        ("question1", "string"),
        ("question2", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "glue/mnli": [
        ("premise", "string"),
        ("hypothesis", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "glue/qnli": [
        ("question", "string"),
        ("sentence", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "glue/rte": [
        ("sentence1", "string"),
        ("sentence2", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "glue/wnli": [
        ("sentence1", "string"),
        ("sentence2", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "glue/ax": [
        ("premise", "string"),
        ("hypothesis", "string"),
        ("label", "int64"),
        ("idx", "int32"),
    ],
    "squad": SQUAD,
    "squad_v2": SQUAD,
    "ud_ewt": [("id", "string"), WORDS, ("upos", "list<element: int64>")],
    "conll2003": [("id", "string"), WORDS, ("ner_tags", "list<element: int64>")],
    "multi30k": TRANSLATED,
    "wmt16": TRANSLATED,
    "cnn_dailymail": [("article", "string"), ("highlights", "string"), ("id", "string")],
    "xsum": [("document", "string"), ("summary", "string"), ("id", "string")],
    "samsum": [("dialogue", "string"), ("summary", "string"), ("id", "string")],
    "wikitext": [("text", "string")],
    "go_emotions": [("text", "string"), ("labels", "list<element: int64>"), ("id", "string")],
    "swag": [
        *((name, "string") for name in ("video-id", "fold-ind", "startphrase", "sent1", "sent2")),
        *((name, "string") for name in ("gold-source", "ending0", "ending1", "ending2", "ending3")),
        ("label", "int64"),
    ],
    "super_glue/copa": [
        *((name, "string") for name in ("premise", "choice1", "choice2", "question")),
        ("idx", "int32"),
        ("label", "int64"),
    ],
    "sem_eval_2010_task_8": [("sentence", "string"), ("relation", "int64")],
    "tacred": [
        *(("id", "string"), ("relation", "string"), ("token", "list<element: string>")),
        *((name, "int64") for name in ("subj_start", "subj_end", "obj_start", "obj_end")),
        *(("subj_type", "string"), ("obj_type", "string")),
    ],
    "ms_marco": [
        ("answers", "list<element: string>"),
        (
            "passages",
            "struct<is_selected: list<element: int32>, passage_text: list<element: string>, "
            "url: list<element: string>>",
        ),
        ("query", "string"),
        ("query_id", "int32"),
        ("query_type", "string"),
    ],
    "race": [
        *((name, "string") for name in ("example_id", "article", "answer", "question")),
        ("options", "list<element: string>"),
    ],
}
SPLITS = {
    **{path: ["train", "test", "validation"] for path in COLUMNS},
    "glue/mnli": [
        "train",
        "test_matched",
        "test_mismatched",
        "validation_matched",
        "validation_mismatched",
    ],
    "glue/ax": ["test"],
    "sem_eval_2010_task_8": ["train", "test"],
    "squad": ["train", "validation"],
    "squad_v2": ["train", "validation"],
}
PINNED = "bafb8ebf518ecd059395ff42cf10eae000e52b7301180c600671ed67f414d059"

PINNED_MORE = {
    "go_emotions": "f9439c93fedb",
    "multi30k": "51545483ccec",
    "wmt16": "f1765af5dcdb",
    "cnn_dailymail": "8b139e73c53b",
    "xsum": "558de1617ce4",
    "samsum": "db4bb3732c98",
    "wikitext": "fb93f9d6b6cf",
    "swag": "32a404d52f08",
    "super_glue/copa": "d5a4eb5c8f65",
    "race": "04505ecd9c0d",
    "ms_marco": "52ba829dd69e",
    "sem_eval_2010_task_8": "50ac555b7a9b",
    "tacred": "469c9e1b6e5a",
}
PINNED_TAGS = "8549011f5134f36ebeed18793c0e78170b015c2cdf8feaa4db38d85a701709a2"


def digest(tables: list[tuple[str, str]], seed: int = 0) -> str:
    """SHA-256 of the rows of tables."""
    rows = [[path, split, sample_table(path, split, seed).to_pylist()] for path, split in tables]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_paths_and_columns_are_the_hubs() -> None:
    assert PATHS == SPLITS
    for path, split in TABLES:
        assert [
            (field.name, str(field.type)) for field in sample_table(path, split, 0).schema
        ] == COLUMNS[path]


@pytest.mark.skipif(
    "MTL_DATA" not in os.environ, reason="MTL_DATA does not name a folder with the real data"
)
def test_schemas_equal_the_real_files() -> None:
    compared = 0
    for path, split in TABLES:
        file = Path(os.environ["MTL_DATA"]) / path / f"{split}.parquet"
        if file.exists():
            assert sample_table(path, split, 0).schema.equals(
                pq.read_schema(file).remove_metadata()
            ), file
            compared += 1
    assert compared


def test_rows_are_pinned() -> None:
    published = [
        (path, split)
        for path, split in TABLES
        if path not in KEYS and (path == "glue/ax" or not split.startswith("test"))
    ]
    assert digest(published) == PINNED
    assert digest([(path, "train") for path in TAGGED]) == PINNED_TAGS
    more = {path: digest([(path, "train")])[:12] for path in KEYS if path not in TAGGED}
    assert more == PINNED_MORE


def test_test_splits_have_no_labels_as_on_the_hub() -> None:
    for path, split in TABLES:
        if split.startswith("test") and path not in KEYS:
            table = sample_table(path, split, 0)
            assert len(table) >= 200 and set(table["label"].to_pylist()) == {-1}


def test_rows_depend_on_nothing_but_path_split_and_seed() -> None:
    one = [("glue/rte", "train")]
    before = digest(one)
    sample._tables.cache_clear()
    sample_table("squad", "train", 3)
    assert digest(one) == before
    assert digest(one, seed=1) != before


def test_no_table_needs_torch() -> None:
    code = (
        "import sys; from mtlcli.data.sample import sample_table; sample_table('squad', "
        "'train', 0); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", [path for path, splits in PATHS.items() if len(splits) > 1])
def test_no_text_of_train_is_in_another_split(path: str) -> None:
    # Questions on a paragraph and readings of a pronoun are few, so both splits ask the same; what
    # they are about is not shared.
    texts = (
        ("context",)
        if path.startswith("squad")
        else ("sentence1",)
        if path == "glue/wnli"
        else (KEYS[path],)
        if path in KEYS
        else TEXTS
    )
    train, *others = (sample_table(path, split, 0) for split in sample_paths()[path])
    names = [name for name in texts if name in train.column_names]
    seen = {str(text) for name in names for text in train[name].to_pylist()}
    assert seen
    for table in others:
        for name in names:
            assert seen.isdisjoint(map(str, table[name].to_pylist()))


@pytest.mark.parametrize(("path", "split"), TABLES)
def test_rows_are_unique_and_no_label_rules(path: str, split: str) -> None:
    rows = sample_table(path, split, 0).to_pylist()
    if path.startswith("squad"):
        keys = Counter((row["context"], row["question"]) for row in rows)
        assert len({row["id"] for row in rows}) == len(rows)
    elif path in KEYS:
        keys = Counter(str(row[KEYS[path]]) for row in rows)
        if path in TAGGED:
            assert all(len(row["tokens"]) == len(row[COLUMNS[path][2][0]]) for row in rows)
    else:
        keys = Counter(tuple(value for name, value in row.items() if name in TEXTS) for row in rows)
        labels = Counter(row["label"] for row in rows)
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        assert (
            set(labels) == {-1}
            if split.startswith("test")
            else max(labels.values()) < 0.65 * len(rows)
        )
    assert max(keys.values()) == 1


@pytest.mark.parametrize("path", ["squad", "squad_v2"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_answers_are_whole_words_of_the_context(path: str, split: str) -> None:
    rows = sample_table(path, split, 0).to_pylist()
    for row in rows:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            context = f" {row['context']} "
            assert context[start + 1 : start + 1 + len(text)] == text
            assert not context[start].isalnum() and not context[start + 1 + len(text)].isalnum()
    unanswerable = sum(not row["answers"]["text"] for row in rows) / len(rows)
    assert unanswerable == 0 if path == "squad" else 0.2 < unanswerable < 0.4


def test_scores_of_stsb_fall_with_the_words_that_differ() -> None:
    shared = defaultdict(list)
    for row in sample_table("glue/stsb", "train", 0).to_pylist():
        first, second = (
            set(row[name].lower().strip(".").replace(",", "").split())
            for name in ("sentence1", "sentence2")
        )
        shared[row["label"]].append(len(first & second) / len(first | second))
    means = [sum(shared[score]) / len(shared[score]) for score in (0.0, 1.25, 2.5, 3.75, 5.0)]
    assert set(shared) == {0.0, 1.25, 2.5, 3.75, 5.0}
    assert means == sorted(means)


@pytest.mark.parametrize("path", TWO_TEXTS)
def test_words_alone_do_not_reveal_the_label(path: str) -> None:
    """A linear classifier over the words of both texts stays near the most frequent label: the
    texts must be compared."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    train, validation, *_ = (sample_table(path, split, 0) for split in sample_paths()[path])
    columns = [name for name, _ in COLUMNS[path] if name in TEXTS]
    vectorizers = [CountVectorizer(binary=True).fit(train[name].to_pylist()) for name in columns]
    seen, unseen = (
        hstack(
            [
                vectorizer.transform(table[name].to_pylist())
                for name, vectorizer in zip(columns, vectorizers, strict=True)
            ]
        )
        for table in (train, validation)
    )
    labels = validation["label"].to_pylist()
    accuracy = (
        LogisticRegression(max_iter=300).fit(seen, train["label"].to_pylist()).score(unseen, labels)
    )
    assert accuracy < max(Counter(labels).values()) / len(labels) + (
        0.25 if path == "glue/mnli" else 0.2
    )


def test_entailed_and_contradicted_follow_from_the_words() -> None:
    """A hypothesis that follows names the premise's person; one that contradicts does too, and is
    denied or differs in a fact."""
    world = World(0)
    person_of = {
        **{person: person for person in words.PEOPLE},
        **{job: person for person, job in world.job.items()},
    }

    def people(text: str) -> set[str]:
        return {person_of[word] for word in text.replace(".", "").split() if word in person_of}

    for row in sample_table("glue/mnli", "train", 0).to_pylist():
        if row["label"] != 1:
            assert people(row["premise"]) == people(row["hypothesis"]), row


def test_unknown_table_is_a_key_error() -> None:
    for path, split in (("glue/none", "train"), ("squad", "test"), ("glue/ax", "train")):
        with pytest.raises(KeyError):
            sample_table(path, split, 0)
