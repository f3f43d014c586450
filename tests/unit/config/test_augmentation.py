"""Which task can be augmented how, and what the rest of a run does not allow."""

from __future__ import annotations

from typing import Any

import pytest

from mtlcli.config import augmentations, task_types
from mtlcli.config.validate import check

TEXT = {"columns": {"text": "text"}}
TASKS: dict[str, dict[str, Any]] = {
    "choice": {"columns": {"context": "text", "options": ["a", "b"]}},
    "classification": TEXT,
    "mlm": TEXT,
    "multilabel": TEXT,
    "ranking": {"columns": {"query": "query", "candidates": "texts"}},
    "regression": TEXT,
    "relation": TEXT,
    "seq2seq": {},
    "span": {},
    "tagging": {},
}
WORDS = {"choice", "classification", "multilabel", "ranking", "regression"}
OPTIONS = {"distill": {"teachers": ["there"]}}
FIT = {
    "distill": {"classification", "multilabel", "regression", "relation"},
    "mixup": {"classification", "multilabel", "regression"},
    "r_drop": {"classification", "multilabel", "regression", "relation"},
    "smart": {"classification", "multilabel", "regression", "relation"},
    "freelb": set(TASKS),
    "none": set(TASKS),
}
KEPT = {"ewc": set(TASKS), "lwf": {"classification", "multilabel", "regression"}}
"""The earlier tasks that can be kept."""


def run(tasks: dict[str, Any], **sections: Any) -> list[str]:
    """What is said about a run of these tasks."""
    tasks = {
        name: {"type": name, "source": {"path": name}, **TASKS.get(name, {}), **values}
        for name, values in tasks.items()
    }
    chosen = {
        "sharing": {"name": "hard"},
        "weighting": {"name": "static"},
        "sampling": {"name": "all"},
    }
    return [str(problem) for problem in check({"tasks": tasks, **chosen, **sections})[1]]


def test_every_type_and_augmentation_is_in_the_tables() -> None:
    assert {*TASKS} == {name for name in task_types if name not in task_types.names_of_others()}
    assert {*FIT, *KEPT} == {*augmentations}


@pytest.mark.parametrize("kind", TASKS)
def test_words_are_changed_where_labels_survive_it(kind: str) -> None:
    found = run({kind: {"augment": {"swap": 0.1}}})
    assert len(found) == (kind not in WORDS)
    if found:
        what = f"tasks.{kind}.augment: the words of a task of type {kind} cannot be changed: "
        assert found[0].startswith(what)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", FIT)
def test_a_task_that_does_not_fit_is_refused_with_the_reason(kind: str, name: str) -> None:
    other = "classification"
    options = OPTIONS.get(name, {})
    found = run({kind: {}, other: {}}, augmentation={"name": name, **options})
    if kind in FIT[name]:
        assert found == []
        return
    (problem,) = found
    assert problem.startswith(f"augmentation.tasks: augmentation={name} cannot act on {kind}: ")
    assert problem.endswith(
        f"its type is {kind}\n    -> name the others, 'augmentation.tasks=[{other}]'"
    )
    chosen = {"name": name, "tasks": [other], **options}
    assert run({kind: {}, other: {}}, augmentation=chosen) == []


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", KEPT)
def test_an_earlier_task_that_cannot_be_kept_is_refused(kind: str, name: str) -> None:
    earlier = run(
        {kind: {}, "new": {"type": "classification", **TEXT}},
        augmentation={"name": name},
        init={"from": "there"},
    )
    assert len(earlier) == (kind not in KEPT[name])
    if earlier:
        assert earlier[0].startswith(f"augmentation: augmentation={name} cannot keep {kind}: ")


@pytest.mark.parametrize(
    ("tasks", "sections", "expected"),
    [
        (
            {"regression": {}},
            {"augmentation": {"name": "mixup", "tasks": ["regresion"]}},
            ["augmentation.tasks: the run does not train a task 'regresion'"],
        ),
        (
            {"regression": {}},
            {"augmentation": {"name": "smart"}, "runner": {"packing": "on"}},
            ["runner.packing: augmentation=smart perturbs each input of a padded batch"],
        ),
        (
            {"regression": {}},
            {"augmentation": {"name": "r_drop"}, "runner": {"engine": "fsdp"}},
            ["runner.engine: augmentation=r_drop sends a batch through the model more than once"],
        ),
        (
            {"regression": {}},
            {"augmentation": {"name": "ewc"}, "runner": {"engine": "fsdp"}},
            [
                "init.from: augmentation=ewc keeps what another run has learned",
                "task: augmentation=ewc keeps the tasks before the last, and the run trains "
                "regression",
                "runner.engine: augmentation=ewc compares whole parameters",
            ],
        ),
        (
            {"regression": {"augment": {"share": 1.0}}},
            {},
            ["tasks.regression.augment: no word is changed: all rates are 0"],
        ),
        (
            {"regression": {"augment": {"insert": 0.1}}},
            {"runner": {"max_tokens": 1000}},
            ["tasks.regression.augment.insert: words are put into texts after the tokens"],
        ),
        (
            {"classification": {"form": "text", "augment": {"swap": 0.1}}},
            {
                "augmentation": {"name": "freelb"},
                "model": {"kind": "scratch", "architecture": "decoder"},
            },
            [
                "tasks.classification.augment: the words of a prompt cannot be changed",
                "augmentation.tasks: augmentation=freelb cannot act on classification: it is put "
                "as prompt and answer",
            ],
        ),
    ],
)
def test_what_the_rest_of_a_run_does_not_allow(
    tasks: dict[str, Any], sections: dict[str, Any], expected: list[str]
) -> None:
    found = run(tasks, **sections)
    assert len(found) == len(expected), found
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning)
