"""Mistakes that users make, as they see the answer: one clear block, exit code 2, no traceback,
nothing left on disk."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mtlcli.config import Runner, sharings
from tests.runs.cli.test_main import mtl as unforked
from tests.warm import ROOT, mtl

RUNNER_KEYS = ", ".join(sorted(field.name for field in fields(Runner)))
TASKS = ", ".join(sorted(file.stem for file in (ROOT / "conf" / "task").glob("*.yaml")))
TASK = """\
# @package tasks.mine
type: classification
source:
  files: {train: train.csv, validation: validation.csv}
columns:
  text: sentence
labels: ["no", "yes"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a user with a task of their own."""
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "mine.yaml").write_text(TASK)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\n" + "so good,yes\nso bad,no\n" * 8)
    return tmp_path


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


KNOWN_FROM_THE_CONFIGURATION: dict[str, tuple[list[str], str]] = {
    "misspelt group": (
        ["train", "modle=bert"],
        "mtl train: 1 problem\n"
        "  modle: unknown key 'modle'\n"
        "      -> did you mean 'model'? choices: allow, augmentation, data, experiment, form, "
        "init, logger, model, optim, resume, run_dir, runner, sampling, seed, sharing, stages, "
        "sweep, task, text, weighting\n",
    ),
    "misspelt key": (
        ["train", "task=rte", "runner.stps=100"],
        "mtl train: 1 problem\n"
        "  runner.stps: unknown key 'stps'\n"
        f"      -> did you mean 'steps'? choices: {RUNNER_KEYS}\n",
    ),
    "misspelt value": (
        ["train", "task=rte", "sampling=propotional"],
        "mtl train: 1 problem\n"
        "  sampling=propotional: unknown sampling 'propotional'\n"
        "      -> did you mean 'proportional'? choices: all, annealed, curriculum, dynamic, pike, "
        "proportional, replay, round_robin, sqrt, temperature, uniform\n",
    ),
    "misspelt task": (
        ["train", "task=[cola,mrcp]"],
        "mtl train: 1 problem\n"
        "  task=mrcp: unknown task 'mrcp'\n"
        f"      -> did you mean 'mrpc'? choices: {TASKS}\n",
    ),
    "wrong type": (
        ["train", "task=rte", "runner.batch_size=many"],
        "mtl train: 1 problem\n"
        "  runner.batch_size: must be a whole number, found 'many'\n"
        "      -> Examples of a task in a step, over all devices and micro-batches.\n",
    ),
    "weight for a task not in the run": (
        ["train", "task=[cola,rte]", "tasks.mrpc.weight=2"],
        "mtl train: 1 problem\n  tasks.mrpc.weight: task 'mrpc' is not in the run\n      -> the "
        "run has: cola, rte\n",
    ),
    "missing file": (
        ["train", "-cd", "my_conf", "task=mine", "tasks.mine.source.files.train=trian.csv"],
        "mtl train: 1 problem\n  tasks.mine.source.files.train: there is no file 'trian.csv'\n     "
        " -> did you mean 'train.csv'?\n",
    ),
    "missing data folder": (
        ["train", "task=rte", "data=local", "data.root=my_data"],
        "mtl train: 1 problem\n  data.root: there is no folder 'my_data'\n"
        "      -> '.' has nothing of a similar name; relative paths start from {cwd}\n",
    ),
    "checkpoint path that is not one": (
        ["eval", "my_conf"],
        "mtl eval: 1 problem\n"
        "  my_conf: neither a run folder (looked for config.yaml) nor a checkpoint (looked for "
        "manifest.json)\n"
        "      -> give a folder that mtl train wrote, runs/<date>_<time>_..., or one of its "
        "checkpoints\n",
    ),
    "key with a plus that hides a mistake": (
        ["train", "task=rte", "+unknown.key=3"],
        "mtl train: 1 problem\n"
        "  unknown.key: unknown key 'unknown'\n"
        "      -> choices: allow, augmentation, data, form, init, logger, model, optim, resume, "
        "run_dir, runner, sampling, seed, sharing, stages, sweep, tasks, text, weighting\n",
    ),
    "sweep without -m": (
        ["train", "task=rte", "weighting=static,uncertainty"],
        "mtl train: 1 problem\n  weighting: 'static,uncertainty' is several values\n      -> for a "
        "sweep add -m\n",
    ),
    "value of a sweep": (
        ["train", "-m", "task=rte", "seed=0,1", "sharing=hard,nome"],
        "mtl train: 1 problem\n  sharing=nome: unknown sharing 'nome'\n"
        f"      -> did you mean 'none'? choices: {', '.join(sorted(sharings))}\n",
    ),
    "run folder in use": (
        ["train", "task=rte", "run_dir=my_conf"],
        "mtl train: 1 problem\n  run_dir=my_conf: the folder is not empty\n      -> give another "
        "run_dir=\n",
    ),
    "diagnostic task alone": (
        ["train", "task=ax"],
        "mtl train: 2 problems\n"
        "  tasks.ax.head: task 'mnli' is not in the run\n"
        "      -> add the task to the run, or set it to null\n"
        "  task: no task of the run has a train split\n"
        "      -> add a task that is trained, for example mnli for ax\n",
    ),
    "override of Hydra itself": (
        ["train", "task=rte", "hydra.nosuch=1"],
        "mtl train: 1 problem\n  Could not override 'hydra.nosuch'. To append to your config use "
        "+hydra.nosuch=1\n",
    ),
    "sweeper that is not installed": (
        ["train", "-m", "task=rte", "seed=0,1", "hydra/sweeper=nosuch"],
        "mtl train: 1 problem\n  hydra/sweeper=nosuch: there is no 'nosuch'\n      -> choices: "
        "basic\n",
    ),
}


@pytest.mark.parametrize("mistake", KNOWN_FROM_THE_CONFIGURATION)
def test_known_from_the_configuration(mistake: str, own: Path) -> None:
    arguments, text = KNOWN_FROM_THE_CONFIGURATION[mistake]
    before = files(own)
    done = mtl(*arguments, cwd=own)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", text.replace("{cwd}", str(own)))
    assert files(own) == before, "nothing is created"


def test_the_hub_cannot_be_reached(own: Path) -> None:
    before = files(own)
    # A process of its own: the hub's library reads its settings when it is imported.
    done = unforked(
        "train",
        "task=rte",
        "data=hub",
        "model=tiny",
        cwd=own,
        HF_HUB_OFFLINE="1",
        HF_HOME=str(own / "my_conf"),
    )
    assert (done.returncode, done.stdout) == (2, "mtl train: preparing 1 task (rte)\n")
    assert (
        done.stderr.startswith("mtl train: 1 problem\n  data.source=hub: ")
        and "nyu-mll/glue/rte" in done.stderr
    )
    assert "data.source=local data.root=FOLDER" in done.stderr
    assert files(own) == before


ROWS: dict[str, tuple[str, list[str]]] = {
    # train.csv, and what must be said of it.
    "wrong column": (
        "text,label\nso good,yes\n",
        ["train.csv", "no column 'sentence'", "text", "tasks.mine.columns.text"],
    ),
    "label out of range": (
        "sentence,label\nso good,yes\nso so,maybe\n",
        ["train.csv, line 3", "'maybe'", "allowed: no, yes"],
    ),
    "empty split": ("sentence,label\n", ["train.csv", "no rows"]),
    "empty text": ("sentence,label\n,yes\nso bad,no\n", ["train.csv, line 2", "sentence"]),
}


@pytest.mark.parametrize("mistake", ROWS)
def test_known_from_the_rows(mistake: str, own: Path) -> None:
    content, words = ROWS[mistake]
    (own / "train.csv").write_text(content)
    before = files(own)
    arguments = ["-cd", "my_conf", "task=mine", "model=tiny", f"data.cache_dir={own / 'my_conf'}"]
    done = mtl("train", *arguments, cwd=own)
    assert (done.returncode, done.stdout) == (2, "mtl train: preparing 1 task (mine)\n")
    assert done.stderr.startswith("mtl train: 1 problem\n") and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert files(own) == before, "no run folder is left"


def test_own_files_train(own: Path) -> None:
    """The task that the mistakes above are made with is a good one."""
    options = [
        "model=tiny",
        "runner.steps=2",
        "runner.device=cpu",
        f"data.cache_dir={own / 'cache'}",
        "run_dir=out",
    ]
    done = mtl("train", "-cd", "my_conf", "task=mine", "tasks.mine.batch_size=4", *options, cwd=own)
    assert done.returncode == 0, done.stderr
    assert (own / "out" / "results.json").exists()
    assert not list(own.glob("**/.hydra")) and not list(own.glob("*.log"))
    assert "- 'no'" in (own / "out" / "config.yaml").read_text()
