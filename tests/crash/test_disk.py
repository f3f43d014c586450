"""A disk that takes no more: the error says where, how much was needed and what is free; what was
saved before stays and is gone on from.

The small disks are real ones where the machine lets a test mount them; what no small disk can be
(over quota, broken) is patched.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.errors import RunError, RunWarning, UserError
from mtlcli.prepare import disk_space
from mtlcli.prepare.disk_space import AROUND, check_disk_space, checkpoint_size
from mtlcli.prepare.prepare import prepare
from mtlcli.rundir import checkpoint
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.rundir.saver import Saver
from mtlcli.runner import job
from mtlcli.training.analysis.cost import PeakMemory
from tests.crash.disks import PAGE, Disk, Failing
from tests.small_run import SMALL, STEPS, differences, resume, start
from tests.warm import mtl

MODEL = {"weight": torch.arange(5_000.0), "bias": torch.ones(7)}
OPTIMIZER = {"weight/exp_avg": torch.arange(5_000.0) / 3}
STATE = {"step": 20, "best_step": None}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return start(tmp_path_factory.mktemp("disk") / "whole")


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def blocks(folder: Path) -> int:
    """Blocks that the files in a folder take."""
    return sum(-(-file.stat().st_size // PAGE) for file in folder.rglob("*") if file.is_file())


# ------------------------------------------------------------------------------------------------
# one save


def fails(checkpoints: Path, reason: str = "No space left on device") -> str:
    """A save of step 20 that fails as it must: named, and nothing left of it. Gives the message."""
    saver = Saver(checkpoints, keep=1)
    saver.save(MODEL, OPTIMIZER, STATE, best=None)
    with pytest.raises(RunError) as caught:
        saver.wait()
    text = str(caught.value)
    free = r"([\d.]+ \w+|no space) is free"
    said = rf"the checkpoint cannot be written: {reason} \(needs 39.1 kB, {free}"
    assert re.match(rf"{re.escape(str(checkpoints))}/\S+: {said}", text), text
    return text


def operations(folder: Path, prepare: Callable[[Path], None]) -> list[str]:
    """What a save asks of the disk, in order."""
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, None)
        checkpoint.write(folder, MODEL, OPTIMIZER, STATE)
    return failing.operations


def one_before(folder: Path) -> None:
    checkpoint.write(folder, MODEL, {}, STATE | {"step": 10})


def the_same_before(folder: Path) -> None:
    checkpoint.write(folder, MODEL, {}, STATE | {"old": True})


@pytest.mark.parametrize("before", [one_before, the_same_before])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_every_operation_of_a_save_fails(
    tmp_path: Path, before: Callable[[Path], None], number: int
) -> None:
    asked = operations(tmp_path / "count", before)
    assert {name.partition(" ")[0] for name in asked} >= {
        "mkdir",
        "open",
        "write",
        "fsync",
        "rename",
    } and len(asked) >= 15
    for at in range(1, len(asked) + 1):
        folder = tmp_path / str(at)
        before(folder)
        there = names(folder)
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, at, number)
            text = fails(folder, os.strerror(number))
        assert ("but your quota may allow less" in text) == (number == errno.EDQUOT)
        # The last flush comes when the new one is in its place: it stays, complete.
        assert names(folder) == there or at == len(asked), asked[at - 1]
        assert [each for each in checkpoint.folders(folder) if checkpoint.fault(each)] == []
        assert (checkpoint.newest(folder)[0].state.get("old") is True) == (
            before is the_same_before
        ) or at == len(asked), asked[at - 1]


def test_a_disk_that_is_full_after_every_page_of_a_save(disk: Disk) -> None:
    """Really full: a file system with 0, 1, 2, ... blocks left until the save fits."""
    place = disk.mount("size=1m")
    one_before(place / "checkpoints")
    checkpoint.write(place / "measured", MODEL, OPTIMIZER, STATE)
    needed = blocks(place / "measured")
    shutil.rmtree(place / "measured")
    assert needed >= 12
    for left in range(needed):
        disk.fill(leave=left * PAGE)
        assert (f"{left * PAGE / 1024:.1f} kB is free" if left else "no space is free") in fails(
            place / "checkpoints"
        )
        assert (
            names(place / "checkpoints") == ["step_00000010"]
            and checkpoint.newest(place / "checkpoints")[0].step == 10
        )
        disk.empty()
    disk.fill(leave=needed * PAGE)
    saver = Saver(place / "checkpoints", keep=1)
    saver.save(MODEL, OPTIMIZER, STATE, best=None)
    saver.wait()
    assert names(place / "checkpoints") == ["step_00000020"]


@pytest.mark.parametrize("free", range(5))
def test_a_disk_that_has_no_more_inodes(disk: Disk, free: int) -> None:
    place = disk.mount("size=1m,nr_inodes=32")
    one_before(place / "checkpoints")
    while os.statvfs(place).f_ffree > free:
        (place / f"empty_{os.statvfs(place).f_ffree}").touch()
    fails(place / "checkpoints")
    assert (
        names(place / "checkpoints") == ["step_00000010"]
        and checkpoint.newest(place / "checkpoints")[0].step == 10
    )


def test_retention_on_a_disk_that_has_become_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_before(tmp_path)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("mtlcli.rundir.saver.retain", refuse)
    saver = Saver(tmp_path, keep=1)
    saver.save(MODEL, OPTIMIZER, STATE, best=None)
    with pytest.raises(
        RunError,
        match="the checkpoints cannot be written: Read-only file system\n    -> mount it writable, "
        "then go on: ",
    ):
        saver.wait()
    assert checkpoint.newest(tmp_path)[0].step == 20


def test_an_error_waits_for_the_save_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who hears of it reads which checkpoint to go on from, and may own the folder next."""
    write = checkpoint.write

    def slowly(*arguments: Any, **options: Any) -> Path:
        time.sleep(0.3)
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint, "write", slowly)
    with pytest.raises(RunError, match="the loss"), Saver(tmp_path, keep=1) as saver:
        saver.save(MODEL, OPTIMIZER, STATE, best=None)
        raise RunError("the loss")
    assert names(tmp_path) == ["step_00000020"]
    # When both go wrong, the user hears of both.
    broken = {**MODEL, "broken": torch.tensor(float("nan"))}
    with (
        pytest.warns(RunWarning, match="not saved: broken is not finite"),
        pytest.raises(KeyError),
        Saver(tmp_path, keep=1) as saver,
    ):
        saver.save(broken, OPTIMIZER, STATE | {"step": 21}, best=None)
        raise KeyError
    with (
        pytest.raises(RunError, match="not saved: broken is not finite"),
        Saver(tmp_path, keep=1) as saver,
    ):
        saver.save(broken, OPTIMIZER, STATE | {"step": 21}, best=None)
    assert names(tmp_path) == ["step_00000020"]


