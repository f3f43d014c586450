"""`mtl train` with stages: what is planned, reused and gone on with, what each run begins with, the
tables at the end; tasks in order, resumed to the bit; refusals before anything is trained."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from tests.pinned import FORMAT
from tests.small_run import cut_off, differences
from tests.small_run import resume as go_on
from tests.small_run import start as begin
from tests.warm import mtl, start

SMALL = [
    *("task=[cola,rte,mrpc]", "data=sample", "data.max_length=32", "data.max_train_rows=40"),
    *("model=tiny", "model.hidden=16", "model.heads=1", "model.layers=1"),
    *("runner.steps=6", "runner.batch_size=8", "logger.every=2", "run_dir=out"),
    *("runner.device=cpu", "runner.threads=1", FORMAT),
]
MTDNN = ["experiment=mtdnn", *SMALL, "sampling=all", "weighting=pcgrad", "tasks.rte.weight=2"]


def runs(folder: Path) -> dict[str, Path]:
    """The runs in a folder by stage, task and seed."""
    return {
        re.sub(r"_[0-9a-f]{8}$", "", path.name): path for path in folder.iterdir() if path.is_dir()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of MT-DNN, during which the process was killed with -9."""
    place = tmp_path_factory.mktemp("stages")
    long = [text for text in MTDNN if text != "runner.steps=6"]
    command = ["train", *long, "runner.steps=60", "runner.eval_every=5"]
    process = start(*command, "stages.finetune.set.runner.steps=4", cwd=place)
    while not list((place / "out").glob("joint*/checkpoints/step_*")):
        assert process.poll() is None, process.stderr
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = mtl(*command, "stages.finetune.set.runner.steps=4", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "said.txt").write_text(done.stdout)
    return place


def test_a_killed_command_goes_on_and_ends_in_the_tables(place: Path) -> None:
    said = (place / "said.txt").read_text()
    assert "5 runs in out, 4 of them to train" in said
    for line in ("alone, seed 0: has finished", "joint, seed 0: goes on", "finetune mrpc, seed 0"):
        assert line in said
    assert "joint (1 seed) against alone (1 seed)" in said
    assert "finetune (1 seed) against alone (1 seed)" in said
    assert "gains over alone" in said
    assert "with those of the runs with whose weights runs have begun" in said
    joint = json.loads((runs(place / "out")["joint_seed-0"] / "environment.json").read_text())
    assert len(joint["resumed"]) == 1


def test_each_stage_has_what_it_says(place: Path) -> None:
    found = {name: load_config(path / "config.yaml") for name, path in runs(place / "out").items()}
    alone, joint = found["alone_seed-0"], found["joint_seed-0"]
    assert (alone.sharing.name, alone.weighting.name) == ("none", "static")
    assert (joint.sharing.name, joint.weighting.name) == ("hard", "pcgrad")
    assert alone.runner.steps == joint.runner.steps == 60
    assert list(alone.tasks) == list(joint.tasks) == ["cola", "rte", "mrpc"]
    tuned = found["finetune-rte_seed-0"]
    assert list(tuned.tasks) == ["rte"] and tuned.tasks["rte"].weight == 2
    assert tuned.init.from_ == f"out/{runs(place / 'out')['joint_seed-0'].name}"
    assert tuned.init.heads == ["rte"]
    assert (tuned.weighting.name, tuned.sampling.name) == ("static", "proportional")
    assert tuned.runner.steps == 4
    assert joint.optim.lr is not None
    assert tuned.optim.lr == pytest.approx(0.3 * joint.optim.lr)
    # A finished stage is evaluated like any run.
    assert {path.name for path in (place / "out").glob("*.html")} <= {"report.html"}


