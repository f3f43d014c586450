"""The checkpoint folder: tensors in safetensors, everything else in JSON, and a manifest with the
SHA-256 of every file.

The writer creates the folder under a temporary name beside its place, flushes every file to the
disk, writes the manifest last, and renames the folder into its place. The reader ignores a folder
whose manifest does not verify. The folder holds a copy of the config that it was saved with; the
manifest also holds the SHA-256 of the other files of the run folder that the checkpoint needs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli import commands
from mtlcli.disk import REMEDIES, flush, make_folder, sha256, writing
from mtlcli.errors import RunError, UserError
from mtlcli.rundir.checkpoint.tensors import is_finite, write_tensors
from mtlcli.rundir.place import run_path_problems

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
"""Version of the format. Format 1, which has neither config.yaml nor the SHA-256 of the run's
files, can still be read."""
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "config.yaml")
AROUND = ("backbone/backbone.json", "backbone/tokenizer.json", "environment.json")
"""Files of the run folder that a checkpoint needs. For environment.json only the part about the
data counts."""
UNREADABLE = "cannot be read"
_NAME = re.compile(r"step_\d{8}")
DAMAGED = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Error numbers of the disk that mean that a file is damaged; every other error means that the file
cannot be read now."""
_LARGEST_MANIFEST = 1 << 16
_OTHER = "give another checkpoint of the run"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose manifest verified."""

    folder: Path
    """The folder, `.../checkpoints/step_00000120`."""
    state: dict[str, Any]
    """The content of state.json."""
    around: dict[str, str] | None
    """SHA-256 of the run's files that the checkpoint was saved with, by name as in `AROUND`; None
    for format 1, which does not have them."""

    @property
    def config(self) -> Path | None:
        """The file of the config that the checkpoint was saved with; None for format 1."""
        return None if self.around is None else self.folder / "config.yaml"

    @property
    def step(self) -> int:
        """The number of updates made when the checkpoint was written."""
        return int(self.state["step"])

    @property
    def best_step(self) -> int | None:
        """The step of the best score so far; None when there was no score."""
        best: int | None = self.state.get("best_step")
        return best

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of `model.safetensors` or `optimizer.safetensors`, on the CPU. Raises
        UserError when the file cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.folder / name)
        # torch raises RuntimeError where the file disappears between reading its header and its
        # tensors.
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(
                f"{name} cannot be read: {error}", where=str(self.folder), fix=_OTHER
            ) from error


def write(
    checkpoints: Path,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
    *,
    config: str = "",
    around: dict[str, str] | None = None,
) -> Path:
    """Write a checkpoint of `state["step"]` below the folder `checkpoints` and return its folder.

    `config`: the text of config.yaml. `around`: what `digests` returned for the run folder earlier;
    None: call `digests` now.

    An existing checkpoint of the same step stays untouched until the new one is complete. Raises
    RunError when a tensor is not finite, or the disk cannot hold the checkpoint; then nothing of
    the new checkpoint is left.
    """
    target = checkpoints / f"step_{state['step']:08d}"
    bad = [name for name, tensor in (model | optimizer).items() if not is_finite(tensor)]
    if bad:
        raise RunError(
            f"not saved: {bad[0]} is not finite"
            + (f", nor {len(bad) - 1} more tensors" if bad[1:] else ""),
            str(target),
        )
    if target.is_symlink() or target.is_file():
        # This is not a checkpoint: remove the link, not its target. If that fails, the rename below
        # reports the error.
        with suppress(OSError):
            target.unlink()
    size = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
    run = checkpoints.parent
    then = f"then go on: {commands.resume(run)} (earlier checkpoints are intact)"
    if not folders(checkpoints):
        then = (
            f"then start again in the same folder: {commands.start_again(run)} (nothing was "
            "saved before)"
        )
    with writing("the checkpoint", target, then, needed=size):
        # Flush the metrics rows first: after a power cut, no checkpoint may exist whose metrics
        # rows are lost.
        for path in (run / "metrics.jsonl", run):
            if path.exists():
                flush(path)
        tensors = {"model.safetensors": model, "optimizer.safetensors": optimizer}
        texts = {"state.json": json.dumps(state, indent=1, allow_nan=False), "config.yaml": config}
        return _write(target, tensors, texts, digests(run) if around is None else around)


def _write(
    target: Path,
    tensors: dict[str, dict[str, Tensor]],
    texts: dict[str, str],
    around: dict[str, str],
) -> Path:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside = temporary.with_suffix(".old")
    make_folder(target.parent)
    temporary.mkdir()
    try:
        written = {
            name: write_tensors(temporary / name, content) for name, content in tensors.items()
        } | {name: _write_text(temporary / name, text) for name, text in texts.items()}
        files = {name: {"size": size, "sha256": digest} for name, (size, digest) in written.items()}
        manifest = {"format": FORMAT, "files": files, "run": around}
        _write_text(temporary / "manifest.json", json.dumps(manifest, indent=1))
        flush(temporary)
        # Rename the old folder instead of deleting it: a folder cannot be renamed to a name that is
        # in use.
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        flush(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    return target


def fault(folder: Path) -> str | None:
    """Return why a checkpoint folder cannot be used, or None when its manifest verifies and its
    state has the step of the folder's name."""
    try:
        verified(folder)
    except ValueError as error:
        return str(error)
    except UserError as error:
        return error.problems[0].what
    return None


