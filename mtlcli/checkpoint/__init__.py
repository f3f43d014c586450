"""The checkpoint folder: tensors in safetensors, everything else in JSON, a manifest with the SHA-256 of every file.

A folder is written as a temporary sibling, every file flushed to the disk, the manifest last, and then renamed into
place; a folder whose manifest does not verify does not exist for the reader.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli import commands
from mtlcli.disk import flush, make_folder, writing
from mtlcli.errors import RunError, UserError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step_\d{8}")
_LEFT = re.compile(r"\.step_\d{8}\.\d+\.(tmp|old)")
_LARGEST_MANIFEST = 1 << 16
_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.bool": "BOOL",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
}
"""What safetensors calls the dtypes."""
_OTHER = "give another checkpoint of the run"


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

    @property
    def best_step(self) -> int | None:
        """Step of the best score so far; None: there was no score."""
        best: int | None = self.state.get("best_step")
        return best

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `model.safetensors` or `optimizer.safetensors`, on the CPU. Raises UserError when it holds something else."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.folder / name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{name} cannot be read: {error}", where=str(self.folder), fix=_OTHER) from error


def write(checkpoints: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write a checkpoint of `state["step"]` below the folder `checkpoints` and return its folder.

    One of the same step that is there already stays untouched until the new one is complete. Raises RunError when a tensor
    is not finite, or the disk does not take it; then nothing is left of it.
    """
    target = checkpoints / f"step_{state['step']:08d}"
    bad = [name for name, tensor in (model | optimizer).items() if not _is_finite(tensor)]
    if bad:
        raise RunError(f"not saved: {bad[0]} is not finite" + (f", nor {len(bad) - 1} more tensors" if bad[1:] else ""), str(target))
    if target.is_symlink() or target.is_file():
        # No checkpoint, whoever put it there; where it leads to stays. If it cannot go, what comes next says why.
        with suppress(OSError):
            target.unlink()
    size = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
    run = checkpoints.parent
    then = f"then go on: {commands.resume(run)} (earlier checkpoints are intact)"
    if not folders(checkpoints):
        then = f"then start again in the same folder: {commands.start_again(run)} (nothing was saved before)"
    with writing("the checkpoint", target, then, needed=size):
        return _write(target, model, optimizer, state)


def _write(target: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]) -> Path:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside = temporary.with_suffix(".old")
    make_folder(target.parent)
    temporary.mkdir()
    try:
        manifest: dict[str, Any] = {"format": FORMAT, "files": {}}
        contents = (_pieces(model), _pieces(optimizer), [json.dumps(state, indent=1, allow_nan=False).encode()])
        for name, pieces in zip(FILES, contents, strict=True):
            manifest["files"][name] = _write_durably(temporary / name, pieces)
        _write_durably(temporary / "manifest.json", [json.dumps(manifest, indent=1).encode()])
        flush(temporary)
        # Aside, not away: a name can only be given to a folder when no other has it.
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
    """Why a checkpoint folder cannot be used, or None when its manifest verifies and its state is of the step that its name says."""
    try:
        verified(folder)
    except ValueError as error:
        return str(error)
    return None


def read(folder: Path) -> Checkpoint:
    """Open a checkpoint folder. Raises UserError with the fault when it does not verify."""
    try:
        return verified(folder)
    except ValueError as error:
        raise UserError(f"the checkpoint cannot be used: {error}", where=str(folder), fix=_OTHER) from error


def verified(folder: Path) -> Checkpoint:
    """Open a checkpoint folder. Raises ValueError with the fault when it does not verify."""
    # Absolute, so that its name is known when `.` was given.
    folder = folder.absolute()
    try:
        return Checkpoint(folder, _verified_state(folder))
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename or folder).name} is missing") from error
    except OSError as error:
        raise ValueError(f"{Path(error.filename or folder).name} cannot be read: {error.strerror}") from error


def _verified_state(folder: Path) -> dict[str, Any]:
    # A link may lead anywhere: what it points to is not part of the run, and may change under it.
    for path, is_kind, kind in (
        (folder.parent, stat.S_ISDIR, "folder"),
        (folder, stat.S_ISDIR, "folder"),
        *((folder / name, stat.S_ISREG, "file") for name in ("manifest.json", *FILES)),
    ):
        mode = path.lstat().st_mode
        if not is_kind(mode):
            raise ValueError(f"{path.name} is {'a symbolic link' if stat.S_ISLNK(mode) else f'no {kind}'}")
    if not _NAME.fullmatch(folder.name):
        raise ValueError("its name is not step_ and eight digits")
    for name, expected in _manifest(folder / "manifest.json").items():
        file = folder / name
        if file.stat().st_size != expected["size"]:
            raise ValueError(f"{name} has {file.stat().st_size} bytes instead of {expected['size']}")
        if _sha256(file) != expected["sha256"]:
            raise ValueError(f"{name} does not match its SHA-256")
    state = parse_json(folder / "state.json")
    step, best = (state.get(key) if isinstance(state, dict) else None for key in ("step", "best_step"))
    # The content of another checkpoint may have come here as a whole.
    if type(step) is not int or step != step_of(folder):
        raise ValueError(f"state.json is of step {str(step)[:20]}, not of {step_of(folder)}")
    if best is not None and (type(best) is not int or not 0 <= best <= step):
        raise ValueError(f"state.json says that step {str(best)[:20]} was the best")
    return dict(state)


