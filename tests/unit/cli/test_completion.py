"""What TAB offers: the candidates themselves, the shells that ask for them, and what a TAB
costs."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from mtlcli.cli.completion import PATHS, SCRIPTS, complete, complete_main, completion_main
from mtlcli.config import Config, sharings
from mtlcli.config.paths import conf_dir
from mtlcli.config.run import Runner
from mtlcli.errors import UserError

BREAKS = " \t\n\"'@><=;|&(:"


def candidates(line: str) -> list[str]:
    """What a line, typed up to a TAB without quotes, can go on with."""
    *words, current = line.split(" ")
    return complete(words, current)


@pytest.fixture
def shell_env(tmp_path: Path) -> dict[str, str]:
    """An environment in which `mtl` is this code's command."""
    command = tmp_path / "bin" / "mtl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mtlcli "$@"\n')
    command.chmod(0o755)
    root = str(Path(__file__).parents[3])
    return {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": root,
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


def test_verbs() -> None:
    assert {"train", "eval", "tasks"} <= set(candidates(""))
    assert candidates("ev") == ["eval"]
    assert candidates("nosuchverb x") == []


def test_group_choices_are_the_files_of_conf() -> None:
    for group in (path for path in conf_dir().iterdir() if path.is_dir()):
        assert candidates(f"train {group.name}=") == [
            f"{group.name}={file.stem}" for file in sorted(group.glob("*.yaml"))
        ]
    assert candidates("train model=ti") == ["model=tiny"]


def test_own_configuration_folder(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("# @package tasks.mine\ntype: regression\n")
    assert candidates(f"train -cd {tmp_path} task=mi") == ["task=mine"]
    assert candidates(f"train --config-dir={tmp_path} task=mi") == ["task=mine"]
    assert candidates(f"train -cd {tmp_path} task=mine tasks.") == ["tasks.mine."]
    assert "tasks.mine.range=" in candidates(f"train -cd {tmp_path} task=mine tasks.mine.")
    assert candidates(f"train -cd {tmp_path}/none task=mi") == []
    assert candidates("train task=mi") == []


def test_lists_and_sweeps() -> None:
    assert "task=[cola,rte" in candidates("train task=[cola,")
    assert "task=[cola,cola" not in candidates("train task=[cola,")
    assert candidates("train task=[cola,rt") == ["task=[cola,rte]", "task=[cola,rte,"]
    assert candidates("train task=[squad") == ["task=[squad]", "task=[squad,", "task=[squad_v2"]
    assert candidates("train -m sharing=hard,") == [
        f"sharing=hard,{name}" for name in sorted(sharings) if name != "hard"
    ]


def test_keys_of_the_schema() -> None:
    assert candidates("train runner.") == [f"runner.{field.name}=" for field in fields(Runner)]
    assert {"runner=", "runner.", "run_dir="} == set(candidates("train run"))
    assert candidates("train ++runner.pre") == ["++runner.precision="]
    assert candidates("train nosuch.") == []


def test_literal_values() -> None:
    assert candidates("train runner.precision=") == [
        "runner.precision=auto",
        "runner.precision=fp32",
        "runner.precision=bf16",
    ]
    assert candidates("train runner.precision=b") == ["runner.precision=bf16"]
    assert candidates("train tasks.squad.no_answer=t") == ["tasks.squad.no_answer=true"]
    assert candidates("train runner.steps=") == []


def test_keys_of_the_chosen_method_only() -> None:
    assert candidates("train weighting=uncertainty weighting.l") == ["weighting.lr="]
    assert candidates("train weighting=static weighting.l") == []
    assert candidates("train weighting.l") == [
        "weighting.lr=",
        "weighting.last_layers=",
        "weighting.leak=",
    ]


def test_tasks_of_the_run_and_their_fields() -> None:
    assert candidates("train task=[squad,rte] tasks.") == ["tasks.squad.", "tasks.rte."]
    assert set(candidates("train task=glue_squad tasks.s")) == {
        "tasks.squad.",
        "tasks.sst2.",
        "tasks.stsb.",
    }
    assert "tasks.squad.stride=" in candidates("train tasks.squad.")
    assert "tasks.rte.stride=" not in candidates("train tasks.rte.")
    assert candidates("train tasks.rte.columns.text_") == ["tasks.rte.columns.text_pair="]


def test_folders_and_names_of_the_other_verbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "one run").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    assert candidates("eval ") == ["runs/"]
    assert candidates("eval runs/") == ["runs/one run/"]
    assert candidates("eval .h") == [".hidden/"]
    assert candidates("train data.root=ru") == ["data.root=runs/"]
    assert candidates("eval runs --json n") == ["notes.txt"]
    assert candidates("eval runs --task rt") == ["rte"]
    assert candidates("eval runs --task cola rt") == ["rte"]
    assert candidates("eval --task rte --split te") == ["test"]
    assert candidates("eval --split test r") == ["runs/"]
    assert candidates("eval runs data.ro") == ["data.root="]
    assert candidates("tasks squ") == ["squad", "squad_v2"]
    assert candidates("tasks rte model=ti") == ["model=tiny"]
    assert candidates("completion ") == list(SCRIPTS)


def test_tasks_of_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_1").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(
        "seed: 0\ntasks:\n  mine:\n    weight: 1.0\n  other-one:\n    weight: 1.0\nmodel:\n  name: "
        "x\n"
    )
    assert candidates(f"eval {tmp_path} --task ") == ["mine", "other-one"]
    assert candidates(f"eval {tmp_path}/checkpoints/step_1 --task m") == ["mine"]
    assert candidates(f"eval {tmp_path} tasks.") == ["tasks.mine.", "tasks.other-one."]