def read(folder: Path) -> Checkpoint:
    """Open a checkpoint folder. Raises UserError with the fault when the folder does not verify."""
    try:
        return verified(folder)
    except ValueError as error:
        raise UserError(
            f"the checkpoint cannot be used: {error}", where=str(folder), fix=_OTHER
        ) from error


def verified(folder: Path) -> Checkpoint:
    """Open a checkpoint folder.

    Raises ValueError with the fault when the folder does not verify, UserError when the disk cannot
    read the folder now, which is no fault of the checkpoint.
    """
    # An absolute path, so that the folder's name is known when the user gave `.`.
    folder = folder.absolute()
    try:
        return _verified(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename or folder).name} is missing") from error
    except OSError as error:
        name = Path(error.filename or folder).name
        if error.errno in DAMAGED:
            raise ValueError(f"{name} cannot be read: {error.strerror}") from error
        remedy = REMEDIES.get(error.errno or 0, "find out why").replace("writable", "readable")
        raise UserError(
            f"{name} cannot be read: {error.strerror}",
            str(folder),
            f"{remedy}: nothing is known to be wrong with it; or {_OTHER}",
        ) from error


def _verified(folder: Path) -> Checkpoint:
    # Refuse links: the target of a link is not part of the run, and may change at any time.
    for path, is_kind, kind in (
        (folder.parent, stat.S_ISDIR, "folder"),
        (folder, stat.S_ISDIR, "folder"),
        (folder / "manifest.json", stat.S_ISREG, "file"),
    ):
        _check_kind(path, is_kind, kind)
    if not _NAME.fullmatch(folder.name):
        raise ValueError("its name is not step_ and eight digits")
    manifest = _manifest(folder / "manifest.json")
    for name, expected in manifest["files"].items():
        file = folder / name
        _check_kind(file, stat.S_ISREG, "file")
        if file.stat().st_size != expected["size"]:
            raise ValueError(
                f"{name} has {file.stat().st_size} bytes instead of {expected['size']}"
            )
        if sha256(file) != expected["sha256"]:
            raise ValueError(f"{name} does not match its SHA-256")
    state = parse_json(folder / "state.json")
    step, best = (
        state.get(key) if isinstance(state, dict) else None for key in ("step", "best_step")
    )
    # Somebody may have copied the content of another checkpoint into this folder.
    if type(step) is not int or step != step_of(folder):
        raise ValueError(f"state.json is of step {str(step)[:20]}, not of {step_of(folder)}")
    if best is not None and (type(best) is not int or not 0 <= best <= step):
        raise ValueError(f"state.json says that step {str(best)[:20]} was the best")
    return Checkpoint(folder, dict(state), manifest.get("run"))


def _check_kind(path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    mode = path.lstat().st_mode
    if not is_kind(mode):
        raise ValueError(
            f"{path.name} is {'a symbolic link' if stat.S_ISLNK(mode) else f'no {kind}'}"
        )


def _manifest(file: Path) -> dict[str, Any]:
    """Return the content of a manifest. Raises ValueError unless it names exactly the files of a
    checkpoint and the files of the run."""
    if file.stat().st_size > _LARGEST_MANIFEST:
        raise ValueError(f"manifest.json has {file.stat().st_size} bytes")
    manifest = parse_json(file)
    if not isinstance(manifest, dict) or not {"format", "files"} <= manifest.keys() <= {
        "format",
        "files",
        "run",
    }:
        raise ValueError("manifest.json cannot be read: it holds something else")
    kind, files, around = manifest["format"], manifest["files"], manifest.get("run")
    if type(kind) is not int or kind not in (1, FORMAT):
        raise ValueError(f"format {str(kind)[:20]} is neither 1 nor {FORMAT}")
    expected = FILES if kind == FORMAT else FILES[:3]
    if not isinstance(files, dict) or set(files) != set(expected):
        raise ValueError(
            f"manifest.json names {', '.join(map(repr, files))[:80]} instead of "
            f"{', '.join(expected)}"
        )
    if any(
        not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}
        for entry in files.values()
    ):
        raise ValueError("manifest.json cannot be read: it holds something else")
    if (kind == 1) != (around is None) or (
        around is not None and (not isinstance(around, dict) or around.keys() != set(AROUND))
    ):
        raise ValueError(f"manifest.json does not name {', '.join(AROUND)} of the run")
    return manifest


