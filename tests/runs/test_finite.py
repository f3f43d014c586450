"""A run stops at a number that is not finite, with its step and its name, before anything is
written of that step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtlcli.errors import NotFinite, RunError
from mtlcli.evaluation import evaluate
from tests.small_run import start


@pytest.mark.parametrize("late", [False, True], ids=["update", "weight"])
def test_a_learned_weight_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """With step, task and parameter, and without results of the step. A finite log variance may
    give a weight that is infinite."""
    whole = torch.optim.AdamW.step

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        whole(self, closure)
        for parameter in self.param_groups[-1]["params"][:1]:
            parameter.data.fill_(-200.0 if late else float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(RunError) as caught:
        start(tmp_path / "run", "weighting=uncertainty", "runner.eval_every=1", "sampling=all")
    (problem,) = caught.value.problems
    assert problem.fix
    if late:
        assert str(problem).startswith(
            "step 1: the weight of cola is inf, as log_variance.cola is -200 "
            "(weighting=uncertainty)"
        )
    else:
        assert str(problem).startswith("step 0: log_variance.cola is inf after the update")
        assert not (tmp_path / "run" / "results.json").exists() and not list(
            (tmp_path / "run" / "checkpoints").glob("step_*")
        )


def test_outputs_that_are_not_finite_name_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(task, *_):  # type: ignore[no-untyped-def]
        raise NotFinite(
            "the model's outputs are not finite numbers", f"task {task.name}", "lower optim.lr"
        )

    monkeypatch.setattr(evaluate, "score", diverged)
    with pytest.raises(NotFinite) as caught:
        start(tmp_path / "run", "runner.steps=5")
    assert caught.value.problems[0].where == "step 5, task cola, validation"
    assert not (tmp_path / "run" / "results.json").exists()