def test_the_files_are_those_of_the_library(tmp_path: Path) -> None:
    """Every dtype and shape there can be, read by the library; nothing is held a second time while
    they are written."""
    tensors = {
        "matrix": torch.randn(3, 5),
        "turned": torch.randn(4, 3).T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "nothing": torch.empty(0, 4),
        "half": torch.randn(3).bfloat16(),
        "whole": torch.arange(7),
        "flag": torch.tensor([True, False, True]),
        "with a 'name'.ä": torch.ones(2, dtype=torch.int16),
    }
    tensors["a view"] = tensors["matrix"][1:]
    folder = checkpoint.write(tmp_path, tensors, {}, STATE)
    found = load_file(folder / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], each) and found[name].dtype == each.dtype
        for name, each in tensors.items()
    )
    assert load_file(folder / "optimizer.safetensors") == {} and checkpoint.fault(folder) is None
    library = save({name: each.contiguous().clone() for name, each in tensors.items()})
    assert len((folder / "model.safetensors").read_bytes()) == len(library)
    large = {"large": torch.ones(2**25)}
    memory = PeakMemory(torch.device("cpu"))
    before = memory.bytes()
    checkpoint.write(tmp_path, large, {}, STATE)
    assert memory.bytes() - before < large["large"].nbytes / 4


