"""The study of a search: the same values after a break, trials shared out, pruning."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from mtlcli.cli.study import Study
from mtlcli.config import Sweep
from mtlcli.errors import UserError

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.layers": {"low": 1, "high": 3},
    "weighting": ["static", "uncertainty"],
}


def sweep(**values: object) -> Sweep:
    return Sweep(**{"name": "optuna", "space": SPACE, "trials": 14, **values})  # type: ignore[arg-type]


def always(_: FrozenTrial) -> bool:
    return True


def score(trial: FrozenTrial) -> float:
    return float(trial.params["optim.lr"]) + (trial.params["weighting"] == "static")


def advance(study: Study, count: int) -> list[list[str]]:
    """Complete up to `count` trials, and return the overrides of each."""
    done = []
    for _ in range(count):
        if (trial := study.take(always)) is None:
            break
        done.append(study.overrides(trial))
        study.end(trial.number, [score(trial)], TrialState.COMPLETE)
    return done


# The model of sweep=optuna begins after ten trials.
@pytest.mark.parametrize(("name", "count"), [("random", 3), ("optuna", 12)])
def test_a_broken_search_draws_the_values_of_one_without_a_break(
    tmp_path: Path, name: str, count: int
) -> None:
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    asked = sweep(name=name, trials=count)
    whole = advance(Study(tmp_path / "whole", asked, 7), 99)
    assert len(whole) == len({texts[0] for texts in whole}) == count
    begun = advance(Study(tmp_path / "broken", asked, 7), count - 2)
    study = Study(tmp_path / "broken", asked, 7)
    left = study.take(always)
    assert left is not None
    study.release(left.number)  # As the kernel does when the process ends.
    again = Study(tmp_path / "broken", asked, 7)
    resumed = again.take(always)
    assert resumed is not None and resumed.number == left.number == count - 2
    assert resumed.params == left.params
    again.end(resumed.number, [score(resumed)], TrialState.COMPLETE)
    assert begun + [study.overrides(left)] + advance(again, 99) == whole
    assert not again.under_way() and again.best[0].value == max(map(score, again.trials))


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    first, second = (Study(tmp_path, sweep(trials=2), 0) for _ in range(2))
    one, other = first.take(always), second.take(always)
    assert one is not None and other is not None and (one.number, other.number) == (0, 1)
    assert first.take(always) is None and len(first.under_way()) == 2
    second.release(1)
    assert first.take(lambda trial: False) is None, "a trial that has just failed is left alone"
    taken = first.take(always)
    assert taken is not None and taken.number == 1


def test_other_settings_are_refused(tmp_path: Path) -> None:
    Study(tmp_path, sweep(), 0)
    Study(tmp_path, sweep(trials=99), 0)
    with pytest.raises(UserError, match=r"sweep\.folds: the search in this folder has null, not 5"):
        Study(tmp_path, sweep(folds=5), 0)
    with pytest.raises(UserError, match=r"seed: the search in this folder has 0, not 1"):
        Study(tmp_path, sweep(), 1)


def test_pruning_below_the_median(tmp_path: Path) -> None:
    study = Study(tmp_path, sweep(prune_after=2), 0)
    for value in (0.5, 0.7):
        trial = study.take(always)
        assert trial is not None and study.report(trial.number, 10, value) == ""
        study.end(trial.number, [value], TrialState.COMPLETE)
    trial = study.take(always)
    assert trial is not None and study.report(trial.number, 10, 0.61) == ""
    assert study.report(trial.number, 10, 0.1) == "", "the first report of a step counts"
    study.end(trial.number, [0.61], TrialState.COMPLETE)
    trial = study.take(always)
    assert trial is not None and "below the median" in study.report(trial.number, 10, 0.6)


def test_the_pareto_set(tmp_path: Path) -> None:
    study = Study(tmp_path, sweep(objectives=["a", "b"]), 0)
    for values in ([0.1, 0.9], [0.5, 0.5], [0.4, 0.4]):
        trial = study.take(always)
        assert trial is not None
        study.end(trial.number, values, TrialState.COMPLETE)
    assert [trial.number for trial in study.best] == [0, 1]
