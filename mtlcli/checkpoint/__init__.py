"""The checkpoint folder: tensors in safetensors, everything else in JSON, a manifest with the SHA-256 of every file.

A folder is written as a temporary sibling, every file flushed to the disk, the manifest last, and then renamed into
place; a folder whose manifest does not verify does not exist for the reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli.errors import RunError, UserError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step_\d{8}")
_LEFT = re.compile(r"\.step_\d{8}\.\d+\.(tmp|old)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that verified."""

    folder: Path
    """The folder, `.../checkpoints/step_00000120`."""
    state: dict[str, Any]
    """state.json."""

    @property
    def step(self) -> int:
        """Updates that had been made when it was written."""
        return int(self.state["step"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `model.safetensors` or `optimizer.safetensors`, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / name)


def write(checkpoints: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write a checkpoint of `state["step"]` below the folder `checkpoints` and return its folder.

    One of the same step that is there already stays untouched until the new one is complete. Raises RunError when a tensor
    is not finite, or the disk does not take it; then nothing is left of it.
    """
    target = checkpoints / f"step_{state['step']:08d}"
    bad = [name for name, tensor in (model | optimizer).items() if not _is_finite(tensor)]
    if bad:
        raise RunError(f"not saved: {bad[0]} is not finite" + (f", nor {len(bad) - 1} more tensors" if bad[1:] else ""), str(target))
    size = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
    try:
        return _write(target, model, optimizer, state)
    except OSError as error:
        raise RunError(
            f"the checkpoint cannot be written: {error.strerror or error} (needs {_megabytes(size)}, free are {_free(checkpoints)})",
            where=str(target),
            fix="make room or give another run_dir=, then resume: earlier checkpoints are intact",
        ) from error


def _write(target: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]) -> Path:
    from safetensors.torch import save

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        manifest: dict[str, Any] = {"format": FORMAT, "files": {}}
        contents = (save(_apart(model)), save(_apart(optimizer)), json.dumps(state, indent=1, allow_nan=False).encode())
        for name, content in zip(FILES, contents, strict=True):
            _write_durably(temporary / name, content)
            manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _write_durably(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        _flush_folder(temporary)
        # Aside, not away: a name can only be given to a folder when no other has it.
        aside = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        _flush_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def fault(folder: Path) -> str | None:
    """Why a checkpoint folder cannot be used, or None when its manifest verifies."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']} is not {FORMAT}"
        for name in FILES:
            expected = manifest["files"][name]
            file = folder / name
            if file.stat().st_size != expected["size"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['size']}"
            if _sha256(file) != expected["sha256"]:
                return f"{name} does not match its SHA-256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"
    return None


def read(folder: Path) -> Checkpoint:
    """Open a checkpoint folder. Raises UserError with the fault when it does not verify."""
    found = fault(folder)
    if found is not None:
        raise UserError(f"the checkpoint cannot be used: {found}", where=str(folder), fix="give another checkpoint of the run")
    return Checkpoint(folder, json.loads((folder / "state.json").read_bytes()))


def run_of(path: Path) -> Path:
    """The run folder that `path` is, or whose checkpoint it is. Raises UserError when it is neither."""
    if (path / "manifest.json").exists() or path.parent.name == "checkpoints":
        run = path.absolute().parent.parent
        if not (run / "config.yaml").is_file():
            raise UserError(
                "the checkpoint stands outside its run folder: no config.yaml", where=str(run), fix="give the run folder as a whole"
            )
        return run
    if (path / "config.yaml").is_file():
        return path
    what = "there is no such folder" if not path.is_dir() else "neither a run folder (config.yaml) nor a checkpoint (manifest.json)"
    raise UserError(what, where=str(path), fix="give a folder that mtl train wrote, runs/<date>_<time>_..., or one of its checkpoints")


def folders(checkpoints: Path) -> list[Path]:
    """The checkpoint folders below `checkpoints`, oldest first, verified or not."""
    if not checkpoints.is_dir():
        return []
    return sorted(path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def newest(checkpoints: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that verifies, and a line for each newer one that was skipped.

    Raises UserError when there is none.
    """
    skipped: list[str] = []
    for folder in reversed(folders(checkpoints)):
        found = fault(folder)
        if found is None:
            return read(folder), skipped
        skipped.append(f"skipped {folder.name}: {found}")
    raise UserError(
        "no usable checkpoint" + "".join(f"; {line}" for line in skipped),
        where=str(checkpoints),
        fix="give the folder of a run that saved one",
    )


def keep(checkpoints: Path, steps: set[int]) -> None:
    """Delete the checkpoint folders of all other steps."""
    for folder in folders(checkpoints):
        if step_of(folder) not in steps:
            # Renamed first: half a deleted folder must not look like a checkpoint.
            aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(aside)
            shutil.rmtree(aside)


def retain(checkpoints: Path, step: int, count: int, *, best: int | None) -> None:
    """Delete the checkpoint folders of all steps but the newest `count` up to `step`, and `best` whatever its age."""
    newest = [each for each in map(step_of, folders(checkpoints)) if each <= step][-count:]
    keep(checkpoints, {*newest, *([] if best is None else [best])})


def clean(checkpoints: Path) -> None:
    """Delete what writers and deleters that were killed have left. Only the owner of the run folder may."""
    for path in checkpoints.iterdir() if checkpoints.is_dir() else []:
        if _LEFT.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def step_of(folder: Path) -> int:
    """The step that a checkpoint folder's name says."""
    return int(folder.name.removeprefix("step_"))


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"


def _free(folder: Path) -> str:
    try:
        return _megabytes(shutil.disk_usage(folder if folder.exists() else folder.parent).free)
    except OSError:
        return "an unknown number of MB"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_finite(tensor: Tensor) -> bool:
    # A sum is finite only when all it adds up is, and is found ten times as fast; a large one may overflow by itself.
    return not tensor.is_floating_point() or bool(tensor.detach().sum().isfinite()) or bool(tensor.isfinite().all())


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, on the CPU, and no two in the same memory: safetensors refuses those."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return found


def _write_durably(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