def test_a_tensor_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    bad: dict[str, Any] = {"fine": torch.ones(2), "broken": torch.tensor([1.0, float("inf")])}
    with pytest.raises(RunError, match="not saved: broken is not finite"):
        checkpoint.write(tmp_path, bad, {}, STATE)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------
# the other files of a run


WRITERS: dict[str, Callable[[RunFolder], None]] = {
    "config.yaml": lambda folder: folder.write_config(preflight(read_arguments(SMALL)).configs[0]),
    "environment.json": lambda folder: folder.write_environment(
        command=["mtl"], data={"source": "sample", "tasks": {}}, seed=0
    ),
    "results.json": lambda folder: folder.write_results({"step": 1}),
    "metrics.jsonl": lambda folder: folder.append_metrics({"step": 2, "tasks": "x" * 2 * PAGE}),
    "log.txt": lambda folder: Console("plain", folder.log).say("x" * 2 * PAGE),
}
OLD = '{"step": 1}\n'


@pytest.mark.parametrize("name", WRITERS)
def test_the_other_files_of_a_run_on_a_full_disk(disk: Disk, name: str) -> None:
    folder = RunFolder(disk.mount("size=256k") / "run")
    folder.create()
    (folder.path / name).write_text(OLD)
    disk.fill()
    before = names(folder.path)
    with pytest.raises(RunError) as caught:
        WRITERS[name](folder)
    what = "the log" if name == "log.txt" else "the file"
    text = str(caught.value)
    assert text.startswith(
        f"{folder.path / name}: {what} cannot be written: No space left on device ("
    ), text
    assert "no space is free)\n    -> make room there, then" in text
    assert (folder.path / name).read_text() == OLD and names(folder.path) == before
    disk.empty()
    WRITERS[name](folder)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", WRITERS)
def test_the_other_files_of_a_run_where_the_disk_refuses(
    tmp_path: Path, name: str, number: int
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    (folder.path / name).write_text(OLD)
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, 1, number)
        with pytest.raises(
            RunError,
            match=f"{re.escape(str(folder.path / name))}: .* cannot be written: "
            f"{os.strerror(number)}",
        ):
            WRITERS[name](folder)
    assert (folder.path / name).read_text() == OLD


def test_a_dead_run_says_so_on_a_disk_without_a_byte_left(disk: Disk) -> None:
    folder = RunFolder(disk.mount("size=256k") / "run")
    folder.create()
    folder.write_status("running")
    disk.fill()
    folder.write_status("failed", reason="x" * 500)
    assert json.loads((folder.path / "status.json").read_text())["status"] == "failed"
    folder.write_status("running")
    assert json.loads((folder.path / "status.json").read_text())["status"] == "running"


def test_the_log_never_hides_an_error(disk: Disk) -> None:
    place = disk.mount("size=64k")
    disk.fill()
    with pytest.raises(ZeroDivisionError), Console("plain", place / "log.txt") as console:
        with pytest.raises(
            RunError, match=r"log\.txt: the log cannot be written: No space left on device"
        ):
            console.say("hello")
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    "torn",
    [
        '{"step": 9, "tas',
        '{"step": 9, "tasks": {"cola": {"loss": 1.0}',
        '{"step": 9}, ',
        "\0\0\0",
        '{"step"',
    ],
)
def test_a_torn_row_of_metrics_does_not_outlive_a_resume(tmp_path: Path, torn: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 6}\n{"step": 8}\n' + torn)
    folder.cut_metrics(6)
    folder.append_metrics({"step": 9})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3}\n{"step": 6}\n{"step": 9}\n'


def test_the_store_of_encoded_rows_on_a_small_disk(disk: Disk) -> None:
    cache = disk.mount("size=16k")
    arguments = [*SMALL, f"data.cache_dir={cache}", "data.max_train_rows=200"]
    with pytest.raises(UserError) as caught:
        prepare(preflight(read_arguments(arguments)).configs[0])
    assert re.match(
        rf"{cache}/features: the encoded rows cannot be written: No space left on device \(needs "
        r"[\d.]+ kB, no space is free",
        str(caught.value),
    )
    assert "or give data.cache_dir=FOLDER" in str(caught.value)
    assert not list(cache.rglob("*.partial"))
    disk.change("size=1m")
    prepare(preflight(read_arguments(arguments)).configs[0])
    disk.change("ro")
    prepare(preflight(read_arguments(arguments)).configs[0])
    with pytest.raises(
        UserError, match="the store of encoded rows cannot be used: Read-only file system"
    ):
        prepare(preflight(read_arguments([*arguments, "data.max_train_rows=100"])).configs[0])


