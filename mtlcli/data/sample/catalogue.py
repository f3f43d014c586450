"""The tables of the sample world beside GLUE, SQuAD, UD and CoNLL-2003: for each the columns and
splits of the hub's data set, and the function that makes its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa

from mtlcli.data.sample import documents, entities, inference, superglue
from mtlcli.data.sample.world import World

Row = dict[str, Any]
SIZES = {"validation": 300, "train": 2000, "test": 150}
"""Number of rows of each split, unless a table says otherwise."""


@dataclass(frozen=True)
class SampleTable:
    """The description of a table."""

    columns: Mapping[str, pa.DataType]
    """Column -> type."""
    make: Callable[[World, Random], list[Row]]
    """A function that returns rows that belong together, mostly one. Columns `id` and `idx` that
    it does not fill hold the row's number."""
    key: str
    """The column whose values stand in one split only, and are not drawn twice."""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The class names of columns, where the hub's data set has them."""
    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)
    """Split -> number of rows."""
    hidden: Mapping[str, Any] = field(default_factory=dict)
    """Column -> value in the test split, where its labels are not public."""
    unlabelled: Sequence[str] = ("test",)
    """The splits in which values are hidden."""

    @property
    def schema(self) -> pa.Schema:
        """The schema, with the metadata in which the datasets library keeps class names."""
        features = {
            name: {"feature": {"names": list(names)}, "_type": "List"}
            if pa.types.is_list(self.columns[name])
            else {"names": list(names), "_type": "ClassLabel"}
            for name, names in self.names.items()
        }
        return pa.schema(
            list(self.columns.items()),
            metadata={"huggingface": json.dumps({"info": {"features": features}})}
            if features
            else None,
        )


TEXT, NUMBER, SMALL = pa.string(), pa.int64(), pa.int32()


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind))


def _texts(*names: str) -> dict[str, pa.DataType]:
    return dict.fromkeys(names, TEXT)


