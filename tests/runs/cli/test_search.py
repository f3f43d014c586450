"""A search that is pruned, killed and resumed; its best configuration as an experiment; folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtlcli.cli.study import Study
from tests.runs.cli.test_sweep import SMALL, die_in_the_second_job
from tests.warm import mtl

RUN = ["runner.steps=4", "runner.eval_every=2", "runner.save_every=2", "logger.every=1"]
SPACE = "{optim.lr: {low: 1e-3, high: 1e-1, log: true}, weighting: [static, uncertainty]}"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def results(path: Path) -> dict[str, Any]:
    """The results of a run without what differs from run to run."""
    return {
        key: value
        for key, value in read(path / "results.json").items()
        if key not in ("throughput", "cost")
    }


def prune_the_last_trial() -> None:
    """Stop trial 2 at its first evaluation, whatever its score is."""
    report = Study.report

    def worse(self: Study, number: int, step: int, value: float | None) -> str:
        told = report(self, number, step, value)
        return "it is the last" if number == 2 else told

    Study.report = worse  # type: ignore[method-assign]


def test_a_killed_search_goes_on_and_its_best_is_an_experiment(tmp_path: Path) -> None:
    words = [
        *("train", "-m", *SMALL, *RUN, f"data.cache_dir={tmp_path / 'cache'}"),
        *("sweep=random", f"sweep.space={SPACE}", "sweep.trials=3", "sweep.prune_after=1"),
        *("run_dir=out", "resume=auto"),
    ]
    killed = mtl(*words, cwd=tmp_path, before=die_in_the_second_trial)
    assert killed.returncode == -9
    out = tmp_path / "out"
    first, second = [json.loads(line) for line in (out / "jobs.jsonl").read_text().splitlines()]
    assert read(out / second["folder"] / "status.json")["status"] == "running"
    before = (out / first["folder"] / "results.json").stat().st_mtime_ns

    done = mtl(*words, cwd=tmp_path, before=prune_the_last_trial)
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (out / "jobs.jsonl").read_text().splitlines()]
    assert entries[:2] == [first, second] and len(entries) == 3
    assert (out / first["folder"] / "results.json").stat().st_mtime_ns == before
    environment = read(out / second["folder"] / "environment.json")
    assert environment["resumed"][0]["step"] == 2
    last = out / entries[2]["folder"]
    status = read(last / "status.json")
    assert (status["status"], status["reason"]) == ("pruned", "it is the last")
    assert [path.name for path in (last / "checkpoints").iterdir()] == ["step_00000002"]

    averages = [results(out / each["folder"])["average"] for each in (first, second)]
    best = (first, second)[averages.index(max(averages))]
    assert f"best: trial {best['number']}, average {max(averages):.4f}" in done.stdout
    assert "train it again: mtl train -cd out experiment=best" in done.stdout
    again = mtl("train", "-cd", "out", "experiment=best", "run_dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path / "again") == results(out / best["folder"])

    other = mtl(*words, "sweep.folds=2", cwd=tmp_path)
    assert other.returncode == 2 and "sweep.folds: the search in this folder" in other.stderr


def die_in_the_second_trial() -> None:
    die_in_the_second_job(prefix="1_")


def test_folds_choose_and_validation_is_scored_once(tmp_path: Path) -> None:
    words = [
        *("train", "-m", *SMALL, *RUN[:1], f"data.cache_dir={tmp_path / 'cache'}"),
        *("sweep=optuna", "sweep.space={optim.lr: [0.01, 0.01001]}", "sweep.trials=1"),
        *("sweep.folds=2", "run_dir=out"),
    ]
    done = mtl(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    entries = [json.loads(line) for line in (out / "jobs.jsonl").read_text().splitlines()]
    assert [each["overrides"][-1] for each in entries] == ["data.fold=0", "data.fold=1"]
    for fold, entry in enumerate(entries):
        environment = read(out / entry["folder"] / "environment.json")
        splits = environment["data"]["tasks"]["rte"]["splits"]
        assert {name: each["rows"] for name, each in splits.items()} == {
            "train": 32,
            f"fold_{fold}_of_2": 32,
        }
        assert results(out / entry["folder"])["split"] == f"fold_{fold}_of_2"
    mean = sum(results(out / each["folder"])["average"] for each in entries) / 2
    final = results(out / "best_0")
    assert final["split"] == "validation"
    assert (
        f"best: trial 0, average {mean:.4f} (mean over 2 folds of train). Trained on all of train "
        "and scored once on validation, which the search has not read: average "
        f"{final['average']:.4f}"
    ) in done.stdout
    again = mtl("train", "-cd", "out", "experiment=best", "run_dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path / "again") == final
    scored = mtl("eval", f"out/{entries[0]['folder']}", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert "fold_0_of_2" in scored.stdout


@pytest.mark.parametrize(
    ("arguments", "answers"),
    [
        (
            ["sweep=random", f"sweep.space={SPACE}"],
            ["sweep: a search is a sweep\n      -> add -m, or leave it out"],
        ),
        (
            [
                *("-m", "sweep=random", "sweep.objectives=[cola]", "seed=0,1"),
                "sweep.space={optim.lrr: [1], optim.lr: {low: 0, high: 1}, seed: [1], "
                "weighting: [statick], optim.warmup: {low: 2, high: 1}}",
            ],
            [
                "mtl train: 6 problems",
                "seed: 'seed=0,1' stands beside a search",
                "weighting=statick: unknown weighting",
                "optim.lrr: unknown key",
                "optim.lr: must be greater than 0",
                "sweep.space: optim.warmup: low=2 is not below high=1",
                "sweep.objectives: the run has no task 'cola'",
            ],
        ),
        (
            ["-m", "sweep=random", f"sweep.space={SPACE}", "hydra/launcher=basic"],
            ["hydra/launcher: a search runs its trials in its own process"],
        ),
        (["data.folds=2"], ["data.fold: which fold is scored?"]),
        (["data.fold=2"], ["data.fold: the value has no effect without folds"]),
        (["data.folds=2", "data.fold=2"], ["data.fold: there is no such fold"]),
    ],
)
def test_mistakes_are_told_before_the_first_trial(
    tmp_path: Path, arguments: list[str], answers: list[str]
) -> None:
    done = mtl("train", *SMALL, *arguments, "run_dir=out", cwd=tmp_path)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    for answer in answers:
        assert answer in done.stderr


def test_a_dry_run_starts_nothing(tmp_path: Path) -> None:
    words = ["train", "-m", *SMALL, "sweep.dry_run=true", "run_dir=out"]
    grid = mtl(*words, "seed=0,1", "weighting=static,uncertainty", cwd=tmp_path)
    lines = grid.stdout.splitlines()
    assert grid.returncode == 0 and len(lines) == 5
    for number, line in enumerate(lines[:4]):
        weighting = ("static", "uncertainty")[number % 2]
        assert line.startswith(f"job {number} (new): mtl train ") and " task=rte " in line
        assert line.endswith(f" seed={number // 2} weighting={weighting}")
    assert lines[4].startswith("4 jobs of 4 would run in out with hydra/launcher=basic")
    searched = mtl(*words, "sweep=random", f"sweep.space={SPACE}", "sweep.folds=2", cwd=tmp_path)
    assert searched.returncode == 0
    assert "20 trials of 2 runs each by sweep=random, 0 of them begun, in out" in searched.stdout
    assert "sbatch --array=0-7 --wrap 'mtl train -m " in searched.stdout
    alone = mtl("train", *SMALL, "sweep.dry_run=true", cwd=tmp_path)
    assert alone.returncode == 2 and "has an effect in a sweep only" in alone.stderr
    assert list(tmp_path.iterdir()) == []
