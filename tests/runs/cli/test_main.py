"""What every command line has in common: help, versions, unknown verbs, and what the light verbs
cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtlcli
from mtlcli.cli import VERBS, block, main
from mtlcli.errors import Problem, UserError

HEAVY = ("torch", "transformers", "datasets", "evaluate", "sklearn", "hydra")


def mtl(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mtlcli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=500
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    done = mtl(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: mtl {verb}" in done.stdout
    assert "Powered by Hydra" not in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mtl {mtlcli.__version__}\n"


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "task=rte"]) == 2
    assert capsys.readouterr().err == (
        "mtl: 1 problem\n  unknown verb 'trian'\n      -> did you mean 'train'? choices: "
        "check, compare, completion, compress, doctor, eval, export, merge, new, predict, push, "
        "report, serve, tasks, train\n"
    )


def test_an_error_is_one_block() -> None:
    error = UserError([Problem("is wrong", "a.b", "do this"), Problem("is wrong too")])
    assert (
        block("mtl train", error)
        == "mtl train: 2 problems\n  a.b: is wrong\n      -> do this\n  is wrong too"
    )


def test_debug_keeps_the_traceback() -> None:
    assert "Traceback" not in mtl("trian").stderr
    done = mtl("trian", MTL_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "unknown verb 'trian'" in done.stderr


def test_only_rank_0_talks() -> None:
    done = mtl(
        "train", "task=ret", RANK="1", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="29500"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m mtlcli train --cfg job | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=500,
    )
    assert done.stdout == "tasks:\n" and done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["tasks"]])
def test_light_verbs_import_nothing_heavy(arguments: list[str]) -> None:
    traced = mtl(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert traced.returncode == 0 and traced.stdout
    imported = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines()}
    assert "mtlcli.cli" in imported
    assert not imported & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "task=ret"],
        ["train", "--cfg", "job"],
        ["eval", "nosuch"],
        ["tasks", "stsb", "data=sample"],
    ],
)
def test_no_torch_before_a_run_starts(arguments: list[str], tmp_path: Path) -> None:
    traced = mtl(*arguments, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines()}
    assert "mtlcli.cli" in imported
    assert not imported & {"torch", "transformers", "datasets", "evaluate", "sklearn"}
    assert list(tmp_path.iterdir()) == [], "nothing is created on disk"


def test_messages_are_shown_unless_this_is_another_rank_of_a_launch() -> None:
    refused = mtl("train", "task=nope", WORLD_SIZE="4")
    assert (
        refused.returncode == 2
        and "WORLD_SIZE=4" in refused.stderr
        and "Traceback" not in refused.stderr
    )
    alone = mtl("train", "task=nope", RANK="3")
    assert alone.returncode == 2 and "unknown task 'nope'" in alone.stderr
    other = mtl(
        "train", "task=nope", RANK="1", WORLD_SIZE="4", MASTER_ADDR="node7", MASTER_PORT="29500"
    )
    assert other.returncode == 2 and other.stderr == ""
