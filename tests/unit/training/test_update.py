"""The end of a step: a host that reads the numbers of a step late makes the same run as one that
reads them at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.errors import NotFinite, RunError
from mtlcli.training import update
from mtlcli.training.step import Outcome
from mtlcli.training.task_batch import Batches
from mtlcli.training.trainer import Trainer
from mtlcli.weighting.base import Step
from tests.small_run import STEPS, cut_off, differences, resume, start, without_times

BAD = 6
"""The step that goes wrong. A checkpoint follows two steps later."""
SCORES = {"best", "best_score"}
"""What in a state depends on the order of outputs that may be equal but for rounding."""
LAST = f"checkpoints/step_{STEPS:08d}"


def read_late(patch: pytest.MonkeyPatch) -> None:
    """Let the host read numbers late on a CPU, too."""
    patch.setattr(update, "DEFERRING", {"cpu"})


def spoil(patch: pytest.MonkeyPatch, parameter: str, value: float, step: int = BAD) -> list[int]:
    """Write a value into the gradient of a step, for the first parameter whose name begins like
    this. Returns a list that will hold the number of each step that has been computed."""
    whole, seen, bad = Trainer.forward_backward, [], step

    def forward_backward(self: Trainer, batches: Batches, step: Step) -> Outcome:
        outcome = whole(self, batches, step)
        seen.append(step.number)
        if step.number == bad:
            named = self.run.model.named_parameters()
            found = next(each for name, each in named if name.startswith(parameter))
            assert found.grad is not None
            found.grad.view(-1)[0] = value
        return outcome

    patch.setattr(Trainer, "forward_backward", forward_backward)
    return seen


def assert_close(early: Path, late: Path) -> None:
    """Weights, moments and metrics rows agree within rounding, and everything else exactly."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        first, second = load_file(early / LAST / file), load_file(late / LAST / file)
        assert first.keys() == second.keys()
        for name, value in first.items():
            # The gradient of a key's bias is nothing but rounding, which AdamW makes large.
            if ".key.bias" not in name:
                torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert_alike(_told(early), _told(late))


def _told(folder: Path) -> Any:
    """The state and the metrics rows of a run."""
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    state = json.loads((folder / LAST / "state.json").read_text())
    return without_times([state, *map(json.loads, rows)])


def assert_alike(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        names = [name for name in first if name not in SCORES]
        first, second = ([each[name] for name in names] for each in (first, second))
    if isinstance(first, list):
        assert len(first) == len(second)
        for pair in zip(first, second, strict=True):
            assert_alike(*pair)
    elif isinstance(first, float):
        assert second == pytest.approx(first, rel=1e-4, abs=1e-6)
    else:
        assert first == second


@pytest.mark.parametrize(
    "options",
    [
        ["weighting=static", "sampling=proportional"],
        ["weighting=dwa", "weighting.every=3", "logger.probe=4"],
        ["weighting=pcgrad", "weighting.every=2"],
    ],
    ids=lambda options: options[0].partition("=")[2],
)
def test_late_numbers_give_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    few = ("runner.eval_every=16", "runner.save_every=16", "optim.clip=0.5", "sampling=all")
    early = start(tmp_path / "early", *few, *options)
    read_late(monkeypatch)
    assert_close(early, start(tmp_path / "late", *few, *options))


def test_a_bad_step_is_named_one_step_late_and_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same step and rows: those of the task whose head is at fault."""
    seen = spoil(monkeypatch, "heads.rte", float("nan"))
    errors = []
    for name, change in (("early", lambda _: None), ("late", read_late)):
        change(monkeypatch)
        with pytest.raises(NotFinite) as caught:
            start(tmp_path / name, "sampling=all", "optim.clip=0.5")
        errors.append(caught.value.problems[0])
        saved = [each.name for each in (tmp_path / name / "checkpoints").glob("step_*")]
        assert max(saved) == f"step_{BAD:08d}"
    assert seen == [*range(BAD + 1), *range(BAD + 2)]
    assert errors[0].where == errors[1].where == f"step {BAD}"
    early, late = (each.what.partition(" (")[2] for each in errors)
    assert early == late and late.startswith("rte: train features ")
    assert "the gradient norm is nan, as that of heads.rte" in errors[1].what


def test_a_step_that_is_left_out_late_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is the one whose host reads at once: weights, moments, counts of updates, rows. A
    checkpoint right behind the step knows that it was left out: a run that is resumed from it is
    the same to the bit."""
    spoil(monkeypatch, "trunk.backbone", float("inf"), BAD + 1)
    options = ("sampling=all", "weighting=uncertainty", "runner.skip_nonfinite=1")
    early = start(tmp_path / "early", *options)
    read_late(monkeypatch)
    late = start(tmp_path / "late", *options)
    assert json.loads((late / LAST / "state.json").read_text())["skipped"] == 1
    assert_close(early, late)
    assert f"step {BAD + 1}: " in (late / "log.txt").read_text()
    folder = cut_off(late, f"step_{BAD + 2:08d}", tmp_path / "resumed")
    assert differences(late, resume(folder)) == []


def test_a_bad_loss_is_named_one_step_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_late(monkeypatch)
    whole = Trainer.forward_backward

    def forward_backward(self: Trainer, batches: Batches, step: Step) -> Outcome:
        outcome = whole(self, batches, step)
        if step.number == BAD:
            outcome.losses[list(batches).index("stsb")] = float("nan")
        return outcome

    monkeypatch.setattr(Trainer, "forward_backward", forward_backward)
    with pytest.raises(NotFinite, match=f"^step {BAD}: the loss of stsb is nan .train features"):
        start(tmp_path / "run", "sampling=all")


def test_a_learned_weight_that_is_not_finite_is_named_one_step_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_late(monkeypatch)
    whole = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: None = None) -> None:
        whole(self, closure)
        self.param_groups[-1]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(RunError, match="^step 0: log_variance.cola is inf after the update"):
        start(tmp_path / "run", "weighting=uncertainty", "sampling=all", "runner.eval_every=1")
    assert not (tmp_path / "run" / "results.json").exists()
