"""The runs that stages have: their tasks, where they begin, their lengths and rates; what is
refused. Nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.cli.stage_plan import StageRun, plan_stages
from mtlcli.cli.stages import check
from mtlcli.errors import UserError

BASE = ["task=[cola,rte,mrpc]", "data=sample", "model=tiny", "run_dir=out"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(*words: str) -> list[StageRun]:
    arguments = read_arguments(list(words))
    plan = preflight(arguments)
    check(plan, arguments)
    return plan_stages(plan, arguments.overrides, [])[1]


def test_a_target_after_each_intermediate_task() -> None:
    found = planned("-m", "experiment=transfer", *BASE, "seed=3,4")
    assert [(run.label, run.seed) for run in found[:5]] == [
        ("alone", 3),
        ("intermediate rte", 3),
        ("intermediate mrpc", 3),
        ("after rte", 3),
        ("after mrpc", 3),
    ]
    assert len(found) == 10
    assert [list(run.config.tasks) for run in found[:5]] == [
        *(["cola"], ["rte"], ["mrpc"], ["cola"], ["cola"]),
    ]
    last = found[-1]
    assert last.begins is found[7] and last.config.init.from_ == str(found[7].folder)
    assert last.config.seed == found[7].seed == 4
    assert {run.method for run in found if run.compared} == {"alone", "after rte", "after mrpc"}
    assert len({run.folder for run in found}) == 10


def test_the_words_of_a_stage_take_the_place_of_those_of_the_whole() -> None:
    words = ["sharing=lora", "sharing.rank=2", "runner.steps=300", "optim.lr=0.002"]
    words += ["stages.joint.set.sharing.rank=4", "stages.finetune.lr=0.1"]
    base = [*BASE, "task=[cola,rte]"]
    alone, joint, tuned, _ = planned("experiment=mtdnn", *base, *words)
    assert alone.config.sharing.name == "none"
    assert (joint.config.sharing.name, vars(joint.config.sharing)["rank"]) == ("lora", 4)
    assert (tuned.config.runner.steps, tuned.config.optim.lr) == (99, 0.0002)
    assert tuned.config.stages == {}
    # In epochs, and with the rate that suits the model.
    _, _, tuned, _ = planned("experiment=mtdnn", *base)
    assert tuned.config.runner.epochs == pytest.approx(0.99)
    assert (tuned.config.optim.lr, tuned.config.optim.lr_factor) == (None, 0.3)
    own = ["runner.steps=300", "stages.finetune.set.runner.epochs=2"]
    _, _, tuned, _ = planned("experiment=mtdnn", *base, *own)
    assert (tuned.config.runner.steps, tuned.config.runner.epochs) == (None, 2.0)


@pytest.mark.parametrize(
    ("words", "where", "what"),
    [
        (["stages.finetun.set.optim.lr=1"], "stages.finetun.set.optim.lr", "there is no stage"),
        (["stages.finetune.set.optim.lr=-1"], "stages.finetune.set.optim.lr", "stage finetune: "),
        (["stages.finetune.from=fine"], "stages.finetune.from", "there is no earlier stage"),
        (["stages.joint.set.task=rte"], "stages.joint.set.task", "cannot be set in a single"),
        (["stages.joint.tasks=[rt]"], "stages.joint.tasks", "there is no task 'rt'"),
        (["stages.alone.compared=false"], "stages.alone.compared", "the first stage is what"),
        (["stages.joint.runs=each"], "stages.finetune.runs", "joint has several runs"),
        (["sharing=cgc"], "stages.finetune", "cannot begin with joint: sharing=cgc keeps parts"),
        (["stages.finetune.set.model=minilm"], "stages.finetune: model.kind", "the run asks for"),
        (["-m", "optim.lr=1,2"], "optim.lr", "of several values"),
        (["-m", "seed=1,2", "data.max_eval_rows=9"], "data.max_eval_rows", "every seed would be"),
        (["sweep.dry_run=true"], "sweep", "does not go with stages"),
        (["~stages.jont"], "~stages.jont", "there is nothing of this name to take out"),
        (["task=rte"], "stages.finetune.runs", "there is one task, and a run for each"),
        (
            ["stages.finetune.set.sharing=lor"],
            "stages.finetune.set.sharing=lor",
            "stage finetune: unknown sharing 'lor'",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    words: list[str], where: str, what: str
) -> None:
    with pytest.raises(UserError) as found:
        planned("experiment=mtdnn", *BASE, *words)
    first = found.value.problems[0]
    assert first.where == where and first.what.startswith(what), found.value
    assert not list(Path().iterdir())


def test_the_folder_of_another_run_is_not_that_of_the_stages() -> None:
    Path("out").mkdir()
    Path("out/config.yaml").touch()
    with pytest.raises(UserError, match="run_dir=out: the folder is that of a single run"):
        planned("experiment=mtdnn", *BASE)
    Path("file").touch()
    with pytest.raises(UserError, match="run_dir=file/out: the folder cannot be written"):
        planned("experiment=mtdnn", *BASE, "run_dir=file/out")


def test_tasks_in_order_are_in_the_order_of_the_command_line() -> None:
    with pytest.raises(UserError, match=r"stages.lwf.tasks: the order of the tasks is that of"):
        planned("experiment=continual", *BASE, "stages.lwf.tasks=[mrpc,rte]")
