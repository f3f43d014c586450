"""Two real gloo ranks against one process, through the command: the same losses, every example
counted once, the same results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pinned import FORMAT
from tests.ranks import fork_ranks, launched
from tests.warm import mtl, start

# One classification, one regression, one span task: every kind of loss normalisation and of
# gathered output.
COMMON = [
    *(
        "train",
        "task=[cola,stsb,squad]",
        "data=sample",
        "model=tiny",
        "model.dropout=0",
        "runner.device=cpu",
        "runner.steps=20",
    ),
    FORMAT,
    *(
        "data.max_train_rows=400",
        "data.max_eval_rows=75",
        "logger.every=1",
        "runner.batch_size=15",
        "optim.warmup=2",
    ),
]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple[str, float]]:
    return [(name, entry["loss"]) for row in rows(folder) for name, entry in row["tasks"].items()]


@pytest.mark.parametrize(
    "options",
    [
        [
            "sampling=all",
            "weighting=uncertainty",
            "tasks.cola.class_weights=[1,3]",
            "tasks.cola.label_smoothing=0.1",
            "tasks.cola.augment.swap=0.3",
            "tasks.stsb.augment={share: 1, word_dropout: 0.2, delete: 0.2, insert: 0.2}",
        ],
        ["sharing=soft", "sharing.strength=0.01", "runner.accumulation=3"],
        ["sharing=progressive", "sharing.stages=[[cola,squad],[stsb]]", "sampling=all"],
        ["sharing=progressive_distill", "runner.accumulation=3"],
        ["sampling=dynamic", "runner.eval_every=4", "weighting=static"],
        ["sampling=pike", "sampling.every=5", "sampling.zeta_gain=1", "runner.accumulation=2"],
    ],
)
def test_two_ranks_are_one(tmp_path: Path, options: list[str]) -> None:
    for devices in (1, 2):
        place = [f"runner.devices={devices}", f"run_dir={tmp_path / str(devices)}"]
        done = mtl(*COMMON, *options, *place, before=fork_ranks)
        assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(rows(tmp_path / "1")) == len(rows(tmp_path / "2")) == 20
    assert [name for name, _ in one] == [name for name, _ in two]
    # 15 examples over two ranks (and three micro-batches) are uneven shares: means of means would
    # differ.
    assert max(abs(a - b) for (_, a), (_, b) in zip(one, two, strict=True)) < 1e-5
    assert [row["gradient_norm"] for row in rows(tmp_path / "1")] == pytest.approx(
        [row["gradient_norm"] for row in rows(tmp_path / "2")], rel=1e-3
    )
    first, second = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("1", "2")
    )
    for task, entry in first["tasks"].items():
        assert entry["examples"] == second["tasks"][task]["examples"] == 75
        assert entry["main"] == pytest.approx(second["tasks"][task]["main"], abs=0.03), task
    if "weighting=uncertainty" in options:
        weights = [row["tasks"]["stsb"]["weight"] for row in rows(tmp_path / "2")]
        assert weights[-1] != weights[0] and weights == pytest.approx(
            [row["tasks"]["stsb"]["weight"] for row in rows(tmp_path / "1")], abs=1e-6
        )


def test_a_batch_smaller_than_the_ranks(tmp_path: Path) -> None:
    """The last batch of an epoch holds one example: the second rank has nothing to do, and must
    still take part in every reduction."""
    options = [
        "data.max_train_rows=9",
        "runner.batch_size=4",
        "runner.steps=9",
        "runner.eval_every=9",
    ]
    for devices in (1, 2):
        place = [f"runner.devices={devices}", f"run_dir={tmp_path / str(devices)}"]
        done = mtl(*COMMON, *options, *place, before=fork_ranks)
        assert done.returncode == 0, done.stderr
    assert 1 in [
        entry["examples"] for row in rows(tmp_path / "1") for entry in row["tasks"].values()
    ]
    assert losses(tmp_path / "1") == [
        (name, pytest.approx(loss, abs=1e-5)) for name, loss in losses(tmp_path / "2")
    ]


def test_evaluation_on_two_ranks_gives_the_same_digits(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert mtl(*COMMON, "runner.steps=3", f"run_dir={run}").returncode == 0
    done = mtl("eval", str(run), "--json", str(tmp_path / "one.json"))
    assert done.returncode == 0, done.stderr
    ranks = [
        start("eval", str(run), "--json", str(tmp_path / "two.json"), **environment)
        for environment in launched(2)
    ]
    for rank in ranks:
        assert rank.wait() == 0, rank.stderr
    one, two, trained = (
        json.loads(path.read_text())
        for path in (tmp_path / "one.json", tmp_path / "two.json", run / "results.json")
    )
    assert one["tasks"] == two["tasks"] == trained["tasks"]
    assert [entry["examples"] for entry in one["tasks"].values()] == [75, 75, 75]
