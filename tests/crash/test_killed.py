"""kill -9 around saves: before every file operation and half-way through every write, and at random
moments.

Whatever the moment, the run that is resumed ends like the uninterrupted one to the bit, nothing is
left over, and of what was saved at most the save that was under way is lost.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder
from mtlcli.training.state import TrainState
from tests.crash.kill import arm
from tests.small_run import differences
from tests.warm import ENVIRONMENT, ROOT, Before, mtl, start

STEPS, EVERY = 10, 2
RUN = [
    *(
        "task=[cola,rte]",
        "data=local",
        "model=tiny",
        "model.layers=1",
        "model.hidden=16",
        "model.heads=2",
        "model.dropout=0.1",
    ),
    *(
        "weighting=uncertainty",
        "runner.batch_size=4",
        f"runner.steps={STEPS}",
        f"runner.save_every={EVERY}",
        f"runner.eval_every={EVERY}",
    ),
    *(
        "runner.keep=1",
        "runner.device=cpu",
        "runner.threads=1",
        "logger.every=1",
        "logger.console=plain",
    ),
]
SCORES = {2: 0.5, 4: 0.4, 6: 0.3, 8: 0.6, 10: 0.2}
"""Scores that lead through every kind of save. Step 2: the first, and the best. 4: nothing to
delete. 6: deletes 4. 8: a new best, deletes 2 and 6. 10: the last."""


def give_scores() -> None:
    """Give the run the scores of `SCORES`, whatever it has learned."""
    note = TrainState.note_results

    def scored(self: TrainState, results: dict[str, Any]) -> Any:
        return note(self, results | {"average": SCORES[self.step]})

    TrainState.note_results = scored  # type: ignore[method-assign]


@dataclass(frozen=True)
class Operation:
    """A file operation of a run, as tests.crash.kill has noted it."""

    thread: str
    number: int
    kind: str
    path: str


@dataclass
class Whole:
    """The uninterrupted run."""

    folder: Path
    data: Path
    operations: list[Operation]


def of_save(operations: list[Operation], step: int) -> list[Operation]:
    """The operations of one save, in order, deletions included."""
    found, current = [], 0
    for operation in operations:
        if operation.thread == "save":
            if operation.kind == "os.mkdir" and operation.path.startswith("checkpoints/.step_"):
                current = int(operation.path.split(".")[1].removeprefix("step_"))
            found += [operation] if current == step else []
    return found


def distinct(operations: list[Operation]) -> list[Operation]:
    """Those operations before which a kill leaves a disk of its own: not the flushes, which change
    nothing that a kill leaves; and of an operation that a file meets many times, as
    `metrics.jsonl` does, the first and the last."""
    places: dict[tuple[str, str, str], list[Operation]] = {}
    for each in operations:
        if each.kind != "fsync":
            places.setdefault((each.thread, each.kind, each.path), []).append(each)
    return sorted(
        {each for same in places.values() for each in (same[0], same[-1])},
        key=lambda each: (each.thread, each.number),
    )


def operations(trace: Path) -> list[Operation]:
    return (
        [Operation(**json.loads(line)) for line in trace.read_text().splitlines()]
        if trace.exists()
        else []
    )


def armed(run: Path, trace: Path, at: Operation | None) -> Before:
    where = {} if at is None else {"thread": at.thread, "at": at.number}
    return (give_scores, partial(arm, str(run), str(trace), **where))


def line(run: Path, data: Path) -> list[str]:
    """The command that starts a run, or goes on with it."""
    return ["train", *RUN, f"data.root={data}", f"run_dir={run}", "resume=auto"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("killed")
    words = random.Random(0)
    for task, columns in {"cola": ["sentence"], "rte": ["sentence1", "sentence2"]}.items():
        for split, count in {"train": 24, "validation": 8}.items():
            rows = [
                {
                    name: " ".join(
                        words.choices(["a", "cat", "dog", "sat", "ran", "on", "mat"], k=6)
                    )
                    for name in columns
                }
                | {"label": number % 2, "idx": number}
                for number in range(count)
            ]
            file = folder / "data" / "glue" / task / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = folder / "whole"
    done = mtl(*line(run, folder / "data"), before=armed(run, folder / "trace", None))
    assert done.returncode == 0, done.stderr
    whole = Whole(run, folder / "data", operations(folder / "trace"))
    assert [path.name for path in checkpoint.folders(run / "checkpoints")] == [
        "step_00000008",
        "step_00000010",
    ]
    save = of_save(whole.operations, 8)
    assert len([each for each in save if each.kind == "fsync"]) == 9
    kinds = [each.kind for each in distinct(save)]
    assert [kinds.count(kind) for kind in ("os.mkdir", "open", "write", "half")] == [1, 3, 5, 5]
    assert [kinds.count(kind) for kind in ("os.rename", "os.remove", "os.rmdir")] == [3, 10, 2]
    return whole


def steps_of(run: Path) -> list[int]:
    """The steps of the rows of metrics.jsonl that are whole."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def go_on(whole: Whole, run: Path, begun: int, what: Any) -> int:
    """Resume a run that was killed, compare it with the uninterrupted one, and return how many
    steps were made again.

    `begun`: step of the newest save that had begun; 0 for none.
    """
    made = max(steps_of(run), default=0)
    saved = checkpoint.folders(run / "checkpoints")
    done = (
        mtl("train", f"resume={run}", before=give_scores)
        if saved
        else mtl(*line(run, whole.data), before=give_scores)
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, (what, done.stderr)
    assert differences(whole.folder, run, steps=STEPS) == [], what
    # Nothing more and nothing less than the uninterrupted run: no leftover, and as many checkpoints
    # as are to be kept.
    assert files(run) == files(whole.folder), what
    assert [checkpoint.fault(folder) for folder in checkpoint.folders(run / "checkpoints")] == [
        None,
        None,
    ], what
    resumed = json.loads((run / "environment.json").read_text()).get("resumed", [{"step": 0}])[-1][
        "step"
    ]
    assert resumed >= begun - EVERY, (what, resumed, begun)
    return made - resumed


def saves_begun(trace: Path) -> int:
    found = [
        each.path.split(".")[1]
        for each in operations(trace)
        if each.kind == "os.mkdir" and "/.step_" in each.path
    ]
    return int(found[-1].removeprefix("step_")) if found else 0


def sweep(
    whole: Whole, place: Path, points: list[Operation], *resume: str, base: Path | None = None
) -> None:
    """Kill a run at each of the points and go on. `base`: begin with a copy of this folder, and
    with the arguments `resume`."""
    repeated, failures = [], []
    for point in points:
        run, trace = place / "run", place / "trace"
        if base is not None:
            shutil.copytree(base, run)
        arguments = (
            ["train", *(argument.format(run=run) for argument in resume)]
            if resume
            else line(run, whole.data)
        )
        killed = mtl(*arguments, before=armed(run, trace, point))
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
        try:
            repeated.append(go_on(whole, run, saves_begun(trace), point))
        except AssertionError as error:
            failures.append(f"{point}: {error}")
        shutil.rmtree(run, ignore_errors=True)
        trace.unlink()
    print(
        f"{len(repeated)} of {len(points)} end the same; most steps made again: "
        f"{max(repeated, default=0)}"
    )
    assert not failures, "\n".join(failures)


def before_save(whole: Whole, place: Path, step: int) -> Path:
    """A run that was killed as the save of a step began."""
    point = of_save(whole.operations, step)[0]
    killed = mtl(
        *line(place / "base", whole.data), before=armed(place / "base", place / "base_trace", point)
    )
    assert killed.returncode == -signal.SIGKILL
    return place / "base"


def operations_of_resume(place: Path, base: Path, *resume: str) -> list[Operation]:
    """What a resumed run does to its files; tried on a copy."""
    run = place / "dry"
    shutil.copytree(base, run)
    done = mtl(
        "train",
        *(argument.format(run=run) for argument in resume),
        before=armed(run, place / "dry_trace", None),
    )
    assert done.returncode == 0, done.stderr
    return operations(place / "dry_trace")


EARLIER = "resume={run}/checkpoints/step_00000008"


def test_a_row_that_is_torn_anywhere_is_cut(tmp_path: Path) -> None:
    rows = [json.dumps({"step": step, "tasks": {"rte": {"loss": 0.5}}}) + "\n" for step in (1, 2)]
    for length in range(len(rows[1])):
        (tmp_path / "metrics.jsonl").write_text(rows[0] + rows[1][:length])
        RunFolder(tmp_path).cut_metrics(2)
        assert (tmp_path / "metrics.jsonl").read_text() == rows[0]


PARTS = 3
"""A sweep is shared out in parts, since a worker runs one test at a time."""


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_up_to_the_first_checkpoint(whole: Whole, tmp_path: Path, part: int) -> None:
    """The start of a run, its first rows and results, and the first save, at flushes too: all in a
    run that begins from nothing."""
    main = [operation for operation in whole.operations if operation.thread == "main"]
    first_results = next(
        index
        for index, each in enumerate(main)
        if each.kind == "os.rename" and "results" in each.path
    )
    save = of_save(whole.operations, EVERY)
    flushes = [each for each in save if each.kind == "fsync"]
    points = main[: first_results + 1] + distinct(save) + flushes
    sweep(whole, tmp_path, points[part::PARTS])


@pytest.mark.parametrize("step", range(2 * EVERY, STEPS + 1, EVERY))
def test_killed_in_a_later_save(whole: Whole, tmp_path: Path, step: int) -> None:
    """4: a save that deletes nothing. 6: retention. 8: the best is updated. 10: the last one. They
    write as step 4 does, and differ from where the new one gets its name."""
    base = before_save(whole, tmp_path, step)
    points = distinct(of_save(operations_of_resume(tmp_path, base, "resume={run}"), step))
    if step > 2 * EVERY:
        named = next(index for index, each in enumerate(points) if each.kind == "os.rename")
        points = points[named - 1 :]
    sweep(whole, tmp_path, points, "resume={run}", base=base)


def test_a_resume_killed_outside_its_saves(whole: Whole, tmp_path: Path) -> None:
    """It cleans half a checkpoint away, cuts rows, notes itself, writes rows, results and its
    status."""
    point = next(each for each in of_save(whole.operations, 8) if each.kind == "fsync")
    base = tmp_path / "base"
    assert (
        mtl(*line(base, whole.data), before=armed(base, tmp_path / "base_trace", point)).returncode
        == -signal.SIGKILL
    )
    points = [
        each
        for each in distinct(operations_of_resume(tmp_path, base, "resume={run}"))
        if each.thread == "main"
    ]
    assert any(each.kind == "os.remove" and ".step_00000008" in each.path for each in points)
    sweep(whole, tmp_path, points, "resume={run}", base=base)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_resume_from_an_earlier_checkpoint_killed(
    whole: Whole, tmp_path: Path, part: int
) -> None:
    """Later checkpoints of the same run are there: none of them may be taken for one of the new
    attempt once its rows are gone."""
    points = distinct(operations_of_resume(tmp_path, whole.folder, EARLIER))
    sweep(whole, tmp_path, points[part::PARTS], EARLIER, base=whole.folder)


def kill_near_a_save(run: Path, process: Any, generator: random.Random) -> bool:
    """kill -9 some time after the row before a save has been written; whether it was still
    running."""
    step = generator.choice(range(EVERY, STEPS + 1, EVERY))
    deadline = time.monotonic() + 120
    while max(steps_of(run), default=0) < step - 1 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(generator.uniform(0, 0.12))
    process.kill()
    return bool(process.wait() == -signal.SIGKILL)


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_moments(whole: Whole, tmp_path: Path, seed: int) -> None:
    """Five kills each."""
    generator = random.Random(seed)
    repeated, inside, missed = [], 0, 0
    while len(repeated) < 5:
        run, trace = tmp_path / "run", tmp_path / "trace"
        process = start(*line(run, whole.data), before=armed(run, trace, None))
        if kill_near_a_save(run, process, generator):
            inside += any(
                path.name.startswith(".step_") for path in (run / "checkpoints").glob(".*")
            )
            repeated.append(
                go_on(whole, run, saves_begun(trace), f"seed {seed}, kill {len(repeated)}")
            )
        else:
            missed += 1
        assert missed < 10
        shutil.rmtree(run)
        trace.unlink()
    print(
        f"5 of 5 end the same, {inside} of them killed inside a save; most steps made again: "
        f"{max(repeated, default=0)}"
    )


def test_the_console_script_killed(whole: Whole, tmp_path: Path) -> None:
    """The command as it is installed, started from nothing: three kills, resumed the same way."""
    generator = random.Random(7)
    mtl = str(Path(sys.executable).with_name("mtl"))
    longer = ["runner.steps=40", "runner.keep=50"]
    options: dict[str, Any] = {"env": ENVIRONMENT, "cwd": ROOT, "stdout": subprocess.DEVNULL}
    finished = tmp_path / "finished"
    subprocess.run([mtl, *line(finished, whole.data), *longer], check=True, **options)
    for number in range(3):
        run = tmp_path / f"run{number}"
        command = [mtl, *line(run, whole.data), *longer]
        with subprocess.Popen(command, **options) as process:
            assert kill_near_a_save(run, process, generator)
        done = subprocess.run(command, check=False, text=True, stderr=subprocess.PIPE, **options)
        assert done.returncode == 0, done.stderr
        assert differences(finished, run, steps=40) == []
        assert files(finished) == files(run)
    print("3 of 3 end the same")
