"""A YAML file that somebody has passed on is data: by no way does it configure Hydra, which would
run what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlcli.cli import main
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.errors import UserError

TASK = (
    "type: classification\nsource: {files: {train: rows.csv, validation: rows.csv}}\ncolumns: "
    "{text: text, label: label}\n"
)
CALLBACK = "{x: {_target_: pathlib.Path.touch, self: RAN}}"
WAYS: dict[str, tuple[dict[str, str], str, str]] = {
    "callbacks": (
        {"task/mine": f"# @package _global_\nhydra: {{callbacks: {CALLBACK}}}"},
        "task=mine",
        "task/mine.yaml: the file sets hydra.callbacks",
    ),
    "env_set": (
        {"experiment/mine": "# @package _global_\nhydra: {job: {env_set: {PATH: x}}}"},
        "experiment=mine",
        "experiment/mine.yaml: the file sets hydra.job",
    ),
    "the header itself": (
        {"logger/mine": "# @package hydra.job_logging\nversion: 1"},
        "logger=mine",
        "logger/mine.yaml: the file sets hydra.job_logging",
    ),
    "an interpolation": (
        {"task/mine": "# @package _global_\nhydra: ${oc.decode:'{}'}"},
        "task=mine",
        "task/mine.yaml: the file sets hydra:",
    ),
    "a package in a defaults list": (
        {"task/mine": "# @package tasks.mine\ndefaults: [_self_, "
                      "other@_global_.hydra.callbacks]", "task/other": CALLBACK},
        "task=mine",
        "task/other.yaml: the file sets hydra.callbacks",
    ),
    "an override in a defaults list": (
        {"experiment/mine": "# @package _global_\ndefaults: [{override /hydra/hydra_logging: "
                            "default}]"},
        "experiment=mine",
        "experiment/mine.yaml: the file sets hydra/hydra_logging",
    ),
    "a file of Hydra's": (
        {"task/mine": "# @package tasks.mine\ndefaults: [_self_, "
                      "/hydra/output/default@_global_.hydra.x]"},
        "task=mine",
        "task/mine.yaml: the file sets hydra.x",
    ),
    "a group of their own below hydra": (
        {"hydra/job_logging/mine": "version: 1"},
        "hydra/job_logging=mine",
        "hydra/job_logging/mine.yaml: the file sets hydra.job_logging",
    ),
    "another place to search": (
        {"task/mine": "# @package _global_\nhydra: {searchpath: [file:///elsewhere]}"},
        "task=mine",
        "In 'task/mine': Overriding hydra.searchpath is only supported from the primary config",
    ),
}  # fmt: skip


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,label\ngood,1\nbad,0\n")
    return tmp_path / "conf"


def write(conf: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = conf / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n" + (TASK if text.startswith("# @package tasks") else ""))


@pytest.mark.parametrize("name", list(WAYS))
def test_a_file_of_the_user_cannot_configure_hydra(conf: Path, name: str) -> None:
    files, choice, expected = WAYS[name]
    write(conf, files)
    with pytest.raises(UserError) as caught:
        preflight(read_arguments(["-cd", str(conf), choice]))
    assert expected in str(caught.value)


def test_help_and_a_typed_search_path_do_not_lead_around_it(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(conf, {"experiment/mine": "# @package _global_\ndefaults: [{override /logger: mine}]"})
    write(
        conf.parent / "more",
        {"logger/mine": "# @package _global_\nhydra: {hydra_logging: {version: 1}}"},
    )
    for option in (["--help"], ["--cfg", "all"], []):
        place = f"hydra.searchpath=[file://{conf.parent}/more]"
        assert (
            main(
                [
                    "train",
                    *option,
                    "-cd",
                    str(conf),
                    place,
                    "task=rte",
                    "data=sample",
                    "experiment=mine",
                ]
            )
            == 2
        )
        assert (
            f"{conf.parent}/more/logger/mine.yaml: the file sets hydra.hydra_logging"
            in capsys.readouterr().err
        )


def test_typed_keys_of_hydra_and_other_keys_of_files_are_accepted(conf: Path) -> None:
    write(
        conf,
        {
            "task/hydra": "# @package tasks.hydra",
            "task/mine": "# @package tasks.mine\ndefaults: [hydra@_here_, _self_]",
        },
    )
    arguments = [
        "-cd",
        str(conf),
        "task=[hydra,mine]",
        "hydra.verbose=true",
        "hydra/job_logging=none",
    ]
    assert list(preflight(read_arguments(arguments)).configs[0].tasks) == ["hydra", "mine"]
