"""Interrupted: what is saved, the exit code, what the user reads, and that the resumed run ends
like the uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlcli import cli
from mtlcli.distributed.signals import SIGNALS
from mtlcli.evaluation import evaluate
from mtlcli.models import build
from mtlcli.rundir import checkpoint
from mtlcli.runner import job
from mtlcli.tasks.classification.task import Classification
from tests.ranks import (
    RUN,
    TORCHRUN,
    alive,
    at_step,
    begin,
    fork_ranks,
    gone,
    hears,
    outside,
    ranks_of,
    rows,
    signal_self,
    until,
    wait_for,
)
from tests.small_run import differences
from tests.warm import ENVIRONMENT, ROOT, Before, Process, mtl

STEPS = 40
CODES = dict.fromkeys(SIGNALS, 143) | {signal.SIGINT: 130, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Uninterrupted runs by number of ranks."""
    place = tmp_path_factory.mktemp("wholes")
    for devices in (1, 2):
        process = begin(place / str(devices), f"runner.steps={STEPS}", devices=devices)
        assert process.wait() == 0, process.stderr
    return {devices: place / str(devices) for devices in (1, 2)}


def check_saved(process: Process, folder: Path, number: int) -> int:
    """What a user has after an interruption; the step that it was saved at."""
    assert process.wait() == CODES[signal.Signals(number)], process.stdout + process.stderr
    found = re.search(
        rf"interrupted by {signal.Signals(number).name} and saved at step (\d+)\n", process.stderr
    )
    assert found and "Traceback" not in process.stderr, process.stderr
    assert f"-> go on with: mtl train resume={folder}" in process.stderr
    newest, skipped = checkpoint.newest(folder / "checkpoints")
    assert newest.step == int(found[1]) and skipped == []
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    return newest.step


def check_resumed(whole: Path, folder: Path) -> None:
    done = mtl("train", f"resume={folder}", before=fork_ranks)
    assert done.returncode == 0, done.stderr
    assert differences(whole, folder, STEPS) == []


def at_the_14th_loss(number: int) -> None:
    """Send a signal within the accumulation of a step."""
    whole, calls = Classification.loss, []

    def loss(self: Classification, outputs: Any, batch: Any) -> Any:
        calls.extend([1] * torch.is_grad_enabled())
        if len(calls) == 14:
            signal_self(number)
        return whole(self, outputs, batch)

    Classification.loss = loss  # type: ignore[method-assign]


