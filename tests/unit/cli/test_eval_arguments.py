"""What `mtl eval` refuses before it reads a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtlcli.cli.eval import eval_main
from mtlcli.disk import obstacle
from mtlcli.errors import UserError

FIX = (
    "take it out; an evaluation may change the data, the device, and a task's source, splits, "
    "columns and metrics: mtl eval --help"
)


def said(*argv: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        eval_main([str(word) for word in argv])
    return [str(problem).replace("\n    -> ", " -> ") for problem in caught.value.problems]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with two run folders that hold nothing but an empty config."""
    for age, name in enumerate(("new", "old")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        config = tmp_path / "runs" / name / "config.yaml"
        config.write_text("{}")
        os.utime(config, (1e9 - age, 1e9 - age))
    return tmp_path / "runs"


def test_paths(runs: Path) -> None:
    assert said() == ["PATH: no path is given -> give a run folder or a checkpoint: mtl eval PATH"]
    assert said(runs / "new", runs / "old")[0].startswith("PATH: expected one path, found 2")
    assert said(runs / "nwe") == [
        f"{runs / 'nwe'}: there is no such folder -> did you mean {runs / 'new'}?"
    ]
    assert said(runs) == [
        f"{runs}: neither a run folder (looked for config.yaml) nor a checkpoint (looked for "
        "manifest.json) -> the newest run in it is "
        f"{runs / 'new'}"
    ]


FILE, FOLDER = (f"give a {kind} that you can write to" for kind in ("file in a folder", "folder"))


def test_places_that_cannot_be_written_are_known_before_the_work(runs: Path) -> None:
    config = runs / "new" / "config.yaml"
    (runs / "loop").symlink_to(runs / "nowhere")
    for place, why in (
        (config / "a" / "b", f"{config} is a file, not a folder"),
        (runs / "loop" / "x", f"{runs / 'loop'} is a link to nothing"),
    ):
        assert said(runs / "new", "--json", place) == [
            f"--json {place}: the file cannot be written: {why} -> {FILE}"
        ]
        assert said(runs / "new", "--predictions", place) == [
            f"--predictions {place}: the folder cannot be written: {why} -> {FOLDER}"
        ]
    for place in (runs / "new" / ("z" * 300), runs / "not" / "yet" / ("z" * 300)):
        for option in ("--json", "--predictions"):
            assert "a name of 300 bytes is too long" in said(runs / "new", option, place)[0]
    assert (
        obstacle(runs / "new" / "a" / "b", folder=False) is None
        and not (runs / "new" / "a").exists()
    )
    assert obstacle(Path(os.devnull), folder=False) is None
    assert said(runs / "new", "--texts") == [
        "--texts: the option has no effect without --predictions -> add --predictions DIR, or take "
        "it out"
    ]


def test_overrides_and_files(runs: Path) -> None:
    config = runs / "new" / "config.yaml"
    assert said(
        runs / "new",
        "model=tiny",
        "+data.root=x",
        "--json",
        runs,
        "--predictions",
        config,
        "seed=3",
    ) == [
        "model: is fixed by the checkpoint -> " + FIX,
        "+data.root: change values with key=value here, without + and ~",
        "seed: is fixed by the checkpoint -> " + FIX,
        f"--json {runs}: the file cannot be written: {runs} is a folder, not a file -> {FILE}",
        f"--predictions {config}: the folder cannot be written: {config} is a file, not a folder "
        f"-> {FOLDER}",
    ]
    assert said(runs / "new", "--foo") == [
        "unknown option '--foo' -> mtl eval --help lists the options"
    ]


def test_a_task_is_no_override(runs: Path) -> None:
    """`--task rte data.max_length=64`: the second word is an override, whatever stands before
    it."""
    assert said(runs / "new", "--task", "rte", "optim.lr=3") == [
        "optim.lr: is fixed by the checkpoint -> " + FIX
    ]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_main(["--help"]) == 0
    assert "usage: mtl eval PATH" in capsys.readouterr().out