def _manifest(file: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file. Raises ValueError unless it names the files of a checkpoint and no other."""
    if file.stat().st_size > _LARGEST_MANIFEST:
        raise ValueError(f"manifest.json has {file.stat().st_size} bytes")
    manifest = parse_json(file)
    if not isinstance(manifest, dict) or manifest.keys() != {"format", "files"}:
        raise ValueError("manifest.json cannot be read: it holds something else")
    if type(manifest["format"]) is not int or manifest["format"] != FORMAT:
        raise ValueError(f"format {str(manifest['format'])[:20]} is not {FORMAT}")
    files = manifest["files"]
    if not isinstance(files, dict) or set(files) != set(FILES):
        raise ValueError(f"manifest.json names {', '.join(map(repr, files))[:80]} instead of {', '.join(FILES)}")
    if any(not isinstance(entry, dict) or entry.keys() != {"size", "sha256"} for entry in files.values()):
        raise ValueError("manifest.json cannot be read: it holds something else")
    return files


def parse_json(file: Path) -> Any:
    """The content of a JSON file. Raises ValueError when it is none, or holds numbers that are not finite or do not fit into 64 bits."""

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"the number {text[:20]}")
        return value

    def whole(text: str) -> int:
        if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
            raise ValueError(f"the number {text[:20]}...")
        return value

    try:
        return json.loads(file.read_bytes(), parse_float=number, parse_constant=number, parse_int=whole)
    except RecursionError as error:
        raise ValueError(f"{file.name} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error


def run_of(path: Path) -> Path:
    """The run folder that `path` is, or whose checkpoint it is. Raises UserError when it is neither, or leads out of itself."""
    if (path / "manifest.json").exists() or path.parent.name == "checkpoints":
        run = path.absolute().parent.parent
        if not (run / "config.yaml").is_file():
            raise UserError(
                "the checkpoint stands outside its run folder: no config.yaml", where=str(run), fix="give the run folder as a whole"
            )
        refuse_links(run)
        return run
    if (path / "config.yaml").is_file():
        refuse_links(path)
        return path
    what = "there is no such folder" if not path.is_dir() else "neither a run folder (config.yaml) nor a checkpoint (manifest.json)"
    raise UserError(what, where=str(path), fix="give a folder that mtl train wrote, runs/<date>_<time>_..., or one of its checkpoints")


def refuse_links(run: Path) -> None:
    """Raise UserError when a run folder holds a symbolic link or a device: reading or writing it would reach outside.

    Those inside `checkpoints/` are checkpoints that do not verify.
    """
    for folder in (run, run / "backbone"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(
                    "is a symbolic link" if stat.S_ISLNK(mode) else "is neither a file nor a folder",
                    where=str(path),
                    fix="a run folder holds files and folders of its own only: remove it, or copy what it leads to in its place",
                )


def folders(checkpoints: Path) -> list[Path]:
    """The checkpoint folders below `checkpoints`, oldest first, verified or not."""
    return [path for path in _named(checkpoints) if path.is_dir() and not path.is_symlink()]


def _named(checkpoints: Path) -> list[Path]:
    """What has the name of a checkpoint, whatever it is, oldest first."""
    return sorted(path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name)) if checkpoints.is_dir() else []


def newest(checkpoints: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that verifies, and a line for each newer one that was skipped.

    Raises UserError when there is none.
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


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_finite(tensor: Tensor) -> bool:
    # A sum is finite only when all it adds up is, and is found ten times as fast; a large one may overflow by itself.
    return not tensor.is_floating_point() or bool(tensor.detach().sum().isfinite()) or bool(tensor.isfinite().all())


def _pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece: the library would hold all of it once or twice more, which is several times the model.

    The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes, the header, filled up with spaces to a
    multiple of 8 bytes, and the tensors, here the widest numbers first, so that all lie aligned.
    """
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_durably(file: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Size and SHA-256 of what was to be written."""
    size, digest = 0, hashlib.sha256()
    with file.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)
            size += len(piece)
            digest.update(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": size, "sha256": digest.hexdigest()}