def at_the_first_evaluation(number: int) -> None:
    """Send a signal as the first batch is evaluated."""
    whole, calls = evaluate.collate, []

    def collate(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            signal_self(number)
        return whole(*arguments, **more)

    evaluate.collate = collate


def at_the_building_of_the_model(number: int) -> None:
    """Send a signal as the model is built, but not where it is built without numbers, to see how
    large it is: that is before the run."""
    whole = build.build_model

    def build_model(*arguments: Any, **more: Any) -> Any:
        if torch.empty(0).device.type != "meta":
            signal_self(number)
        return whole(*arguments, **more)

    build.build_model = build_model


def inside(name: str, number: int) -> Callable[[], object]:
    """Send the process a signal at an awkward place."""
    send = partial(signal_self, number)
    return {
        # Linear warm-up over 6 % of 40 steps.
        "warm-up": at_step(1, 0, send),
        "step": at_step(7, 0, send),
        "a save under way": at_step(10, 0, send),
        "accumulation": partial(at_the_14th_loss, number),
        "evaluation": partial(at_the_first_evaluation, number),
        "building the model": partial(at_the_building_of_the_model, number),
    }[name]


PLACES = [
    ("accumulation", signal.SIGTERM),
    ("accumulation", signal.SIGINT),
    ("evaluation", signal.SIGINT),
    ("evaluation", signal.SIGTERM),
    ("building the model", signal.SIGTERM),
    ("building the model", signal.SIGINT),
    ("step", signal.SIGTERM),
    ("step", signal.SIGINT),
    ("a save under way", signal.SIGTERM),
    ("a save under way", signal.SIGINT),
    ("warm-up", signal.SIGUSR1),
    ("warm-up", signal.SIGINT),
]


@pytest.mark.parametrize(("place", "number"), PLACES)
def test_wherever_it_comes_all_is_saved(
    wholes: dict[int, Path], tmp_path: Path, place: str, number: int
) -> None:
    process = begin(tmp_path, f"runner.steps={STEPS}", before=inside(place, number), devices=1)
    step = check_saved(process, tmp_path, number)
    expected = {
        "warm-up": 2,
        "step": 8,
        "a save under way": 11,
        "evaluation": 20,
        "building the model": 0,
    }
    assert step == expected.get(place, step)
    if place == "evaluation":
        # It was not worth finishing: the resumed run makes it anew.
        assert (
            json.loads((tmp_path / "checkpoints" / "step_00000020" / "state.json").read_text())[
                "evaluated"
            ]
            is None
        )
    check_resumed(wholes[1], tmp_path)


BOTH = [
    ("warm-up", signal.SIGTERM),
    ("evaluation", signal.SIGTERM),
    ("building the model", signal.SIGUSR1),
]


@pytest.mark.parametrize(("place", "number"), BOTH)
def test_wherever_it_comes_to_a_rank_all_is_saved(
    wholes: dict[int, Path], tmp_path: Path, place: str, number: int
) -> None:
    check_saved(
        begin(tmp_path, f"runner.steps={STEPS}", before=inside(place, number)), tmp_path, number
    )
    check_resumed(wholes[2], tmp_path)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", ["rank 0", "rank 1", "launcher"])
def test_at_a_random_moment_whichever_rank_is_told(
    wholes: dict[int, Path], tmp_path: Path, seed: int, target: str
) -> None:
    """From the moment that there are ranks, while they connect and build the model, to the last
    steps."""
    chance = random.Random(f"{seed} {target}")
    # One that is still in front of its first step is told by the clock, one that trains by its
    # rows: how fast it is, is not known.
    moment = chance.choice([None, *range(30)]) if seed else None
    process = begin(tmp_path, f"runner.steps={STEPS}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(process, lambda: len(children.read_text().split()) == 2)
    told = process.pid if target == "launcher" else ranks_of(process)[int(target[-1])]
    if moment is not None:
        until(process, lambda: rows(tmp_path) >= moment)
    time.sleep(chance.uniform(0, 0.05))
    begun = time.monotonic()
    os.kill(told, signal.SIGTERM)
    step = check_saved(process, tmp_path, signal.SIGTERM)
    print(
        f"seed {seed}, {target}: saved at step {step}, ended {time.monotonic() - begun:.2f} s "
        "after SIGTERM"
    )
    check_resumed(wholes[2], tmp_path)


def as_data_is_prepared(number: int) -> None:
    """Send a signal while code runs that takes any error for a download that failed."""
    whole = job.prepare

    def prepare(*arguments: Any, **more: Any) -> Any:
        with suppress(Exception):
            signal_self(number)
        return whole(*arguments, **more)

    job.prepare = prepare


def test_before_there_is_anything_to_save_it_ends_at_once(tmp_path: Path) -> None:
    for number, code in CODES.items():
        process = begin(tmp_path / "run", before=partial(as_data_is_prepared, number), devices=1)
        assert process.wait() == code
        assert (
            f"interrupted by {number.name} before the run began: nothing was written"
            in process.stderr
        )
        assert "type the same command again" in process.stderr and "Traceback" not in process.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGQUIT", 131)]
)
def test_what_leaves_at_once(tmp_path: Path, first: str, second: str, code: int) -> None:
    both = [partial(signal_self, signal.Signals[name]) for name in (first, second)]
    saved = partial(wait_for, tmp_path / "checkpoints" / "step_00000010")
    before = at_step(15, 0, saved, *both, partial(time.sleep, 100))
    process = begin(tmp_path, f"runner.steps={STEPS}", before=before, devices=1)
    assert process.wait() == code
    newest, skipped = checkpoint.newest(tmp_path / "checkpoints")
    assert newest.step == 10 and skipped == []
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["status"], status["reason"]) == (
        "interrupted",
        f"ended at once by {second}, without saving",
    )


