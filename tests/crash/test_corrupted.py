"""A newest checkpoint that is damaged in any way is named and skipped, and the one before it is
used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mtlcli.disk import sha256
from mtlcli.errors import UserError
from mtlcli.evaluation.best_checkpoint import find
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.rundir import checkpoint
from tests.small_run import differences, resume, start

NEWEST, OLDER = "step_00000008", "step_00000006"
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
Damage = Callable[[Path, Path], None]
"""Damages the first of two checkpoints, perhaps with something of the second, which is older."""


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def rewrite(change: Callable[[bytes], bytes], file: str, newest: Path, older: Path) -> None:
    (newest / file).write_bytes(change((newest / file).read_bytes()))


def remove(file: str, newest: Path, older: Path) -> None:
    (newest / file).unlink()


def swap(files: tuple[str, ...], newest: Path, older: Path) -> None:
    for file in files:
        shutil.copyfile(older / file, newest / file)


def make_folder(file: str, newest: Path, older: Path) -> None:
    (newest / file).unlink()
    (newest / file).mkdir()


def link_to_nothing(file: str, newest: Path, older: Path) -> None:
    (newest / file).unlink()
    (newest / file).symlink_to("nowhere")


def link_outside(file: str, newest: Path, older: Path) -> None:
    """The same bytes, but they lie where they may change at any time."""
    outside = newest.parents[2] / f"outside_{file}"
    shutil.move(newest / file, outside)
    (newest / file).symlink_to(outside)


def empty(newest: Path, older: Path) -> None:
    shutil.rmtree(newest)
    newest.mkdir()


def renamed(newest: Path, older: Path) -> None:
    """An older checkpoint, whole and good, under the name of the newest."""
    shutil.rmtree(newest)
    shutil.copytree(older, newest)


def link_to_older(newest: Path, older: Path) -> None:
    shutil.rmtree(newest)
    newest.symlink_to(older.name)


def link_to_a_copy_outside(newest: Path, older: Path) -> None:
    outside = newest.parents[2] / newest.name
    shutil.move(newest, outside)
    newest.symlink_to(outside)


def dangling(newest: Path, older: Path) -> None:
    shutil.rmtree(newest)
    newest.symlink_to("nowhere")


def a_file(newest: Path, older: Path) -> None:
    shutil.rmtree(newest)
    newest.write_text("checkpoint")


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "first byte only": lambda content: content[:1],
    "first half only": lambda content: content[: len(content) // 2],
    "last byte gone": lambda content: content[:-1],
    "first byte flipped": lambda content: flipped(content, 0),
    "byte 9 flipped": lambda content: flipped(content, 9, bit=5),
    "middle byte flipped": lambda content: flipped(content, len(content) // 2, bit=3),
    "last byte flipped": lambda content: flipped(content, -1, bit=7),
    "all zeros": lambda content: bytes(len(content)),
    "a byte appended": lambda content: content + b"\n",
    "itself appended": lambda content: content + content,
}
CORRUPTIONS: dict[str, Damage] = {
    **{
        f"{file}: {name}": partial(rewrite, change, file)
        for file in FILES
        for name, change in CHANGES.items()
    },
    **{f"{file}: removed": partial(remove, file) for file in FILES},
    **{f"{file}: of the older": partial(swap, (file,)) for file in FILES},
    **{
        f"{file} and the manifest: of the older": partial(swap, (file, "manifest.json"))
        for file in FILES[:-1]
    },
    **{f"{file}: a folder": partial(make_folder, file) for file in FILES},
    **{f"{file}: a link to nothing": partial(link_to_nothing, file) for file in FILES},
    **{f"{file}: a link outside": partial(link_outside, file) for file in FILES},
    "model and optimizer of the older": partial(swap, FILES[:2]),
    "all files of the older": partial(swap, FILES),
    "an older folder renamed": renamed,
    "an empty folder": empty,
    "a link to the older": link_to_older,
    "a link to a copy outside": link_to_a_copy_outside,
    "a link to nothing": dangling,
    "a file instead of the folder": a_file,
}
del CORRUPTIONS["manifest.json: a byte appended"]
"""A line's end more after the JSON text changes nothing that it says."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return start(tmp_path_factory.mktemp("corrupted") / "whole", "weighting=uncertainty")


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """The same run as it was after step 8."""
    later = [path.name for path in checkpoint.folders(whole / "checkpoints") if path.name > NEWEST]
    shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns(*later))
    return tmp_path / "run"


