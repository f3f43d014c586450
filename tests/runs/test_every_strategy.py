"""Every registered strategy with every task type, bf16, accumulation, gradient balancing and
evaluation from the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlcli.config import sharings
from tests.warm import mtl

QUICK = [
    *(
        "task=[cola,stsb,squad_v2]",
        "data=sample",
        "model=tiny",
        "model.layers=2",
        "model.hidden=16",
        "model.heads=2",
    ),
    *(
        "data.max_length=48",
        "data.max_train_rows=60",
        "data.max_eval_rows=20",
        "sampling=all",
        "logger.console=plain",
        "logger.every=1",
    ),
    *(
        "runner.batch_size=6",
        "runner.accumulation=2",
        "runner.precision=bf16",
        "runner.steps=3",
        "runner.eval_every=3",
        "runner.device=cpu",
    ),
]


SHARING = [name for name in sharings if sharings.configs[name]().shares]
"""Strategies in which gradients can be balanced."""
OTHERS = [name for name in sharings if name not in SHARING]


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep over all strategies for each kind of weighting."""
    place = tmp_path_factory.mktemp("strategies")
    for weighting, names in (("pcgrad", SHARING), ("uncertainty", OTHERS)):
        done = mtl(
            *("train", "-m", *QUICK, f"weighting={weighting}"),
            *(f"sharing={','.join(names)}", f"run_dir={place / weighting}"),
        )
        assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("name", list(sharings))
def test_trains_and_evaluates(sweeps: Path, tmp_path: Path, name: str) -> None:
    (folder,) = sweeps.glob(f"*/*_sharing-{name}")
    # All tasks have the backbone in common in progressive_distill, but only one of them is trained
    # in each stage.
    shared = name in SHARING or name == "progressive_distill"
    results = json.loads((folder / "results.json").read_text())
    counts = results["parameters"]
    assert (
        counts["total"] == counts["shared"] + sum(counts["per_task"].values())
        and (counts["shared"] > 0) == shared
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    again = mtl("eval", str(folder), "--json", str(tmp_path / "again.json"))
    assert again.returncode == 0, again.stderr
    scores = json.loads((tmp_path / "again.json").read_text())
    assert scores["tasks"] == results["tasks"] and list(scores["tasks"]) == [
        "cola",
        "stsb",
        "squad_v2",
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_gradient_balancing_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    done = mtl(
        "train", *QUICK, f"sharing={name}", "weighting=pcgrad", f"run_dir={tmp_path / 'run'}"
    )
    assert done.returncode == 2 and f"sharing={name}" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()