def test_a_terminal_that_hangs_up(tmp_path: Path) -> None:
    hang_up = at_step(7, 0, partial(signal_self, signal.SIGHUP))
    process = begin(tmp_path / "run", f"runner.steps={STEPS}", before=hang_up, devices=1)
    assert check_saved(process, tmp_path / "run", signal.SIGHUP) == 8
    nohup = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    other = begin(tmp_path / "other", "runner.steps=9", before=(nohup, hang_up), devices=1)
    assert other.wait() == 0


def test_a_hangup_of_the_whole_group_is_one_hangup(tmp_path: Path) -> None:
    process = begin(tmp_path, f"runner.steps={STEPS}")
    until(process, lambda: rows(tmp_path) >= 8)
    for pid in (*ranks_of(process), process.pid):
        os.kill(pid, signal.SIGHUP)
    assert check_saved(process, tmp_path, signal.SIGHUP) >= 8


def press_while_it_starts(times: int) -> None:
    """Press Ctrl-C before there is a run."""

    def main() -> None:
        try:
            signal_self(signal.SIGINT)
            time.sleep(10)
        finally:
            for _ in range(times - 1):
                signal_self(signal.SIGINT)
                time.sleep(10)

    cli.main = main  # type: ignore[assignment]


def press_in_a_destructor() -> None:
    """Press Ctrl-C where Python drops the exception."""

    class Pressing:
        def __del__(self) -> None:
            signal_self(signal.SIGINT)
            time.sleep(10)

    def main() -> int:
        Pressing()
        return 0

    cli.main = main


@pytest.mark.parametrize(
    "before",
    [partial(press_while_it_starts, 1), partial(press_while_it_starts, 2), press_in_a_destructor],
    ids=["once", "twice", "in a destructor"],
)
def test_a_ctrl_c_while_the_program_starts(before: Callable[[], object]) -> None:
    """No traceback."""
    done = mtl("train", before=before)
    assert (done.returncode, done.stderr) == (130, ""), done.stderr


def sleep_noted(note: Path) -> None:
    """Sleep until a signal ends the process, and note by a file that this has begun."""
    note.touch()
    time.sleep(100)


def test_a_second_ctrl_c_takes_the_ranks_along(tmp_path: Path) -> None:
    note = tmp_path / "asleep"
    process = begin(
        tmp_path, f"runner.steps={STEPS}", before=at_step(15, 1, partial(sleep_noted, note))
    )
    until(
        process,
        lambda: note.exists() and (tmp_path / "checkpoints" / "step_00000010").exists(),
    )
    ranks = ranks_of(process)
    # As a terminal does: to the whole foreground group.
    for pid in (*ranks, process.pid):
        os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None and all(alive(pid) for pid in ranks), (
        "the first one waits for the step"
    )
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130 and gone(ranks) is not None
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "interrupted"
    newest, skipped = checkpoint.newest(tmp_path / "checkpoints")
    assert newest.step == 10 and skipped == []


def prepare_slowly(note: Path) -> None:
    """Prepare the data until a signal comes, and note by a file that this has begun."""
    whole = job.prepare

    def prepare(*arguments: Any, **more: Any) -> Any:
        note.touch()
        time.sleep(100)
        return whole(*arguments, **more)

    job.prepare = prepare


