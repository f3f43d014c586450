"""Overrides that are applied to plain values become what Hydra's composition makes of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hydra.types import RunMode

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.composition import Composition, values_of
from mtlcli.cli.overrides import added, apply, parsed
from mtlcli.cli.own_files import OwnFiles
from mtlcli.cli.preflight import preflight
from mtlcli.errors import UserError

TASKS = "task=[cola,rte]"
OVERRIDES = [
    "seed=3",
    "++optim.lr=1e-3",
    "run_dir='${seed}'",
    "data.root=${oc.env:HOME}",
    "data.cache_dir=${data.root}",
    "data.cache_dir=/tmp",
    "runner.steps=null",
    "tasks.rte.source=null",
    "tasks.rte.source.path=here",
    "allow=[a, b]",
    "tasks.cola.columns={text: a}",
    "tasks.cola.labels=[no, yes]",
    "tasks.cola.metrics=[]",
    "tasks.cola.type.x=3",
    "tasks.rte.splits={validation: [dev], more: {a: {b: 1}}}",
    "tasks.rte.splits.more={a: {c: 2}}",
    "tasks.rte.columns=null",
    "+tasks.mine={type: span, columns: {text: a}}",
    "+tasks.other.type=span",
    "++tasks.mine.columns.question=q",
    "~tasks.cola.source.hub",
    "~tasks.cola.splits",
    "~seed",
]


def test_the_same_as_hydra() -> None:
    files = Composition(OwnFiles(None))
    values = values_of(files.compose((TASKS,))[0])  # type: ignore[arg-type]
    before: dict[str, Any] = copy.deepcopy(values)
    texts = [added(parsed(text), text) for text in OVERRIDES]
    for text in texts:
        apply(parsed(text), values)
    composed = files.loader.load_configuration("train", [TASKS, *texts], RunMode.RUN)
    assert values == values_of(composed) != before
    assert list(values) == list(values_of(composed))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tasks.cola.labels={a: 1}", "tasks.cola.labels: must be a list"),
        ("tasks.cola.columns=[1]", "tasks.cola.columns: must be a section"),
        ("tasks.cola.columns={null: 3}", "tasks.cola.columns: one of its keys is null"),
        ("data.root='${'", "data.root: no viable alternative at input"),
    ],
)
def test_a_value_that_does_not_fit_is_named(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        preflight(read_arguments([TASKS, text]))
    (found,) = caught.value.problems
    assert str(found).startswith(problem)
