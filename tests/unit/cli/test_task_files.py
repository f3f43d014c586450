"""Task files that are chosen by their path."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.completion import complete
from mtlcli.cli.preflight import Plan, preflight
from mtlcli.errors import UserError

MINE = """\
type: classification
source:
  files: {train: train.csv, validation: ../dev.csv}
columns: {text: sentence}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `here`, where mtl is typed; beside it the folder `data` with the task `mine`."""
    (tmp_path / "here").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(MINE)
    for place in ("data/train.csv", "dev.csv"):
        (tmp_path / place).write_text("sentence,label\ngood,1\nbad,0\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def plan(*argv: str) -> Plan:
    return preflight(read_arguments(["model=tiny", "data=sample", *argv]))


def said(*argv: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan(*argv)
    return [str(problem).replace("\n    -> ", " -> ") for problem in caught.value.problems]


def test_a_path_is_a_task_whose_files_lie_beside_it(folder: Path) -> None:
    found = plan("task=../data/mine.yaml", "tasks.mine.weight=2")
    task = found.configs[0].tasks["mine"]
    assert task.source.files == {"train": "../data/train.csv", "validation": "../dev.csv"}
    assert task.weight == 2
    # Hydra composes a job of a sweep from these words.
    assert found.overrides[2] == "task=../data/mine.yaml"


@pytest.mark.parametrize("name", ["../data/mine.yaml", "{folder}/data/mine.yaml"])
def test_paths_and_names_stand_in_one_list(folder: Path, name: str) -> None:
    name = name.format(folder=folder)
    assert list(plan(f"task=[{name},rte]").configs[0].tasks) == ["mine", "rte"]


def test_each_value_of_a_sweep_can_be_a_path(folder: Path) -> None:
    (folder / "data" / "other.yml").write_text("# @package tasks.another\n" + MINE)
    found = plan("-m", "task=../data/mine.yaml,../data/other.yml")
    assert [list(config.tasks) for config in found.configs] == [["mine"], ["another"]]


def test_a_suite_by_its_path_names_built_in_tasks_and_files(folder: Path) -> None:
    (folder / "here" / "suite.yaml").write_text("defaults: [rte, ../data/mine.yaml]\n")
    assert list(plan("task=suite.yaml").configs[0].tasks) == ["rte", "mine"]


def test_a_name_beside_a_file_of_the_same_name_stays_a_name(folder: Path) -> None:
    (folder / "here" / "rte.yaml").write_text(MINE)
    assert plan("task=rte").configs[0].tasks["rte"].source.path == "glue/rte"


def test_a_file_given_by_its_path_cannot_configure_hydra(folder: Path) -> None:
    (folder / "here" / "bad.yaml").write_text(
        "# @package _global_\nhydra: {callbacks: {a: {_target_: os.system}}}\n"
    )
    (problem,) = said("task=bad.yaml")
    assert problem.startswith("bad.yaml: the file sets hydra.callbacks: keys of hydra can start")


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        (
            "my reviews",
            MINE,
            "my reviews.yaml: the file's name, 'my reviews', cannot be the name of a task",
        ),
        ("odd", "# @package other\n" + MINE, "odd.yaml: the header '# @package other' does not"),
        ("odd", "type: [", "odd.yaml, line 1: the file is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_a_task_is_refused(
    folder: Path, name: str, text: str, answer: str
) -> None:
    (folder / "here" / f"{name}.yaml").write_text(text)
    assert answer in said(f"task={name}.yaml")[0]


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    (folder / "here" / "mine.yaml").write_text(MINE)
    assert "both name the task 'mine'" in said("task=[mine.yaml,../data/mine.yaml]")[0]


def test_tab_completes_paths_and_the_keys_of_their_tasks(folder: Path) -> None:
    assert complete(["train"], "task=[rte,../da") == ["task=[rte,../data/"]
    assert complete(["train"], "task=../data/") == ["task=../data/mine.yaml"]
    assert complete(["train", "task=../data/mine.yaml"], "tasks.m") == ["tasks.mine."]
    found = complete(["train", "task=../data/mine.yaml"], "tasks.mine.label_i")
    assert found == ["tasks.mine.label_ids="]