@pytest.mark.parametrize(("told", "during"), [((0, 1), True), ((0,), False), ((1,), False)])
def test_ranks_that_another_launcher_started(
    wholes: dict[int, Path], tmp_path: Path, told: tuple[int, ...], during: bool
) -> None:
    """As under torchrun or SLURM: every rank is started from outside, and told from outside.
    `during`: while the data is prepared."""
    preparing = tmp_path / "preparing"
    before: Before = partial(prepare_slowly, preparing) if during else ()
    ranks = outside(tmp_path / "run", f"runner.steps={STEPS}", before=before)
    if during:
        until(ranks[0], preparing.exists)
        until(ranks[1], lambda: hears(ranks[1].pid, signal.SIGTERM))
    else:
        until(ranks[0], lambda: rows(tmp_path / "run") >= 12)
    for rank in told:
        ranks[rank].send_signal(signal.SIGTERM)
    assert [rank.wait() for rank in ranks] == [143, 143], [rank.stderr for rank in ranks]
    assert ranks[1].stderr == "", "only the first rank talks"
    if during:
        assert (
            "before the run began: nothing was written" in ranks[0].stderr
            and not (tmp_path / "run").exists()
        )
    else:
        assert check_saved(ranks[0], tmp_path / "run", signal.SIGTERM) >= 12
        # On one's own: as many ranks as before, so that it ends the same.
        check_resumed(wholes[2], tmp_path / "run")


def test_torchrun_that_is_told_or_killed(wholes: dict[int, Path], tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        folder = tmp_path / number.name
        options = [
            *RUN,
            f"run_dir={folder}",
            f"runner.steps={STEPS if number == signal.SIGTERM else 100000}",
        ]
        process = subprocess.Popen(
            [*TORCHRUN, "train", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            cwd=ROOT,
        )
        while rows(folder) < 12:
            assert process.poll() is None
            time.sleep(0.01)
        ranks = [
            int(pid)
            for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
        process.send_signal(number)
        if number == signal.SIGKILL:
            assert gone(ranks) is not None
            process.communicate()
            continue
        _, errors = process.communicate(timeout=500)
        assert "interrupted by SIGTERM and saved at step" in errors, errors
        check_resumed(wholes[2], folder)


def test_an_interrupted_sweep_starts_no_other_job(tmp_path: Path) -> None:
    options = [*RUN, "-m", "seed=0,1", "runner.steps=30", f"run_dir={tmp_path / 'sweep'}"]
    done = mtl("train", *options, before=at_step(5, 0, partial(signal_self, signal.SIGTERM)))
    assert done.returncode == 143, done.stderr
    assert "and saved at step 6" in done.stderr
    assert len([path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]) == 1
    assert (
        "go on with: mtl train -m " in done.stderr
        and f"run_dir={tmp_path / 'sweep'} resume=auto" in done.stderr
    )
    assert mtl("train", *options, "resume=auto").returncode == 0


def poison() -> None:
    """Make the loss of rte no number in its fifth step."""
    whole, calls = Classification.loss, []

    def loss(self: Classification, outputs: Any, batch: Any) -> Any:
        calls.extend([1] * (self.name == "rte" and torch.is_grad_enabled()))
        factor = float("nan") if self.name == "rte" and len(calls) == 5 else 1.0
        return whole(self, outputs, batch) * factor

    Classification.loss = loss  # type: ignore[method-assign]


NUMBERS = ["runner.accumulation=1", "runner.batch_size=8", "runner.save_every=1", "sampling=all"]


def test_a_loss_that_is_no_number_stops_the_run_and_is_named(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", *NUMBERS, before=poison, devices=1)
    assert process.wait() == 1 and "Traceback" not in process.stderr
    assert re.search(
        r"step 4: the loss of rte is nan \(train features \d+(, \d+){7}\)", process.stderr
    ), process.stderr
    assert (
        sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1]
        == "step_00000004"
    ), process.stderr
    process = begin(
        tmp_path / "skip",
        *NUMBERS,
        "runner.skip_nonfinite=1",
        "runner.steps=8",
        before=poison,
        devices=1,
    )
    assert process.wait() == 0, process.stderr
    assert (
        "warning: step 4: the loss of rte is nan" in process.stdout
        and "the step is left out" in process.stdout
    )