def damage(run: Path, name: str) -> None:
    CORRUPTIONS[name](run / "checkpoints" / NEWEST, run / "checkpoints" / OLDER)


def test_there_are_enough() -> None:
    assert len(CORRUPTIONS) >= 35


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_it_is_named_and_the_one_before_is_used(broken: Path, name: str) -> None:
    checkpoints = broken / "checkpoints"
    assert checkpoint.newest(checkpoints)[0].step == 8
    damage(broken, name)
    found, skipped = checkpoint.newest(checkpoints)
    assert found.step == 6 and found.folder.name == OLDER
    assert len(skipped) == 1 and skipped[0].startswith(f"skipped {NEWEST}: ")
    file = next((file for file in FILES if name.startswith(file)), "")
    assert (
        file.partition(".")[0] in skipped[0]
        or " and the manifest" in name
        or "manifest.json: of the older" in name
    )
    with pytest.raises(UserError, match="the checkpoint cannot be used"):
        checkpoint.read(checkpoints / NEWEST)


def test_every_bit_of_a_manifest_counts(broken: Path) -> None:
    file = broken / "checkpoints" / NEWEST / "manifest.json"
    content = file.read_bytes()
    silent = []
    for place in range(len(content)):
        for bit in range(8) if place % 16 == 0 else [place % 8]:
            file.write_bytes(flipped(content, place, bit))
            # What it says of the run's other files is compared with them.
            if checkpoint.fault(file.parent) is None and checkpoint.read(
                file.parent
            ).around == checkpoint.digests(broken):
                silent.append((place, bit))
    assert silent == []


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_resumed_run_ends_the_same(
    whole: Path, broken: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(broken, name)
    outside = {
        path: path.read_bytes()
        for path in broken.parent.rglob("*")
        if path.is_file() and broken not in path.parents
    }
    resume(broken)
    assert f"skipped {NEWEST}: " in capsys.readouterr().out
    assert differences(whole, broken) == []
    assert all(path.read_bytes() == content for path, content in outside.items())
    assert checkpoint.fault(broken / "checkpoints" / NEWEST) is None
    assert all(path.name.startswith("step_") for path in (broken / "checkpoints").iterdir())


def set_best(folder: Path, step: int) -> None:
    """Make a checkpoint say that `step` was the best, and results.json be about it: in these runs,
    that one is not saved."""
    results = folder.parents[1] / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"step": step}))
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"best_step": step}))
    sign(folder)


def sign(folder: Path) -> None:
    """Make a checkpoint's manifest say what its files are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in FILES[:-1]:
        manifest["files"][name] = {
            "size": (folder / name).stat().st_size,
            "sha256": sha256(folder / name),
        }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_eval_takes_no_other_for_a_best_checkpoint_that_is_damaged(broken: Path) -> None:
    set_best(broken / "checkpoints" / NEWEST, 6)
    assert find(broken).checkpoint.step == 6
    file = broken / "checkpoints" / OLDER / "model.safetensors"
    file.write_bytes(flipped(file.read_bytes(), -1))
    with pytest.raises(UserError) as caught:
        evaluate_path(broken)
    (problem,) = caught.value.problems
    assert (
        problem.what
        == "the run's best checkpoint cannot be used: model.safetensors does not match its SHA-256"
    )
    assert (
        problem.where.endswith(OLDER)
        and problem.fix == f"the newest: mtl eval {broken / 'checkpoints' / NEWEST}"
    )


def test_eval_says_that_the_newest_was_skipped(broken: Path) -> None:
    set_best(broken / "checkpoints" / OLDER, 4)
    damage(broken, "model.safetensors: middle byte flipped")
    found = find(broken)
    assert found.notices == [f"skipped {NEWEST}: model.safetensors does not match its SHA-256"]
    assert found.checkpoint.step == 4


def test_resuming_inside_a_checkpoint_folder_does_not_start_from_zero(
    whole: Path, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(broken / "checkpoints" / OLDER)
    resume(Path())
    assert "step    6" in capsys.readouterr().out
    monkeypatch.undo()
    assert differences(whole, broken) == []


def test_checkpoints_that_lie_elsewhere_are_refused(broken: Path, tmp_path: Path) -> None:
    shutil.move(broken / "checkpoints", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / ".step_00000010.123.tmp").mkdir()
    (broken / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    for use in (resume, evaluate_path):
        with pytest.raises(UserError, match="checkpoints: is a symbolic link"):
            use(broken)
    assert sorted(tmp_path.rglob("*")) == before