_TRUTH = {"label": ("False", "True")}
_HIDDEN = {"label": -1}
_REVIEWS = {"train": SIZES["train"], "test": SIZES["validation"]}
_NEGATIVE = ("neg", "pos")
_STARS = ("1 star", "2 star", "3 stars", "4 stars", "5 stars")
_ROUNDS = {
    f"{part}_r{number}": size
    for number in (1, 2, 3)
    for part, size in {"dev": 300, "train": 2000, "test": 150}.items()
}
TABLES = {
    "super_glue/boolq": SampleTable(
        {**_texts("question", "passage"), "idx": SMALL, "label": NUMBER},
        *(inference.boolq, "passage", _TRUTH),
        hidden=_HIDDEN,
    ),
    "super_glue/cb": SampleTable(
        {**_texts("premise", "hypothesis"), "idx": SMALL, "label": NUMBER},
        *(inference.cb, "premise", {"label": inference.COMMITMENT}),
        hidden=_HIDDEN,
    ),
    "super_glue/multirc": SampleTable(
        {
            **_texts("paragraph", "question", "answer"),
            "idx": pa.struct(
                [pa.field(name, SMALL) for name in ("paragraph", "question", "answer")]
            ),
            "label": NUMBER,
        },
        *(superglue.multirc, "paragraph", _TRUTH),
        hidden=_HIDDEN,
    ),
    "super_glue/record": SampleTable(
        {
            **_texts("passage", "query"),
            "entities": _list(TEXT),
            "entity_spans": pa.struct(
                [
                    pa.field("text", _list(TEXT)),
                    pa.field("start", _list(SMALL)),
                    pa.field("end", _list(SMALL)),
                ]
            ),
            "answers": _list(TEXT),
            "idx": pa.struct([pa.field(name, SMALL) for name in ("passage", "query")]),
        },
        *(superglue.record, "passage"),
        hidden={"answers": []},
    ),
    "super_glue/wic": SampleTable(
        {
            **_texts("word", "sentence1", "sentence2"),
            **dict.fromkeys(("start1", "start2", "end1", "end2", "idx"), SMALL),
            "label": NUMBER,
        },
        *(superglue.wic, "sentence1", _TRUTH),
        hidden=_HIDDEN,
    ),
    "super_glue/wsc": SampleTable(
        {
            **_texts("text"),
            **dict.fromkeys(("span1_index", "span2_index"), SMALL),
            **_texts("span1_text", "span2_text"),
            "idx": SMALL,
            "label": NUMBER,
        },
        *(superglue.wsc, "text", _TRUTH),
        sizes={"validation": 150, "train": 800, "test": 100},
        hidden=_HIDDEN,
    ),
    "snli": SampleTable(
        {**_texts("premise", "hypothesis"), "label": NUMBER},
        *(inference.snli, "premise", {"label": inference.INFERENCE}),
    ),
    "anli": SampleTable(
        {**_texts("uid", "premise", "hypothesis"), "label": NUMBER, **_texts("reason")},
        *(inference.anli, "premise", {"label": inference.INFERENCE}),
        sizes=_ROUNDS,
    ),
    "paws": SampleTable(
        {"id": SMALL, **_texts("sentence1", "sentence2"), "label": NUMBER},
        *(inference.paws, "sentence1", {"label": ("0", "1")}),
    ),
    "ag_news": SampleTable(
        {**_texts("text"), "label": NUMBER},
        *(documents.ag_news, "text", {"label": documents.TOPICS}),
        sizes=_REVIEWS,
    ),
    "imdb": SampleTable(
        {**_texts("text"), "label": NUMBER},
        *(documents.polarity, "text", {"label": _NEGATIVE}),
        sizes=_REVIEWS | {"unsupervised": 150},
        hidden=_HIDDEN,
        unlabelled=("unsupervised",),
    ),
    "yelp_polarity": SampleTable(
        {**_texts("text"), "label": NUMBER},
        *(documents.polarity, "text", {"label": ("1", "2")}),
        sizes=_REVIEWS,
    ),
    "yelp_review_full": SampleTable(
        {"label": NUMBER, **_texts("text")},
        *(documents.stars, "text", {"label": _STARS}),
        sizes=_REVIEWS,
    ),
    "trec": SampleTable(
        {**_texts("text"), "coarse_label": NUMBER, "fine_label": NUMBER},
        *(documents.trec, "text", {"coarse_label": documents.COARSE, "fine_label": documents.FINE}),
        sizes=_REVIEWS,
    ),
    "emotion": SampleTable(
        {**_texts("text"), "label": NUMBER},
        *(documents.emotion, "text", {"label": documents.EMOTIONS}),
    ),
    "wnut_17": SampleTable(
        {**_texts("id"), "tokens": _list(TEXT), "ner_tags": _list(NUMBER)},
        *(entities.wnut, "tokens", {"ner_tags": entities.EMERGING}),
    ),
    "ontonotes": SampleTable(
        {"tokens": _list(TEXT), "tags": _list(SMALL)},
        *(entities.ontonotes, "tokens"),
    ),
}
"""Path -> table."""


def tables(path: str, world: World, seed: int) -> dict[str, pa.Table]:
    """Return all splits of a path of TABLES; no value of the table's key stands in two."""
    table = TABLES[path]
    taken: set[str] = set()
    made = {}
    for split, size in table.sizes.items():
        rng = Random(f"{seed} {path} {split}")
        rows: list[Row] = []
        while len(rows) < size:
            new = table.make(world, rng)
            if (key := str(new[0][table.key])) in taken:
                continue
            taken.add(key)
            for row in new:
                number = len(rows)
                numbers = {
                    name: str(number) if table.columns[name] == TEXT else number
                    for name in ("id", "idx")
                    if name in table.columns
                }
                rows.append(
                    numbers | row | (dict(table.hidden) if split in table.unlabelled else {})
                )
        made[split] = pa.Table.from_pylist(rows, table.schema)
    return made