def test_keys_that_take_a_folder_are_in_the_schema() -> None:
    for key in PATHS:
        hints = get_type_hints(Config)
        *sections, last = key.split(".")
        for section in sections:
            hints = get_type_hints(hints[section])
        assert last in hints


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("mtl tr", ["train "]),
        ("mtl train runner.prec", ["runner.precision="]),
        ("mtl train task=rt", ["rte "]),
        ("mtl train task=[cola,rt", ["[cola,rte] ", "[cola,rte,"]),
        ("mtl train 'task=[cola,rt", ["task=[cola,rte]", "task=[cola,rte,"]),
        ("mtl train task='[cola,rt", ["[cola,rte]", "[cola,rte,"]),
        ('mtl train "model=tin', ["model=tiny"]),
        ("mtl train 'task=[rte]' tasks.", ["tasks.rte."]),
    ],
)
def test_a_line_of_bash(line: str, replies: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert complete_main(["bash", line, BREAKS]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == replies
    assert complete_main(["fish", line]) == 0
    whole = capsys.readouterr().out
    *words, current = line.replace("'", "").replace('"', "").split(" ")[1:]
    assert complete_main(["zsh", *words, current]) == 0
    assert capsys.readouterr().out == whole
    assert [
        word.rstrip().endswith(reply.rstrip()) for word, reply in zip(whole.splitlines(), replies)
    ] == [True] * len(replies)


def test_a_path_with_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one run").mkdir()
    monkeypatch.chdir(tmp_path)
    for line, reply in (
        ("mtl eval o", "one\\ run/"),
        ("mtl eval one\\ r", "one\\ run/"),
        ("mtl eval 'one r", "one run/"),
    ):
        complete_main(["bash", line, BREAKS])
        assert capsys.readouterr().out == reply + "\n"


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
            ("mtl tra\tmodel=tin\t-m\r", "RAN:<train><model=tiny><-m>"),
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


def test_unknown_shell() -> None:
    with pytest.raises(UserError, match="did you mean 'zsh'"):
        completion_main(["zhs"])


def test_a_tab_costs_little() -> None:
    """Under 0.3 s of CPU time, with nothing heavy imported; the best of three, because other
    processes make it look slower."""
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "hydra",
        "omegaconf",
        "pydantic",
        "yaml",
        "numpy",
        "rich",
    ]
    code = (
        "import sys; from mtlcli.cli import main\n"
        "main(['--complete', 'zsh', 'train', 'task=glue_squad', 'tasks.squad.'])\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    spent = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        after = os.times()
        spent.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        assert "tasks.squad.stride=" in done.stdout
        assert done.stderr == "[]\n"
    assert min(spent) < 0.3