# ------------------------------------------------------------------------------------------------
# before the first step


def test_too_small_a_place_is_refused_before_anything_is_written(disk: Disk) -> None:
    place = disk.mount("size=1500k")
    with pytest.raises(UserError) as caught:
        start(place / "deep" / "run", "runner.keep=3")
    found = re.search(
        r"needs ([\d.]+) MB \(5 checkpoints of ([\d.]+) kB\), and 1\.5 MB is free",
        str(caught.value),
    )
    assert found and float(found[1]) * 1024 > 5 * float(found[2]), str(caught.value)
    assert f"{place}/deep/run: " in str(caught.value) and "runner.keep=1" in str(caught.value)
    disk.fill(leave=100 * PAGE)
    with pytest.raises(
        UserError,
        match=r"the disk has too little space: the run needs 1\.0 MB, and 400\.0 kB is free",
    ):
        start(place / "deep" / "run")
    assert names(place) == ["filler"]


def test_what_a_checkpoint_is_said_to_need_is_what_it_takes(whole: Path) -> None:
    config = preflight(read_arguments(SMALL)).configs[0]
    prepared = prepare(config)
    said = checkpoint_size(config, prepared.tasks, prepared.files)
    taken = sum(
        file.stat().st_size for file in (whole / "checkpoints" / f"step_{STEPS:08d}").iterdir()
    )
    assert said - AROUND < taken <= said
    assert config.model.pooling == "auto"


@pytest.mark.parametrize(
    ("keep", "saves", "existing", "count"),
    [
        (2, 8, None, 4),
        (2, 3, None, 3),
        (100, 8, None, 8),
        (2, 5, 3, 1),
        (2, 5, 1, 3),
        (2, 1, 7, 1),
        (2, 0, 3, 0),
    ],
)
def test_as_many_checkpoints_as_the_run_will_have(
    monkeypatch: pytest.MonkeyPatch, keep: int, saves: int, existing: int | None, count: int
) -> None:
    monkeypatch.setattr("mtlcli.prepare.disk_space.checkpoint_size", lambda *_: 10 * 2**30)
    monkeypatch.setattr("mtlcli.prepare.disk_space.free", lambda _: 0)
    config = preflight(read_arguments([*SMALL, f"runner.keep={keep}"])).configs[0]
    with pytest.raises(UserError) as caught:
        check_disk_space(
            config, {}, prepare(config).files, Path("run"), saves=saves, existing=existing
        )
    found = re.search(r"\((\d+) checkpoints? of 10\.0 GB\)", str(caught.value))
    assert int(found[1] if found else 0) == count


def test_a_read_only_place_is_refused(disk: Disk, whole: Path) -> None:
    place = disk.mount("size=20m")
    shutil.copytree(whole, place / "run")
    disk.change("ro")
    for begin in (lambda: start(place / "deep" / "new"), lambda: resume(place / "run")):
        with pytest.raises(
            UserError,
            match=rf"{place}/\S+: the run folder cannot be written: Read-only file system \(needs "
            r"1\.0 MB",
        ):
            begin()
    assert differences(whole, place / "run") == []


def be_nobody() -> None:
    """Stop being root, to whom nothing is forbidden, as the run begins."""
    run = job.run

    def other(*arguments: Any, **options: Any) -> float:
        if os.getuid() == 0:
            os.setuid(12345)
        return run(*arguments, **options)

    job.run = other


def test_a_place_of_somebody_else_is_refused() -> None:
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="not-yours-"))
    try:
        folder.chmod(0o755)
        if os.getuid() != 0:
            folder.chmod(0o555)
        done = mtl("train", *SMALL, f"run_dir={folder}/run", before=be_nobody)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert (
            f"{folder}/run: the run folder cannot be written: Permission denied" in done.stderr
        ), done.stderr
        assert names(folder) == []
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------
# a whole run


