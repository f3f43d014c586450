"""Learning rates that follow the progress of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtlcli.config.optim import AdamWOptim
from mtlcli.errors import UserError
from mtlcli.training.optim import build_optimizer, set_lr
from mtlcli.training.plateau import Plateau
from tests.small import small_model
from tests.small_run import start


def results(**scores: float) -> dict[str, Any]:
    return {"tasks": {name: {"main": score} for name, score in scores.items()}}


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_the_factor_is_that_of_torchs_scheduler(patience: int, gain: float) -> None:
    """Torch counts the bad evaluations that are tolerated, here the one that ends the patience
    counts as well."""
    optim = AdamWOptim(plateau=patience, plateau_gain=gain, plateau_factor=0.6, plateau_floor=0.07)
    ours = Plateau(optim, ["a"], {})
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs,
        "max",
        factor=0.6,
        patience=patience - 1,
        threshold=gain,
        threshold_mode="abs",
        min_lr=0.07,
        eps=0.0,
    )
    random = np.random.default_rng(0)
    seen = set()
    for score in 0.5 + np.cumsum(random.normal(0.005, 0.05, 60)):
        ours.note_results(results(a=float(score)), ["a"])
        scheduler.step(float(score))
        assert ours.factors()["a"] == pytest.approx(theirs.param_groups[0]["lr"])
        seen.add(ours.factors()["a"])
    assert len(seen) > 3 and min(seen) == 0.07


def test_only_tasks_that_are_watched_and_trained_react() -> None:
    optim = AdamWOptim(plateau=1, plateau_gain=1.0, plateau_tasks=["a", "b"])
    state: dict[str, Any] = {}
    plateau = Plateau(optim, ["a", "b", "c"], state)
    plateau.note_results(results(a=0.5, b=0.5, c=0.5), ["a", "b"])
    lines = plateau.note_results(results(a=0.6, b=0.6, c=0.5), ["a", "c"])
    assert plateau.factors() == {"a": 0.5, "b": 1.0}
    assert lines == [
        "a has not gained in 1 evaluation (best score 0.5): the learning rate of its own parameters"
        " is now 0.5 of the schedule's"
    ]
    again = Plateau(optim, ["a", "b", "c"], json.loads(json.dumps(state)))
    assert again.factors() == plateau.factors()


def test_only_the_private_parameters_of_the_task_learn_more_slowly() -> None:
    model, weighting = small_model("adapters")
    optimizer = build_optimizer(AdamWOptim(lr=1e-3), model, weighting, ["cola", "stsb"])
    set_lr(optimizer, 0.8, {"cola": 0.5, "stsb": 1.0})
    rates = {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        slow = model.parameter_infos[name].users == ("cola",)
        assert rates[parameter] == pytest.approx(1e-3 * 0.8 * (0.5 if slow else 1.0)), name
    slow_ones = [name for name, p in model.named_parameters() if rates[p] < 7e-4]
    assert any(name.startswith("heads.") for name in slow_ones)
    assert any(name.startswith("trunk.") for name in slow_ones), "adapters are private, too"


def test_a_run_reacts_and_says_so(tmp_path: Path) -> None:
    """No score can rise by more than 2, so that every evaluation but the first is a plateau."""
    run = start(
        tmp_path / "run",
        *("sampling=all", "runner.steps=8", "runner.eval_every=2", "logger.every=1"),
        *("optim.plateau=1", "optim.plateau_gain=2", "optim.plateau_floor=0.3"),
        "optim.plateau_tasks=[cola]",
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [row["lr_factors"] for row in rows]
    assert found == [{"cola": factor} for factor in (1, 1, 1, 1, 0.5, 0.5, 0.3, 0.3)]
    said = (run / "log.txt").read_text()
    assert "cola has not gained in 1 evaluation" in said and said.count("has not gained") == 2


def test_a_task_without_parameters_of_its_own_is_refused(tmp_path: Path) -> None:
    options = ["task=[qnli,rte]", "tasks.rte.head=qnli", "optim.plateau=1"]
    with pytest.raises(UserError) as refused:
        start(tmp_path / "run", *options)
    assert [problem.where for problem in refused.value.problems] == ["optim.plateau"] * 2
    assert "has no parameters of its own" in str(refused.value)
    assert not (tmp_path / "run").exists()