def test_tasks_in_order_show_what_is_forgotten(tmp_path: Path) -> None:
    stages = ["~stages.plain", "~stages.replay", "stages.lwf.set.augmentation.strength=2"]
    stages = [text for text in stages if not text.startswith("stages.lwf")]
    done = mtl("train", "experiment=continual", *SMALL, *stages, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        name: load_config(path / "config.yaml") for name, path in runs(tmp_path / "out").items()
    }
    assert {name: list(config.tasks) for name, config in found.items()} == {
        "joint_seed-0": ["cola", "rte", "mrpc"],
        "first_seed-0": ["cola"],
        **{
            f"{stage}-{number}-{tasks[-1]}_seed-0": tasks
            for stage in ("ewc", "lwf")
            for number, tasks in ((1, ["cola", "rte"]), (2, ["cola", "rte", "mrpc"]))
        },
    }
    last = found["lwf-2-mrpc_seed-0"]
    folders = runs(tmp_path / "out")
    assert last.init.from_ == f"out/{folders['lwf-1-rte_seed-0'].name}"
    assert last.init.heads == ["cola", "rte"]
    assert found["ewc-1-rte_seed-0"].init.from_ == f"out/{folders['first_seed-0'].name}"
    rows = [json.loads(line) for line in (folders["ewc-2-mrpc_seed-0"] / "metrics.jsonl").open()]
    assert {task for row in rows for task in row["tasks"]} == {"mrpc"}
    scores = [
        json.loads((folders[name] / "results.json").read_text())["tasks"]["cola"]["main"]
        for name in ("first_seed-0", "lwf-1-rte_seed-0", "lwf-2-mrpc_seed-0")
    ]
    matrix = done.stdout[done.stdout.index("lwf: main scores after each stage (1 seed)") :]
    for line, score in zip(("first ", "lwf 1 rte", "lwf 2 mrpc"), scores, strict=True):
        assert re.search(rf"{line}\s*│ +{score:.4f} ", matrix)
    lost = 100 * (max(scores[:2]) - scores[2])
    assert re.search(rf"forgotten \(points\) *│ +{re.escape(f'{lost:+.1f}')} ", matrix)


@pytest.mark.parametrize("name", ["ewc", "lwf"])
def test_what_is_kept_is_the_same_in_a_resumed_run(name: str, tmp_path: Path) -> None:
    source = begin(tmp_path / "source", "task=[rte,stsb]", "runner.steps=4", "runner.eval_every=4")
    more = ("task=[rte,stsb,cola]", f"init.from={source}", f"augmentation={name}")
    whole = begin(tmp_path / "whole", *more, "sampling=replay", "sampling.share=0.3")
    again = go_on(cut_off(whole, "step_00000008", tmp_path / "again"))
    assert differences(whole, again) == []
    file = again / "earlier.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="what the run keeps of earlier tasks has changed"):
        go_on(cut_off(again, "step_00000008", tmp_path / "changed"))
    with pytest.raises(UserError, match="there is nothing to keep of mrpc: the run of init.from"):
        begin(tmp_path / "new", *more, "task=[mrpc,cola]")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stages.finetun.set.optim.lr=1"], ["there is no stage 'finetun'", "mean 'finetune'?"]),
        (["stages.finetune.set.optim.lr=-1"], ["stages.finetune.set.optim.lr: stage finetune: "]),
        (["stages.finetune.from=fine"], ["stages.finetune.from: there is no earlier stage 'fine'"]),
        (["stages.joint.set.task=rte"], ["stages.joint.set.task: cannot be set", "joint.tasks"]),
        (["stages.joint.tasks=[rt]"], ["stages.joint.tasks: there is no task 'rt'"]),
        (["sharing=cgc"], ["stages.finetune: cannot begin with joint: sharing=cgc keeps parts"]),
        (["-m", "optim.lr=1,2"], ["optim.lr: of several values", "of seed alone"]),
        (["-m", "seed=1,2", "data.max_eval_rows=9"], ["data.max_eval_rows: every seed would"]),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    words: list[str], expected: list[str], tmp_path: Path
) -> None:
    done = mtl("train", "experiment=mtdnn", *SMALL, *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    for text in expected:
        assert text in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_intermediate_tasks_are_compared_with_the_target_alone(tmp_path: Path) -> None:
    done = mtl("train", "-m", "experiment=transfer", *SMALL, "seed=3,4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 runs in out, 10 of them to train" in done.stdout
    for task in ("rte", "mrpc"):
        assert f"after {task} (2 seeds) against alone (2 seeds)" in done.stdout
    found = runs(tmp_path / "out")
    after = load_config(found["after-mrpc_seed-4"] / "config.yaml")
    assert list(after.tasks) == ["cola"]
    assert after.init.from_ == f"out/{found['intermediate-mrpc_seed-4'].name}"
