"""Output that is closed, full, narrow in its characters, or whose reader goes away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import ROOT

COMMAND = f"{sys.executable} -m mtlcli"


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, cwd=cwd, env=environment, timeout=500
    )


def test_a_run_without_any_stream(tmp_path: Path) -> None:
    options = (
        "task=wnli data=sample model=tiny runner.steps=1 runner.device=cpu "
        "data.max_eval_rows=20 run_dir=run"
    )
    done = shell(f"{COMMAND} train {options} data.cache_dir=cache <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
    # A file of the run that had got the number of a closed stream would hold what was printed.
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 1
    assert "run folder: run" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--version >&-", 0),
        ("--version >&- 2>&- <&-", 0),
        ("nosuch 2>&-", 2),
        ("nosuch 2>/dev/full", 2),
        ("nosuch >&-", 2),
    ],
)
def test_the_exit_code_does_not_depend_on_the_streams(line: str, code: int, tmp_path: Path) -> None:
    assert shell(f"{COMMAND} {line}", tmp_path).returncode == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output_is_named(unbuffered: str, tmp_path: Path) -> None:
    done = shell(f"{COMMAND} tasks > /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "mtl tasks: 1 problem\n  standard output: the output cannot be written: No space left on "
        "device\n"
        "      -> make room there, or send the output elsewhere\n"
    )


def test_a_reader_of_a_table_that_goes_away(tmp_path: Path) -> None:
    done = shell(f"set -o pipefail; {COMMAND} tasks | true", tmp_path)
    assert done.returncode == 141 and done.stderr == b""


def test_characters_that_the_encoding_lacks(tmp_path: Path) -> None:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    task = (
        "# @package tasks.mine\ntype: classification\nsource:\n  files: {train: t.csv, "
        "validation: t.csv}\n"
    )
    (tmp_path / "conf" / "task" / "größe.yaml").write_text(
        task + "columns: {text: 文}\nlabels: [добре, 悪い]\n", encoding="utf-8"
    )
    (tmp_path / "t.csv").write_text("文,label\n日本 é,добре\nplohoj,悪い\n", encoding="utf-8")
    done = shell(f"{COMMAND} tasks größe -cd conf model=tiny", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5\\u672c \\xe9" in done.stdout
    done = shell(f"{COMMAND} train -cd conf task=größ", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and b"did you mean 'gr\\xf6\\xdfe'?" in done.stderr


def test_words_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} train run_dir=a$'\\xff'", tmp_path)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "mtl train: 1 problem\n  'run_dir=a\\udcff': the bytes of the word are not UTF-8\n"
        "      -> rename the file or folder, or type the word in UTF-8\n"
    )
