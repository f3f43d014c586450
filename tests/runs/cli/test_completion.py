"""TAB in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtlcli.cli.completion import SCRIPTS
from mtlcli.config import sharings
from tests.warm import ROOT


@pytest.fixture
def shell_env(tmp_path: Path) -> dict[str, str]:
    """An environment in which `mtl` is this code's command."""
    command = tmp_path / "bin" / "mtl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mtlcli "$@"\n')
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


def test_the_function_that_bash_calls(shell_env: dict[str, str]) -> None:
    """bash itself, with its own COMP_WORDBREAKS, which cuts words at '='."""
    code = """
        set -u
        eval "$(mtl completion bash)"
        tell() { printf '<%s>' "${COMPREPLY[@]}"; echo; }
        ask() { COMP_LINE=$1 COMP_POINT=${#1}; COMPREPLY=(); _mtl mtl; tell; }
        ask 'mtl '
        ask 'mtl train sharing='
        ask 'mtl train task=[cola,squ'
        ask 'mtl train runner.precision=f'
        COMP_LINE='mtl train model= seed=1' COMP_POINT=16; _mtl mtl; tell
        COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
        ask 'mtl train runner.precision=f'
    """
    done = subprocess.run(
        ["bash", "-c", code], env=shell_env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    verbs, sharing, tasks, precision, middle, whole = done.stdout.splitlines()
    assert verbs.startswith("<train ><eval >")
    assert sharing == "".join(f"<{name} >" for name in sorted(sharings))
    assert tasks == "<[cola,squad><[cola,squad_v2>"
    assert precision == "<fp32 >"
    assert "<tiny >" in middle
    assert whole == "<runner.precision=fp32 >"


INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(mtl completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -Uz compinit && compinit -u -D && eval "$(mtl completion zsh)"',
    ),
    "fish": (["fish", "--no-config", "-i"], "mtl completion fish | source"),
}


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_a_person_presses_tab(shell: str, shell_env: dict[str, str], tmp_path: Path) -> None:
    """A shell with a terminal of its own: type, press TAB, and see which command line Enter
    runs."""
    argv, setup = INTERACTIVE[shell]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "bin" / "mtl"
    answers = command.read_text().replace(
        "exec",
        'case "$1" in train | eval) printf "RAN:"; printf "<%s>" "$@"; echo; exit ;; esac\nexec',
    )
    command.write_text(answers)
    (tmp_path / "one run").mkdir()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execvpe(argv[0], argv, shell_env)
    try:
        # In two parts, because the echo of what is typed must not look like the answer.
        os.write(terminal, f"{setup}; echo rea''dy\r".encode())
        read_until(terminal, "ready")
        for typed, ran in (
            ("mtl tra\tmodel=mini\t-m\r", "RAN:<train><model=minilm><-m>"),
            ("mtl train runner.preci\tfp\t\r", "RAN:<train><runner.precision=fp32>"),
            (
                "mtl train 'task=[cola,rt\t]' tasks.rt\tweight=2\r",
                "RAN:<train><task=[cola,rte]><tasks.rte.weight=2>",
            ),
            ("mtl eval o\t\r", "RAN:<eval><one run/>"),
        ):
            os.write(terminal, typed.encode())
            read_until(terminal, ran)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def read_until(terminal: int, expected: str, seconds: float = 30.0) -> None:
    """Read what the terminal shows until `expected` is in it."""
    shown, end = "", time.monotonic() + seconds
    while expected not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{expected!r} did not appear in {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")


def test_scripts_are_valid(tmp_path: Path) -> None:
    for shell, text in SCRIPTS.items():
        if shutil.which(shell):
            script = tmp_path / shell
            script.write_text(text)
            subprocess.run([shell, "-n", str(script)], check=True, timeout=60)
