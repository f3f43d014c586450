"""The tables of the catalogue: the columns, class names and splits of the hub's data sets, read
through `datasets` as the hub's are, and rows that keep to their split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.groups import read_group
from mtlcli.cli.preflight import preflight
from mtlcli.config.run import Data
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.sample import catalogue, sample_paths, sample_table
from mtlcli.data.source import open_source
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.prepare.checks import check_tables
from mtlcli.tasks.base import build_tasks

USUAL = ["train", "test", "validation"]
REVIEWED = ["train", "test"]
TRUTH = ["False", "True"]
NLI = ["entailment", "neutral", "contradiction"]
ENTITIES = ["corporation", "creative-work", "group", "location", "person", "product"]


def texts(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, "string")


Feature = str | list[Any] | dict[str, Any] | tuple[str, ...]
# As the data sets' cards have them: a type; [type] for lists; {...} for objects; ("class", names).
HUB: dict[str, tuple[dict[str, Any], list[str]]] = {
    "super_glue/boolq": (
        {**texts("question", "passage"), "idx": "int32", "label": ("class", *TRUTH)},
        USUAL,
    ),
    "super_glue/cb": (
        {
            **texts("premise", "hypothesis"),
            "idx": "int32",
            "label": ("class", "entailment", "contradiction", "neutral"),
        },
        USUAL,
    ),
    "super_glue/multirc": (
        {
            **texts("paragraph", "question", "answer"),
            "idx": {"paragraph": "int32", "question": "int32", "answer": "int32"},
            "label": ("class", *TRUTH),
        },
        USUAL,
    ),
    "super_glue/record": (
        {
            **texts("passage", "query"),
            "entities": ["string"],
            "entity_spans": {"text": ["string"], "start": ["int32"], "end": ["int32"]},
            "answers": ["string"],
            "idx": {"passage": "int32", "query": "int32"},
        },
        USUAL,
    ),
    "super_glue/wic": (
        {
            **texts("word", "sentence1", "sentence2"),
            **dict.fromkeys(("start1", "start2", "end1", "end2", "idx"), "int32"),
            "label": ("class", *TRUTH),
        },
        USUAL,
    ),
    "super_glue/wsc": (
        {
            "text": "string",
            "span1_index": "int32",
            "span2_index": "int32",
            **texts("span1_text", "span2_text"),
            "idx": "int32",
            "label": ("class", *TRUTH),
        },
        USUAL,
    ),
    "snli": ({**texts("premise", "hypothesis"), "label": ("class", *NLI)}, USUAL),
    "anli": (
        {**texts("uid", "premise", "hypothesis"), "label": ("class", *NLI), "reason": "string"},
        [f"{part}_r{number}" for part in ("dev", "test", "train") for number in (1, 2, 3)],
    ),
    "paws": (
        {"id": "int32", **texts("sentence1", "sentence2"), "label": ("class", "0", "1")},
        USUAL,
    ),
    "ag_news": (
        {"text": "string", "label": ("class", "World", "Sports", "Business", "Sci/Tech")},
        REVIEWED,
    ),
    "imdb": (
        {"text": "string", "label": ("class", "neg", "pos")},
        [*REVIEWED, "unsupervised"],
    ),
    "yelp_polarity": ({"text": "string", "label": ("class", "1", "2")}, REVIEWED),
    "yelp_review_full": (
        {
            "label": ("class", "1 star", "2 star", "3 stars", "4 stars", "5 stars"),
            "text": "string",
        },
        REVIEWED,
    ),
    "trec": (
        {
            "text": "string",
            "coarse_label": ("class", "ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
            "fine_label": ("class", *catalogue.documents.FINE),
        },
        REVIEWED,
    ),
    "emotion": (
        {
            "text": "string",
            "label": ("class", "sadness", "joy", "love", "anger", "fear", "surprise"),
        },
        USUAL,
    ),
    "wnut_17": (
        {
            "id": "string",
            "tokens": ["string"],
            "ner_tags": [("class", "O", *(f"{part}-{kind}" for kind in ENTITIES for part in "BI"))],
        },
        USUAL,
    ),
    "ontonotes": ({"tokens": ["string"], "tags": ["int32"]}, USUAL),
}
PINNED = {
    "super_glue/boolq": "0b627c8f8acf",
    "super_glue/cb": "896f250fe93e",
    "super_glue/multirc": "55c08524d228",
    "super_glue/record": "a2bf4fb0313f",
    "super_glue/wic": "ae5ac5f81eba",
    "super_glue/wsc": "6b9bc75423b1",
    "snli": "92b971da6877",
    "anli": "f5a7166ba510",
    "paws": "abd152628322",
    "ag_news": "931a43a1aded",
    "imdb": "8a88558b93a6",
    "yelp_polarity": "c5bd49e330fe",
    "yelp_review_full": "519716382723",
    "trec": "9fe7a78783ff",
    "emotion": "95628918094b",
    "wnut_17": "a337bf4fc100",
    "ontonotes": "37db4e2842d7",
}
TASKS = {
    name: str(file.section("source")["path"])
    for name, file in read_group("task").items()
    if file.section("source").get("path") in catalogue.TABLES
}


def feature(form: Feature) -> Any:
    import datasets

    if isinstance(form, str):
        return datasets.Value(form)
    if isinstance(form, list):
        return datasets.List(feature(form[0]))
    if isinstance(form, dict):
        return {name: feature(inner) for name, inner in form.items()}
    return datasets.ClassLabel(names=list(form[1:]))


def test_every_table_is_one_of_the_hub_and_serves_a_task() -> None:
    assert catalogue.TABLES.keys() == HUB.keys() == set(TASKS.values())
    for path, (_, splits) in HUB.items():
        assert sample_paths()[path] == splits


def test_every_tag_has_words_in_train() -> None:
    for path, column, tags in (
        ("ontonotes", "tags", catalogue.entities.ONTONOTES),
        ("wnut_17", "ner_tags", catalogue.entities.EMERGING),
    ):
        rows = sample_table(path, "train", 0)[column].to_pylist()
        found = {tag for row in rows for tag in row}
        assert {tags[number] for number in found} == set(tags)


@pytest.mark.parametrize("path", HUB)
def test_rows_keep_to_their_split(path: str) -> None:
    table = catalogue.TABLES[path]
    seen: dict[str, str] = {}
    for split in sample_paths()[path]:
        rows = sample_table(path, split, 0).to_pylist()
        assert len(rows) >= table.sizes[split] >= 100
        assert all(seen.setdefault(str(row[table.key]), split) == split for row in rows)
        counts = Counter(str(row.get("label")) for row in rows)
        if split in table.unlabelled and table.hidden:
            assert all(row | dict(table.hidden) == row for row in rows)
        elif "label" in table.columns:
            assert max(counts.values()) < 0.65 * len(rows)
    first = sample_table(path, sample_paths()[path][0], 0).slice(0, 50).to_pylist()
    digest = hashlib.sha256(json.dumps(first).encode()).hexdigest()[:12]
    assert digest == PINNED[path]


def test_every_task_reads_its_data_set_from_the_hubs_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository as the hub holds it: a folder for each configuration, named in README.md, and in
    the parquet files the features of the data set's card."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    config = preflight(read_arguments([f"task=[{','.join(TASKS)}]", "data=sample"])).configs[0]
    tasks, lines = {}, ["configs:"]
    for path, (features, splits) in HUB.items():
        form = datasets.Features({name: feature(inner) for name, inner in features.items()})
        name = path.replace("/", "_")
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in splits:
            sample = sample_table(path, split, 0)
            assert sample.schema.remove_metadata() == form.arrow_schema.remove_metadata(), path
            rows = datasets.Dataset.from_list(sample.slice(0, 60).to_pylist(), features=form)
            rows.to_parquet(tmp_path / "hub" / name / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    (tmp_path / "hub" / "README.md").write_text("\n".join(["---", *lines, "---", ""]))
    for name, path in TASKS.items():
        task = config.tasks[name]
        place = replace(task.source, hub=str(tmp_path / "hub"), hub_config=path.replace("/", "_"))
        tasks[name] = replace(task, source=place, max_length=task.max_length or 64)
    source = open_source(Data(source="hub"), tasks)
    built = build_tasks(tasks)
    for name, task in built.items():
        splits = task.config.splits
        wanted = [splits.train, *splits.validation, splits.test]
        tables = {split: source.read(name, split, task.labelled) for split in wanted if split}
        problems, _ = check_tables({name: task}, {name: tables})
        assert not problems, name
        train = tables[splits.train or ""]
        if hasattr(task.config, "labels"):
            names = train.class_names(task.config.columns.label)
            # The hub calls the classes of yelp_polarity 1 and 2.
            assert name == "yelp_polarity" or names in (None, task.config.labels), name
        encoder = TextEncoder(build_tokenizer(task.texts(train), 400), uses_segments=True)
        features = task.encode(train, encoder)
        assert len(features) >= len(train) and features.lengths.min() > 3, name
        assert task.references(train) is not None, name
