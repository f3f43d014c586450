"""What TAB offers, and what it imports for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from mtlcli.cli.completion import PATHS, SCRIPTS, complete, complete_main, completion_main
from mtlcli.config import Config, sharings
from mtlcli.config.paths import conf_dir
from mtlcli.config.run import Runner
from mtlcli.config.section import hints
from mtlcli.errors import UserError

BREAKS = " \t\n\"'@><=;|&(:"


def candidates(line: str) -> list[str]:
    """What a line, typed up to a TAB without quotes, can go on with."""
    *words, current = line.split(" ")
    return complete(words, current)


def test_verbs() -> None:
    assert {"train", "eval", "tasks"} <= set(candidates(""))
    assert candidates("ev") == ["eval"]
    assert candidates("nosuchverb x") == []


def test_group_choices_are_the_files_of_conf() -> None:
    for group in (path for path in conf_dir().iterdir() if path.is_dir()):
        assert candidates(f"train {group.name}=") == [
            f"{group.name}={file.stem}" for file in sorted(group.glob("*.yaml"))
        ]
    assert candidates("train model=ti") == ["model=tiny", "model=tiny_decoder", "model=tiny_t5"]


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
    assert sorted(candidates("train weighting.l")) == [
        "weighting.last_layers=",
        "weighting.leak=",
        "weighting.lr=",
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
    assert candidates("train resume=ru") == ["resume=runs/"]
    assert candidates("train resume=au") == ["resume=auto"]
    assert candidates("eval runs --json n") == ["notes.txt"]
    assert candidates("eval runs --task rt") == ["rte"]
    assert candidates("eval runs --task cola rt") == ["rte"]
    assert candidates("eval --task rte --split te") == ["test"]
    assert candidates("eval --split test r") == ["runs/"]
    assert candidates("eval runs data.roo") == ["data.root="]
    assert candidates("tasks squ") == ["squad", "squad_v2"]
    assert candidates("tasks rte model=ti") == ["model=tiny", "model=tiny_decoder", "model=tiny_t5"]
    assert candidates("completion ") == list(SCRIPTS)
    assert candidates("report runs/ --baseline ru") == ["runs/"]
    assert candidates("compare --equal c") == ["compute"]
    assert candidates("compare --affinity s") == ["surrogate"]
    assert candidates("report runs/ --together ru") == ["runs/"]
    assert candidates("compare sharing=hard,lor") == ["sharing=hard,lora"]


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
        known = hints(Config)
        *sections, last = key.split(".")
        for section in sections:
            known = hints(known[section])
        assert last in known


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("mtl tr", ["train "]),
        ("mtl train runner.prec", ["runner.precision="]),
        ("mtl train task=rt", ["rte "]),
        ("mtl train task=[cola,rt", ["[cola,rte] ", "[cola,rte,"]),
        ("mtl train 'task=[cola,rt", ["task=[cola,rte]", "task=[cola,rte,"]),
        ("mtl train task='[cola,rt", ["[cola,rte]", "[cola,rte,"]),
        ('mtl train "model=tin', ["model=tiny", "model=tiny_decoder", "model=tiny_t5"]),
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


def test_unknown_shell() -> None:
    with pytest.raises(UserError, match="did you mean 'zsh'"):
        completion_main(["zhs"])


def test_a_tab_imports_nothing_heavy() -> None:
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "hydra",
        "omegaconf",
        "pydantic",
        "numpy",
        "rich",
    ]
    code = (
        "import sys; from mtlcli.cli import main\n"
        "main(['--complete', 'zsh', 'train', 'task=glue_squad', 'tasks.squad.'])\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tasks.squad.stride=" in done.stdout
    assert done.stderr == "[]\n"