def digests(run: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a run folder that its checkpoints need; `UNREADABLE` for a
    file that is missing or cannot be read."""
    found = {}
    for name in AROUND:
        try:
            content = (run / name).read_bytes()
            if name == "environment.json":
                # The other parts of environment.json grow whenever the run is resumed.
                content = json.dumps(json.loads(content)["data"], sort_keys=True).encode()
            found[name] = hashlib.sha256(content).hexdigest()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found[name] = UNREADABLE
    return found


def parse_json(file: Path) -> Any:
    """Return the content of a JSON file. Raises ValueError when the file is not JSON, or holds
    numbers that are not finite or do not fit into 64 bits."""

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"the number {text[:20]}")
        return value

    def whole(text: str) -> int:
        if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
            raise ValueError(f"the number {text[:20]}...")
        return value

    try:
        return json.loads(
            file.read_bytes(), parse_float=number, parse_constant=number, parse_int=whole
        )
    except RecursionError as error:
        raise ValueError(f"{file.name} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error


def run_of(path: Path) -> Path:
    """Return the run folder that `path` is, or to which the checkpoint `path` belongs. Raises
    UserError when `path` is neither, or when the run folder contains a link."""
    if (path / "manifest.json").exists() or path.parent.name == "checkpoints":
        run = path.absolute().parent.parent
        if not (run / "config.yaml").is_file():
            raise UserError(
                "the checkpoint lies outside its run folder: there is no config.yaml",
                where=str(run),
                fix="give the run folder as a whole",
            )
        refuse_links(run)
        return run
    if problems := run_path_problems(path):
        raise UserError(problems)
    refuse_links(path)
    return path


def refuse_links(run: Path) -> None:
    """Raise UserError when a run folder holds a symbolic link or a device: reading or writing it
    would reach outside the folder.

    Links inside `checkpoints/` are left to the reader, for which they are checkpoints that do not
    verify.
    """
    for folder in (run, run / "backbone"):
        try:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror}",
                where=str(folder),
                fix="make it readable for you",
            ) from error
        for path in paths:
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(
                    "is a symbolic link"
                    if stat.S_ISLNK(mode)
                    else "is neither a file nor a folder",
                    where=str(path),
                    fix="a run folder may hold only real files and folders: remove the link, or "
                    "replace it by a copy of its target",
                )


def folders(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders below `checkpoints`, oldest first, verified or not."""
    return [path for path in _named(checkpoints) if path.is_dir() and not path.is_symlink()]


def _named(checkpoints: Path) -> list[Path]:
    """Return all paths with the name of a checkpoint, whether folders or not, oldest first."""
    try:
        return sorted(path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"the folder cannot be read: {error.strerror}",
            str(checkpoints),
            "make it readable for you",
        ) from error


def newest(checkpoints: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest checkpoint that verifies, and a line for each newer one that was skipped.

    Raises UserError when no checkpoint verifies, and when one cannot be read now: that checkpoint
    may be intact, and skipping it could lose steps.
    """
    skipped: list[str] = []
    for folder in reversed(_named(checkpoints)):
        try:
            return verified(folder), skipped
        except ValueError as error:
            skipped.append(f"skipped {folder.name}: {error}")
    raise UserError(
        "no usable checkpoint" + "".join(f"; {line}" for line in skipped),
        where=str(checkpoints),
        fix="bring one of them back from a copy; without one, train the run again in a new folder, "
        "with the command in environment.json"
        if skipped
        else "give the folder of a run that saved one",
    )


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step_"))


def _write_text(file: Path, text: str) -> tuple[int, str]:
    """Write a file, flush it to the disk, and return the size and SHA-256 of the bytes that were to
    be written."""
    content = text.encode()
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return len(content), hashlib.sha256(content).hexdigest()
