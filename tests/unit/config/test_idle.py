"""What is typed and does nothing is refused or said: keys beside others, keys of Hydra, settings
beyond the length of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtlcli.cli import hydras
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.idle import idle, unheeded
from mtlcli.config.remarks import crowded, nothing_left, remarks
from mtlcli.config.run import Runner
from mtlcli.config.validate import validate
from mtlcli.errors import UserError

TASK = {"type": "classification", "columns": {"text": "a"}, "source": {"path": "x"}}
METHODS = {
    "sharing": {"name": "hard"},
    "weighting": {"name": "static"},
    "sampling": {"name": "proportional"},
}


def config(**values: Any) -> Any:
    return validate({"tasks": {"mine": TASK}, "model": {"kind": "scratch"}} | METHODS | values)


def said(*arguments: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        preflight(read_arguments(["task=rte", "data=sample", "model=tiny", *arguments]))
    return [
        f"{problem.where}: {problem.what} -> {problem.fix}" for problem in caught.value.problems
    ]


@pytest.mark.parametrize(
    ("key", "useless", "useful"),
    [
        ("model.layers", {"model": {"kind": "pretrained", "name": "x"}}, {}),
        ("model.lr", {}, {"model": {"kind": "pretrained", "name": "x"}}),
        ("model.scratch_lr", {"optim": {"name": "adamw", "lr": 0.1}}, {}),
        ("runner.epochs", {"runner": {"steps": 5}}, {}),
        ("allow", {}, {"resume": "run"}),
        (
            "sharing.entropy",
            {"sharing": {"name": "mmoe"}},
            {"sharing": {"name": "mmoe", "gate": "dselect_k"}},
        ),
        (
            "sharing.successive_every",
            {"sharing": {"name": "hierarchical"}},
            {"sharing": {"name": "hierarchical", "successive": 1.0}},
        ),
    ],
)
def test_keys_beside_others(key: str, useless: dict[str, Any], useful: dict[str, Any]) -> None:
    assert [problem.where for problem in idle(config(**useless), [key, "seed"])] == [key]
    assert idle(config(**useless), []) == [], "nobody has typed it"
    assert idle(config(**useful), [key]) == []


def test_training_keys_of_a_task_that_is_not_trained_are_noted() -> None:
    task = TASK | {
        "labels": ["a", "b"],
        "splits": {"train": None},
        "class_weights": "balanced",
        "label_smoothing": 0.1,
        "weight": 1.0,
    }
    run = config(tasks={"mine": TASK, "other": task})
    assert unheeded(run, ["tasks.other.label_smoothing"]) == [
        "note: tasks.other.class_weights has no effect: the task is not trained (splits.train is "
        "null)"
    ]
    assert [problem.where for problem in idle(run, ["tasks.other.label_smoothing"])] == [
        "tasks.other.label_smoothing"
    ]


@pytest.mark.parametrize(
    ("sharing", "why"),
    [
        ({"name": "cross_stitch"}, "there is one copy, and no other to mix it with"),
        ({"name": "sluice"}, "there is one copy, and no other to mix it with"),
        ({"name": "soft"}, "there is one copy, and no other to keep it near"),
        ({"name": "soft", "distance": "pretrained"}, None),
        ({"name": "adapter_fusion"}, "there is one task's adapter, and no other to attend to"),
        ({"name": "progressive"}, "there is one stage"),
        ({"name": "lora"}, None),
    ],
)
def test_a_strategy_that_needs_a_second_task_is_noted(
    sharing: dict[str, Any], why: str | None
) -> None:
    name = sharing["name"]
    notes = [f"note: sharing={name} shares nothing in a run of one task: {why}"] if why else []
    assert unheeded(config(tasks={"mine": TASK}, sharing=sharing), []) == notes
    assert unheeded(config(tasks={"mine": TASK, "other": TASK}, sharing=sharing), []) == []


def test_typed_keys_without_effect_are_refused_at_once() -> None:
    assert said("runner.steps=3", "runner.epochs=2", "optim.lr=0.1", "model.scratch_lr=0.2") == [
        "model.scratch_lr: has no effect: optim.lr=0.1 is set and takes precedence -> leave it out",
        "runner.epochs: has no effect: runner.steps=3 is set and takes precedence -> leave it out, "
        "or add "
        "runner.steps=null",
    ]
    assert preflight(
        read_arguments(
            [
                "-m",
                "task=rte",
                "data=sample",
                "model=tiny",
                "runner.epochs=2",
                "runner.steps=3,null",
            ]
        )
    ).configs


def test_keys_of_hydra() -> None:
    assert said("hydra.run.dir=wanted") == [
        "hydra.run.dir: has no effect here -> type run_dir=FOLDER: a run has one folder"
    ]
    assert said("hydra.sweep.dir=wanted", "hydra.job.chdir=true", "hydra/launcher=basic") == [
        "hydra.sweep.dir: has an effect only in a sweep -> add -m, or leave it out",
        "hydra.job.chdir: has no effect here -> leave it out: paths start from the folder where "
        "mtl "
        "is typed",
        "hydra/launcher: has an effect only in a sweep -> add -m, or leave it out",
    ]


def test_a_launcher_without_its_plugin_or_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = hydras.missing_plugin("hydra/launcher", "ray", ["basic"])
    assert problem is not None and (problem.what, problem.fix) == (
        "its plugin is not installed",
        "type pip install hydra-ray-launcher, or choose one of: basic",
    )
    monkeypatch.setattr(hydras.shutil, "which", lambda program: None)
    problem = hydras.missing_plugin("hydra/launcher", "submitit_slurm", ["basic", "submitit_slurm"])
    assert (
        problem is not None
        and problem.what
        == "this machine has no srun and no sbatch: it is not part of a SLURM cluster"
    )
    assert hydras.missing_plugin("hydra/launcher", "basic", ["basic"]) is None


def test_names_given_twice_are_refused(tmp_path: Path) -> None:
    assert said("task=[rte,cola,rte]") == [
        "task=[rte,cola,rte]: task 'rte' is listed twice -> name it once"
    ]
    plan = preflight(read_arguments(["task=rte", "data=sample", "model=tiny", "seed=1", "seed=2"]))
    assert plan.notices == ["note: seed=1 is not used: seed=2 comes after it"]
    for words, seeds in ((["seed=1,2", "seed=3"], [3]), (["seed=3", "seed=1,3"], [1, 3])):
        plan = preflight(read_arguments(["-m", "task=rte", "data=sample", "model=tiny", *words]))
        assert [config.seed for config in plan.configs] == seeds
        assert plan.notices == [f"note: {words[0]} is not used: {words[1]} comes after it"]
    (tmp_path / "task").mkdir()
    text = (Path(__file__).parents[3] / "conf" / "task" / "rte.yaml").read_text()
    for name in ("a", "b"):
        (tmp_path / "task" / f"{name}.yaml").write_text(text.replace("tasks.rte", "tasks.c"))
    assert said("-cd", str(tmp_path), "task=[a,b]")[0].startswith(
        "task: the files of 'a' and 'b' both name the task 'c'"
    )
    plan = preflight(read_arguments(["-cd", str(tmp_path), "task=a", "data=sample", "model=tiny"]))
    assert plan.notices == ["note: the file a.yaml names its task 'c'"]


def test_settings_beyond_the_length_of_a_run_are_noted() -> None:
    usual = config(runner={"steps": 20, "patience": 3})
    assert list(remarks(usual, 20, 4)) == []
    assert list(remarks(usual, 20, 5)) == [
        "note: runner.patience=3 cannot end the run early: it has 4 evaluations"
    ]
    long = config(
        runner={"steps": 2, "save_every": 9, "keep": 5},
        optim={"name": "adamw", "unfreeze_every": 3, "warmup": 0.9},
        logger={"every": 7},
    )
    assert list(remarks(long, 2, 1)) == [
        "note: optim.warmup=0.9 takes all 2 steps: the learning rate never reaches its peak",
        "note: runner.save_every=9 is beyond the run's 2 steps: the best step and the last are "
        "saved",
        "note: logger.every=7 is beyond the run's 2 steps: metrics.jsonl gets a row for the last "
        "step alone",
        "note: optim.unfreeze_every=3 is beyond the run's 2 steps: what lies below the heads is "
        "never trained",
        "note: runner.keep=5 deletes nothing: the run saves 2 checkpoints at most",
    ]


def test_resuming_a_finished_run_is_noted() -> None:
    done = config(runner={"steps": 2})
    assert nothing_left(Path("my run"), done, 1, 2) is None
    assert nothing_left(Path("my run"), done, 2, 2) == (
        "note: nothing is left to do, the run has made its 2 steps; to train on: "
        "mtl train \"resume='my run'\" runner.steps=4 'allow=[runner.steps]'"
    )


def test_more_ranks_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert list(crowded(Runner(), 2, 1)) == list(crowded(Runner(threads=2), 1, 2)) == []
    assert list(crowded(Runner(), 3, 1)) == [
        "note: 3 CPU ranks share 2 cores: more ranks than cores are slower"
    ]
    assert list(crowded(Runner(threads=2), 2, 2)) == [
        "note: 2 x 2 threads share 2 cores: more threads than cores are slower"
    ]