def look_away() -> None:
    """Find nothing out about free space: what looked like enough room is taken by others while the
    run goes on."""
    disk_space.free = lambda place: None


@pytest.mark.parametrize(
    "room",
    [0.3, 1.7, 3.9, 6.5],
)
def test_a_small_disk_fills_up_and_the_run_goes_on_once_there_is_room(
    disk: Disk, whole: Path, room: float
) -> None:
    """`room`: for how many checkpoints, beside everything else."""
    each = blocks(whole / "checkpoints" / f"step_{STEPS:08d}")
    others = blocks(whole) - blocks(whole / "checkpoints")
    saved = int(room)
    place = disk.mount(f"size={(others + int(room * each)) * PAGE}")
    run = place / "run"
    done = mtl("train", *SMALL, f"run_dir={run}", before=look_away)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("mtl train: 1 problem\n")
    assert re.search(
        rf"{run}/checkpoints/\S+: the checkpoint cannot be written: No space left on device "
        r"\(needs [\d.]+ kB, [\d.]+ kB is free\)",
        done.stderr,
    )
    there = checkpoint.folders(run / "checkpoints")
    assert len(there) == saved and not any(checkpoint.fault(folder) for folder in there), (
        len(there),
        done.stderr,
    )
    assert len(names(run / "checkpoints")) == saved
    assert json.loads((run / "status.json").read_text())["status"] == "failed"
    command = re.search(r"(resume=\S+|run_dir=\S+ resume=auto)", done.stderr)
    assert command
    again = mtl("train", *command[0].split(), *([] if saved else SMALL))
    assert again.returncode == 2 and "the disk has too little space" in again.stderr, again.stderr
    disk.change("size=20m")
    again = mtl("train", *command[0].split(), *([] if saved else SMALL))
    assert again.returncode == 0, again.stderr
    assert differences(whole, run) == []


def fill_later(place: Path, leave: int) -> None:
    """Leave so many blocks free at the fourth save."""
    save, calls = Saver.save, []

    def filling(self: Saver, *arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            self.wait()
            Disk(place).fill(leave * PAGE)
        save(self, *arguments, **options)

    Saver.save = filling  # type: ignore[method-assign]


@pytest.mark.parametrize("leave", [0, 1, 2, 5, 20])
def test_others_fill_the_disk_during_a_run(disk: Disk, whole: Path, leave: int) -> None:
    """Rows, results, log and status have no room either."""
    place = disk.mount("size=20m")
    run = place / "run"
    done = mtl("train", *SMALL, f"run_dir={run}", before=partial(fill_later, place, leave))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "cannot be written: No space left on device" in done.stderr
    # Step 5 is evaluated and the best so far.
    assert names(run / "checkpoints") == [f"step_{step:08d}" for step in (2, 4, 5)]
    assert json.loads((run / "status.json").read_text())["status"] == "failed"
    disk.empty()
    again = mtl("train", f"resume={run}")
    assert again.returncode == 0, again.stderr
    assert differences(whole, run) == []


def test_files_may_not_grow_as_large_as_a_checkpoint(tmp_path: Path, whole: Path) -> None:
    """As with `ulimit -f`; needs no mount."""
    run = tmp_path / "run"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = mtl("train", *SMALL, f"run_dir={run}", before=limit)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "step_00000002: the checkpoint cannot be written: File too large (needs " in done.stderr
    assert names(run / "checkpoints") == []
    again = mtl("train", *SMALL, f"run_dir={run}", "resume=auto")
    assert again.returncode == 0, again.stderr
    assert differences(whole, run) == []


def write_to_a_full_disk() -> None:
    """Have standard output on a disk that takes nothing."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_output_into_a_file_on_a_full_disk(tmp_path: Path) -> None:
    done = mtl("train", *SMALL, f"run_dir={tmp_path / 'run'}", before=write_to_a_full_disk)
    assert (
        done.returncode == 2 and "Traceback" not in done.stderr and "Exception" not in done.stderr
    ), done.stderr
    assert "standard output: the output cannot be written: No space left on device" in done.stderr
    assert not (tmp_path / "run").exists()
