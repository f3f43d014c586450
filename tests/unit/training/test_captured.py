"""Steps that are recorded for each of their shapes are those of the plain path.

A GPU replays kernels; the stand-in for it, `Again`, does the work again that was recorded, with all
that Python knew at that moment. So whatever of a step does not go through fixed places on the
device would be that of an older step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtlcli.errors import NotFinite
from mtlcli.training import captured
from mtlcli.training.captured import HostPass
from mtlcli.training.update import Launched
from tests.small_run import cut_off, differences, resume, start
from tests.unit.training.test_update import assert_close, read_late

PACKED = ("runner.packing=on", "runner.accumulation=1")


class Again:
    """Does the recorded work again, into the tensors that the first replay has left."""

    replays = 0

    def __init__(self, work: Callable[[], Launched], device: torch.device) -> None:
        self._work = work
        self._result: Launched | None = None

    def replay(self) -> Launched:
        Again.replays += 1
        found = self._work()
        if self._result is None:
            self._result = found
        else:
            self._result.losses.copy_(found.losses)
            self._result.numbers.copy_(found.numbers)
        return self._result


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let steps be recorded on a CPU from now on."""

    def begin() -> None:
        monkeypatch.setitem(captured.RECORDERS, "cpu", Again)
        monkeypatch.setattr(Again, "replays", 0)

    read_late(monkeypatch)
    return begin


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (["sampling=proportional"], 5),
        (["sampling=all", "weighting=uncertainty", "optim.clip=0.5"], 5),
        (["sampling=proportional", "sharing=adapters", "runner.accumulation=2"], 5),
        (["task=[rte,ud_pos]", "sampling=all", "model.dropout=0"], 5),
        (["sampling=all", "sharing=mtl_lora", "weighting=dwa", "weighting.every=3"], 0),
        (["sampling=all", "sharing=soft"], 5),
    ],
    ids=["static", "uncertainty", "adapters", "tokens", "several owners", "copies"],
)
def test_recorded_steps_are_those_of_the_plain_path(
    tmp_path: Path, record: Callable[[], None], options: list[str], least: int
) -> None:
    """Within rounding, as heads that read all tokens do so at another width."""
    few = (*PACKED, "runner.eval_every=16", "runner.save_every=16", *options)
    plain = start(tmp_path / "plain", *few)
    record()
    assert_close(plain, start(tmp_path / "recorded", *few))
    assert Again.replays >= least if least else Again.replays == 0


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path, record: Callable[[], None]) -> None:
    """Although other steps of it are recorded."""
    record()
    whole = start(tmp_path / "whole", *PACKED, "sampling=all", "weighting=uncertainty")
    folder = cut_off(whole, "step_00000008", tmp_path / "resumed")
    assert differences(whole, resume(folder)) == []


def test_a_bad_recorded_step_is_named_and_never_saved(
    tmp_path: Path, record: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = HostPass.__init__, []

    def spoil(self: HostPass, *arguments: Any) -> None:
        whole(self, *arguments)
        made.append(self)
        if len(made) == 13:  # The step with number 12.
            self.counts = [np.nan for _ in self.counts]

    monkeypatch.setattr(HostPass, "__init__", spoil)
    record()
    with pytest.raises(NotFinite) as caught:
        start(tmp_path / "run", *PACKED, "task=stsb", "data.max_train_rows=18")
    assert Again.replays > 8
    assert caught.value.problems[0].where == "step 12"
    assert "the loss of stsb is nan" in caught.value.problems[0].what
    saved = [each.name for each in (tmp_path / "run" / "checkpoints").glob("step_*")]
    assert max(saved) == "step_00000012"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["sampling=all", "weighting=pcgrad"], "weighting=pcgrad needs more than"),
        (["optim=lion"], "optim=lion reads numbers"),
        (["runner.packing=off"], "batches are padded"),
        (["runner.graphs=off"], None),
        (["runner.fast=off"], None),
    ],
    ids=["weighting", "optimiser", "padded", "off", "plain"],
)
def test_a_run_says_why_steps_are_not_recorded(
    tmp_path: Path, record: Callable[[], None], options: list[str], why: str | None
) -> None:
    record()
    folder = start(tmp_path / "run", *PACKED, "runner.steps=2", *options)
    text = (folder / "log.txt").read_text()
    said = [line for line in text.splitlines() if "kernel by kernel, since" in line]
    assert [why in line for line in said] == [True] if why else not said
    assert Again.replays == 0
