"""A backbone that is never trained has to be pretrained."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config import Config, sharings
from mtlcli.errors import UserError
from mtlcli.prepare.prepare import prepare
from tests.families import save_family

FROZEN = [
    name
    for name in sharings
    if any(field.name == "frozen" for field in fields(sharings.configs[name]))
]


def config(*options: str) -> Config:
    given = ["task=rte", "data=sample", "data.max_train_rows=8", "data.max_eval_rows=8", *options]
    return preflight(read_arguments(given)).configs[0]


@pytest.mark.parametrize("name", FROZEN)
def test_random_weights_that_stay_are_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(config("model=tiny", f"sharing={name}", "sharing.frozen=true"))
    (problem,) = caught.value.problems
    assert problem.where == "sharing.frozen" and "built from scratch" in problem.what


def test_pretrained_and_trained_ones_are_not(tmp_path: Path) -> None:
    save_family("bert", tmp_path)
    chosen = ["model=pretrained", f"model.name={tmp_path}", "data.max_length=32"]
    assert prepare(config(*chosen, "sharing=lora", "sharing.frozen=true")).files.location
    scratch = prepare(config("model=tiny", "sharing=lora"))
    assert scratch.files.location is None
    # A run that has begun goes on, and can be evaluated.
    begun = config("model=tiny", "sharing=lora", "sharing.frozen=true")
    assert prepare(begun, files=scratch.files).files is scratch.files
