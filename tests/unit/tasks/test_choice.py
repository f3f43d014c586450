"""Multiple choice: options as features that stay together, row checks, loss and predictions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

from mtlcli.config.task import Source
from mtlcli.data.batches import InputFormat, Stream
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.tasks.choice import ChoiceColumns, ChoiceTask
from mtlcli.tasks.choice.task import Choice
from mtlcli.training.mixed_batches import MixedBatches
from mtlcli.training.task_batch import build_task_batch

FORMAT = InputFormat(0, False)
ROWS = {
    "context": ["one", "two", "three"],
    "question": ["q1", "q2", "q3"],
    "options": [["a b c", "b"], ["a", "b", "c c"], ["x", "y"]],
    "label": ["B", "2", None],
}


def task(**options: Any) -> Choice:
    columns = ChoiceColumns(
        context=options.pop("context", "context"),
        question=options.pop("question", "question"),
        options=options.pop("options", "options"),
    )
    return Choice(
        "toy", ChoiceTask(source=Source(path="x"), columns=columns, max_length=16, **options)
    )


def table(columns: dict[str, Any] = ROWS) -> Table:
    return Table(pa.table(columns), "toy.jsonl", "train")


def encoder() -> TextEncoder:
    return TextEncoder(
        build_tokenizer(["one two three q1 q2 q3 a b c x y"] * 3, 80), uses_segments=True
    )


@pytest.mark.parametrize(
    ("labels", "first", "places"),
    [
        (["A", "c", "a"], 0, [0, 2, 0]),
        ([0, 2, -1], 0, [0, 2, -100]),
        (["1", "3", ""], 1, [0, 2, -100]),
        ([1.0, 0.0, float("nan")], 0, [1, 0, -100]),
        (["C", 2, 2], 0, [-101, 2, -101]),
        ([0, 3, 2], 1, [-101, 2, 1]),
    ],
)
def test_a_label_is_a_number_or_a_letter(labels: list[Any], first: int, places: list[int]) -> None:
    labels = [str(label) for label in labels] if isinstance(labels[0], str) else labels
    assert task(first_option=first).targets(table(ROWS | {"label": labels})).tolist() == places


def test_options_may_have_columns_of_their_own() -> None:
    columns = {"c1": ["one"], "c2": ["two"], "o1": ["x"], "o2": ["y"], "label": [1]}
    made = task(context=["c1", "c2"], question=None, options=["o1", "o2"])
    assert made._texts(table(columns)) == (["one two"], [["x", "y"]])
    assert made.check(table(columns), labelled=True) == []
    assert made.required_columns() == ["c1", "c2", "o1", "o2", "label"]
    assert task()._texts(table())[1][0] == ["q1 a b c", "q1 b"]


@pytest.mark.parametrize(
    ("column", "values", "what", "fix"),
    [
        (
            "label",
            ["B", "D", "A"],
            "row 2: label 'D' is none of the 3 options",
            "0 to 2, or A to C",
        ),
        ("label", ["B", "A", None], "row 3: column 'label' has no label", "unlabelled=skip"),
        ("label", [None, None, None], "no label in any of the 3 rows", "columns.label"),
        ("options", [["a"], ["b", "c"], ["x", "y"]], "row 1: column 'options' has fewer", "add"),
        ("options", [["a", "b"], ["", "c"], ["x", "y"]], "row 2: an option in column", "fill it"),
        ("options", ["a", "b", "c"], "row 1: column 'options' holds text", "several columns"),
        ("context", ["a", " ", "c"], "row 2: column 'context' is empty", "fill it in"),
    ],
)
def test_bad_rows_are_refused(column: str, values: Any, what: str, fix: str) -> None:
    rows = ROWS | {"label": ["A", "B", "A"]} | {column: values}
    found = [str(problem) for problem in task().check(table(rows), labelled=True)]
    assert len(found) == 1 and what in found[0] and fix in found[0], found


def test_the_loss_is_the_cross_entropy_of_each_row_on_any_ranks() -> None:
    made, rows = task(), table()
    features = made.encode(rows, encoder())
    assert features.groups is not None and features.groups.tolist() == [0, 2, 5, 7]
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0))
    wanted = cross_entropy(logits[None, :2], torch.tensor([1]), reduction="sum") + cross_entropy(
        logits[None, 2:5], torch.tensor([2]), reduction="sum"
    )
    for world, accumulation in ((1, 1), (2, 1), (1, 3), (3, 2)):
        total = 0.0
        for rank in range(world):
            batch = build_task_batch(
                made,
                features,
                np.array([2, 0, 1]),
                input_format=FORMAT,
                accumulation=accumulation,
                ranks=SimpleNamespace(rank=rank, world_size=world),  # type: ignore[arg-type]
            )
            assert batch.examples == 3
            for micro in batch.micro:
                outputs = {"logits": logits[micro.indices][:, None]}
                assert micro.denominator == 2 and micro.examples == 7
                total += float(made.loss(outputs, micro)) / micro.denominator
        assert total == pytest.approx(float(wanted) / 2, rel=1e-6)
    predictions = made.decode({"logits": logits[:, None].numpy()}, features, rows)
    assert [row["option"] for row in predictions] == [
        int(part.argmax()) for part in (logits[:2], logits[2:5], logits[5:])
    ]
    assert predictions[1]["probabilities"] == pytest.approx(logits[2:5].softmax(0).tolist())


def test_batches_count_rows_and_hold_all_options() -> None:
    sizes = np.random.default_rng(0).integers(2, 6, 50)
    lengths = np.random.default_rng(1).integers(3, 9, 50)
    stream = Stream(lengths, sizes=sizes, batch_size=8, seed=1)
    first = [stream.indices(position) for position in range(stream.batches_in_epoch(0))]
    assert sorted(np.concatenate(first)) == list(range(50))
    assert sorted(map(len, first)) == [2, *[8] * 6]
    bounded = Stream(lengths, sizes=sizes, batch_size=8, seed=1, max_tokens=100)
    for position in range(bounded.batches_in_epoch(0)):
        batch = bounded.indices(position)
        assert lengths[batch].max() * sizes[batch].sum() <= 100


def test_mixed_batches_do_not_cut_the_options_of_a_row_apart() -> None:
    made = task()
    features = made.encode(table(), encoder())
    batch = build_task_batch(
        made,
        features,
        np.arange(3),
        input_format=FORMAT,
        accumulation=2,
        ranks=SimpleNamespace(rank=0, world_size=1),  # type: ignore[arg-type]
    )
    mixed = MixedBatches(4, "cpu", max_tokens=8)
    passes = [one_pass for group in mixed.passes({"toy": batch}) for one_pass in group]
    assert [len(part.batch) for one_pass in passes for part in one_pass] == [5, 2]
