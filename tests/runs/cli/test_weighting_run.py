"""Weightings through the command: what a run tells of gradients, a solver that fails, a sweep over
methods."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mtlcli.weighting.gradients.base import SolverFailed
from mtlcli.weighting.gradients.nash import Nash
from tests.warm import Before, mtl

COMMON = [
    *(
        "task=[cola,rte,stsb]",
        "data=sample",
        "model=tiny",
        "sampling=all",
        "runner.device=cpu",
        "runner.batch_size=8",
        "logger.every=1",
    ),
    *("data.max_train_rows=100", "data.max_eval_rows=30"),
]


def train(*arguments: str, before: Before = ()) -> subprocess.CompletedProcess[str]:
    return mtl("train", *COMMON, *arguments, before=before)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def break_nash(*steps: int) -> None:
    """Let the solver of Nash-MTL fail in some steps."""
    whole = Nash.solve

    def solve(self: Nash, step: Any, gram: Any) -> Any:
        if step.number in steps:
            raise SolverFailed("made to fail")
        return whole(self, step, gram)

    Nash.solve = solve  # type: ignore[method-assign]


def test_a_failing_solver_is_named_counted_and_its_last_weights_are_used(tmp_path: Path) -> None:
    # Not shortened: the same weights, and not the same length of the update, are what is used
    # again.
    done = train(
        "weighting=nash",
        "weighting.max_norm=null",
        "runner.steps=10",
        f"run_dir={tmp_path / 'run'}",
        before=partial(break_nash, 3, 4, 8),
    )
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "log.txt").read_text()
    for text in (done.stdout, log):
        for step in (3, 4, 8):
            assert (
                f"warning: step {step}: the solver of nash failed (made to fail); its last weights "
                "are used again" in text
            )
        assert (
            "warning: the solver of nash failed in 3 steps, which used earlier weights or the "
            "plain sum" in text
        )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["weighting"] == {"name": "nash", "solver_failures": 3}
    weights = [
        [entry["weight"] for entry in row["tasks"].values()] for row in rows(tmp_path / "run")
    ]
    assert weights[3] == weights[4] == weights[2] and weights[8] == weights[7]
    assert len({tuple(found) for found in weights}) == 7, "every other step has weights of its own"
    assert all(len(set(found)) == 3 for found in weights), "never equal ones"


def test_a_solver_that_fails_at_once_begins_with_the_plain_sum(tmp_path: Path) -> None:
    options = [
        "weighting=nash",
        "weighting.max_norm=null",
        "runner.steps=2",
        f"run_dir={tmp_path / 'run'}",
    ]
    done = train(*options, before=partial(break_nash, 0))
    assert done.returncode == 0, done.stderr
    said = (
        "warning: step 0: the solver of nash failed (made to fail); it has found no weights "
        "yet, and the plain sum is used"
    )
    assert said in done.stdout
    weights = [
        [entry["weight"] for entry in row["tasks"].values()] for row in rows(tmp_path / "run")
    ]
    assert weights[0] == [1.0, 1.0, 1.0] and len(set(weights[1])) == 3
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text())["weighting"]["solver_failures"]
        == 1
    )


def test_probe_and_affinity_measure_without_changing_the_training(tmp_path: Path) -> None:
    quiet, told = tmp_path / "quiet", tmp_path / "told"
    assert train("runner.steps=12", f"run_dir={quiet}").returncode == 0
    done = train("runner.steps=12", "logger.probe=1", "logger.affinity=6", f"run_dir={told}")
    assert done.returncode == 0, done.stderr
    pick = [(row["step"], row["tasks"], row["gradient_norm"]) for row in rows(quiet)]
    assert pick == [(row["step"], row["tasks"], row["gradient_norm"]) for row in rows(told)]
    assert rows(quiet)[-1]["gradients"] is None
    measured = rows(told)[-1]["gradients"]
    assert measured["tasks"] == ["cola", "rte", "stsb"] and len(measured["norms"]) == 3
    assert [measured["cosines"][index][index] for index in range(3)] == pytest.approx([1, 1, 1])
    results = json.loads((told / "results.json").read_text())
    assert set(results["gradients"]["pairs"]) == {"cola,rte", "cola,stsb", "rte,stsb"}
    assert results["gradients"]["pairs"]["cola,rte"]["steps"] == 12
    assert sorted(task for group in results["affinity"]["grouping"] for task in group) == [
        "cola",
        "rte",
        "stsb",
    ]
    assert results["affinity"]["measured"] == 2
    assert (
        results["gradients"]["verdict"] in done.stdout
        and "suggests to train together" in done.stdout
    )
    silent = json.loads((quiet / "results.json").read_text())
    assert silent["gradients"] is None and silent["affinity"] is None
    assert silent["tasks"] == results["tasks"]


def test_a_sweep_over_both_kinds_of_methods(tmp_path: Path) -> None:
    methods = ["scale_free", "gradnorm", "upgrad", "graddrop"]
    done = train(
        "-m", f"weighting={','.join(methods)}", "runner.steps=2", f"run_dir={tmp_path / 'sweep'}"
    )
    assert done.returncode == 0, done.stderr
    folders = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert len(folders) == 4
    assert {
        json.loads((path / "results.json").read_text())["weighting"]["name"] for path in folders
    } == set(methods)
    table = (tmp_path / "sweep" / "sweep.csv").read_text()
    assert all(method in table for method in methods)
