"""`mtl train` with stages: what is planned, reused and gone on with, what each run begins with, the
tables at the end; tasks in order, resumed to the bit."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from tests.pinned import FORMAT
from tests.ranks import fork_ranks
from tests.runs.ddp.test_two_ranks import losses
from tests.small_run import cut_off, differences
from tests.small_run import resume as go_on
from tests.small_run import start as begin
from tests.warm import mtl, start

MODEL = ("model=tiny", "model.hidden=16", "model.heads=1", "model.layers=1")
SMALL = [
    *("task=[cola,rte,mrpc]", "data=sample", "data.max_length=32", "data.max_train_rows=40"),
    *MODEL,
    *("runner.steps=6", "runner.batch_size=8", "logger.every=2", "run_dir=out"),
    *("runner.device=cpu", "runner.threads=1", FORMAT),
]
MTDNN = ["experiment=mtdnn", *SMALL, "task=[cola,rte]", "sampling=all", "weighting=pcgrad"]


def runs(folder: Path) -> dict[str, Path]:
    """The runs in a folder by stage, task and seed."""
    return {
        re.sub(r"_[0-9a-f]{8}$", "", path.name): path for path in folder.iterdir() if path.is_dir()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of MT-DNN, during which the process was killed with -9."""
    place = tmp_path_factory.mktemp("stages")
    command = ["train", *MTDNN, "tasks.rte.weight=2", "runner.steps=60", "runner.eval_every=5"]
    command += ["stages.finetune.set.runner.steps=4"]
    process = start(*command, cwd=place)
    while not list((place / "out").glob("joint*/checkpoints/step_*")):
        assert process.poll() is None, process.stderr
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = mtl(*command, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "said.txt").write_text(done.stdout)
    return place


def test_a_killed_command_goes_on_and_ends_in_the_tables(place: Path) -> None:
    said = (place / "said.txt").read_text()
    assert "4 runs in out, 3 of them to train" in said
    for line in ("alone, seed 0: has finished", "joint, seed 0: goes on", "finetune rte, seed 0"):
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
    assert list(alone.tasks) == list(joint.tasks) == ["cola", "rte"]
    tuned = found["finetune-rte_seed-0"]
    assert list(tuned.tasks) == ["rte"] and tuned.tasks["rte"].weight == 2
    assert tuned.init.from_ == f"out/{runs(place / 'out')['joint_seed-0'].name}"
    assert tuned.init.heads == ["rte"]
    assert (tuned.weighting.name, tuned.sampling.name) == ("static", "proportional")
    assert tuned.runner.steps == 4
    assert joint.optim.lr is not None
    assert tuned.optim.lr == pytest.approx(0.3 * joint.optim.lr)


def test_tasks_in_order_show_what_is_forgotten(tmp_path: Path) -> None:
    left_out = ["~stages.plain", "~stages.replay", "~stages.ewc"]
    done = mtl("train", "experiment=continual", *SMALL, *left_out, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = runs(tmp_path / "out")
    names = ["first_seed-0", "lwf-1-rte_seed-0", "lwf-2-mrpc_seed-0"]
    assert folders.keys() == {"joint_seed-0", *names}
    last = load_config(folders[names[2]] / "config.yaml")
    assert list(last.tasks) == ["cola", "rte", "mrpc"]
    assert last.init.from_ == f"out/{folders[names[1]].name}"
    assert last.init.heads == ["cola", "rte"]
    rows = [json.loads(line) for line in (folders[names[2]] / "metrics.jsonl").open()]
    assert {task for row in rows for task in row["tasks"]} == {"mrpc"}
    scores = [
        json.loads((folders[name] / "results.json").read_text())["tasks"]["cola"]["main"]
        for name in names
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


@pytest.mark.parametrize("augmentation", ["ewc", "lwf"])
def test_two_ranks_keep_earlier_tasks_as_one_does(
    augmentation: str, place: Path, tmp_path: Path
) -> None:
    begun = runs(place / "out")["joint_seed-0"]
    told = [word for word in SMALL if word not in MODEL]  # It is that of the other run.
    told += [f"init.from={begun}", "sampling=replay", f"augmentation={augmentation}"]
    told += ["model.dropout=0", "logger.every=1"]
    for devices in ("1", "2"):
        options = [f"runner.devices={devices}", f"run_dir={tmp_path / devices}"]
        done = mtl("train", *told, *options, before=fork_ranks)
        assert done.returncode == 0, done.stderr
    one, two = (losses(tmp_path / devices) for devices in ("1", "2"))
    assert [name for name, _ in one] == [name for name, _ in two]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    first, second = (load_file(tmp_path / number / "earlier.safetensors") for number in ("1", "2"))
    assert all(torch.equal(first[name], second[name]) for name in first)
