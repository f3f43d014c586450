"""What `mtl eval` may change in a run's configuration, key by key."""

from __future__ import annotations

import pytest

from mtlcli.config.changes import EVALUATION, refuse_at_evaluation
from mtlcli.config.schema import leaves


def test_every_key_that_may_change_is_a_key() -> None:
    known = {key.replace("NAME", "*") for key in leaves()}
    assert not {"tasks.NAME.key", "data.max_length.ge", "tasks.min_length"} & set(leaves()), (
        "a bound is no key"
    )
    assert set(EVALUATION) <= known


def test_nothing_else_may_change() -> None:
    allowed = {key for key in leaves() if refuse_at_evaluation(key) is None}
    assert {key.replace("NAME", "*").partition(".")[0] for key in allowed} == {
        "allow",
        "data",
        "runner",
        "logger",
        "tasks",
        "text",
    }
    tasks = {key.split(".")[2] for key in allowed if key.startswith("tasks.")}
    assert {"source", "splits", "columns", "metrics", "no_answer_threshold"} <= tasks
    assert not tasks & {
        "type",
        "form",
        "labels",
        "head",
        "head_layers",
        "dropout",
        "weight",
        "batch_size",
        "lr_factor",
        "max_length",
        "no_answer",
    }


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("tasks.mine.labels", "is fixed by the checkpoint"),
        ("tasks.mine.type", "is fixed by the checkpoint"),
        ("tasks.mine.head", "is fixed by the checkpoint"),
        ("tasks.mine.head_layers", "is fixed by the checkpoint"),
        ("tasks.mine", "is fixed by the checkpoint"),
        ("task", "is fixed by the checkpoint"),
        ("data.max_length", "is fixed by the checkpoint"),
        ("model.pooling", "is fixed by the checkpoint"),
        ("sharing", "is fixed by the checkpoint"),
        ("seed", "is fixed by the checkpoint"),
        ("runner.steps", "plays no part in an evaluation"),
        ("logger.every", "plays no part in an evaluation"),
        ("resume", "plays no part in an evaluation"),
        ("data", "the key is a section, not a single value"),
        ("runner", "the key is a section, not a single value"),
    ],
)
def test_why_a_key_is_refused(key: str, what: str) -> None:
    problem = refuse_at_evaluation(key)
    assert problem is not None and (problem.what, problem.where) == (what, key)


@pytest.mark.parametrize(
    "key",
    [
        "data.root",
        "runner.eval_batch_size",
        "tasks.mine.source.files.test",
        "tasks.mine.splits",
        "tasks.mine.columns.text",
    ],
)
def test_what_may_change(key: str) -> None:
    assert refuse_at_evaluation(key) is None
