"""What `mtl eval` refuses before it reads a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtlcli.cli.eval import eval_main
from mtlcli.errors import UserError

FIX = "take it out; an evaluation may change data, the device, and a task's source, splits, columns and metrics: mtl eval --help"


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
    assert said(runs / "new", runs / "old")[0].startswith("PATH: one path is needed, found 2")
    assert said(runs / "nwe") == [f"{runs / 'nwe'}: there is no such folder -> did you mean {runs / 'new'}?"]
    assert said(runs) == [
        f"{runs}: neither a run folder (looked for config.yaml) nor a checkpoint (looked for manifest.json) -> the newest run in it is "
        f"{runs / 'new'}"
    ]


def test_overrides_and_files(runs: Path) -> None:
    assert said(runs / "new", "model=tiny", "+data.root=x", "--json", runs, "--predictions", runs / "new" / "config.yaml", "seed=3") == [
        "model: is fixed by the checkpoint -> " + FIX,
        "+data.root: values are changed with key=value here, without + and ~",
        "seed: is fixed by the checkpoint -> " + FIX,
        f"--json {runs}: is a folder -> give a file",
        f"--predictions {runs / 'new' / 'config.yaml'}: is a file -> give a folder",
    ]
    assert said(runs / "new", "--foo") == ["unknown option '--foo' -> mtl eval --help tells the options"]


def test_a_task_is_no_override(runs: Path) -> None:
    """`--task rte data.max_length=64`: the second word is an override, whatever stands before it."""
    assert said(runs / "new", "--task", "rte", "optim.lr=3") == ["optim.lr: is fixed by the checkpoint -> " + FIX]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_main(["--help"]) == 0
    assert "usage: mtl eval PATH" in capsys.readouterr().out
