"""Saving beside the training: the state is copied, then written by a thread; at most one save is under way."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from mtlcli import checkpoint
from mtlcli.disk import writing
from mtlcli.errors import RunError


class Saver:
    """Writes checkpoints below a folder and deletes old ones. What goes wrong is raised by the next call of any method."""

    def __init__(self, checkpoints: Path, keep: int) -> None:
        self._checkpoints = checkpoints
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "save")
        self._running: Future[None] | None = None

    def save(self, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any], *, best: int | None) -> None:
        """Copy everything and begin to write it. Waits for the save before. `best`: a step that is kept whatever its age."""
        self.wait()
        copies = [{name: tensor.detach().to("cpu", copy=True) for name, tensor in part.items()} for part in (model, optimizer)]
        self._running = self._thread.submit(self._write, copies[0], copies[1], state, best)

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def check(self) -> None:
        """Raise what has gone wrong so far, without waiting."""
        if self._running is not None and self._running.done():
            self.wait()

    def _write(self, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any], best: int | None) -> None:
        folder = checkpoint.write(self._checkpoints, model, optimizer, state)
        with writing("the checkpoints", self._checkpoints, f"then go on: mtl train resume={self._checkpoints.parent}"):
            self._settle(folder, state["step"], best)

    def _settle(self, folder: Path, step: int, best: int | None) -> None:
        """Make sure of the new checkpoint; only now that it is known to be good do older ones go."""
        found = checkpoint.fault(folder)
        if found is not None:
            raise RunError(f"the checkpoint did not read back as it was written: {found}", where=str(folder), fix="look at the disk")
        steps = [checkpoint.step_of(path) for path in checkpoint.folders(self._checkpoints)]
        newest = [each for each in steps if each <= step][-self._keep :]
        checkpoint.keep(self._checkpoints, {*newest, *([] if best is None else [best])})
