"""Saving beside the training: the state is copied, then written by a thread; at most one save is
under way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mtlcli import commands
from mtlcli.rundir import checkpoint
from mtlcli.rundir.checkpoint.rotation import drop_aside, retain

if TYPE_CHECKING:
    from torch import Tensor
from mtlcli.disk import writing
from mtlcli.errors import RunError, RunWarning


class Saver:
    """Writes checkpoints below a folder and deletes old ones. What goes wrong is raised by the next
    call of any method.

    Within it as a context, whatever ends the training, a save that is under way is finished before
    anyone hears of it: the newest checkpoint is what the run goes on from, and the folder may have
    another owner next.
    """

    def __init__(self, checkpoints: Path, keep: int) -> None:
        self._checkpoints = checkpoints
        self._keep = keep
        self.config = ""
        """The text of config.yaml, of which every checkpoint holds a copy."""
        self.around: dict[str, str] | None = None
        """SHA-256 of the run's other files, as `checkpoint.digests` gave it before the first
        step."""
        self._thread = ThreadPoolExecutor(1, "save")
        self._running: Future[None] | None = None
        self._copies: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

        self._told: set[str] = set()
        self.when_saved: Callable[[int], None] | None = None
        """Called once, with the step of the first checkpoint that is in its place."""

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except RunError as failure:
            if error is None:
                raise
            warnings.warn(str(failure), RunWarning, stacklevel=1)
        finally:
            self._thread.shutdown()

    def save(
        self,
        model: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        *,
        best: int | None,
    ) -> None:
        """Copy everything and begin to write it. Waits for the save before. `best`: a step that is
        kept whatever its age."""
        self.wait()
        self._copies = _copy(model, self._copies[0]), _copy(optimizer, self._copies[1])
        self._running = self._thread.submit(self._write, *self._copies, state, best)

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def check(self) -> None:
        """Raise what has gone wrong so far, without waiting."""
        if not self.busy:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._running is not None and not self._running.done()

    def _write(
        self,
        model: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        best: int | None,
    ) -> None:
        folder = checkpoint.write(
            self._checkpoints, model, optimizer, state, config=self.config, around=self.around
        )
        with writing(
            "the checkpoints",
            self._checkpoints,
            f"then go on: {commands.resume(self._checkpoints.parent)}",
        ):
            self._settle(folder, state["step"], best)

    def _settle(self, folder: Path, step: int, best: int | None) -> None:
        """Make sure of the new checkpoint; only now that it is known to be good do older ones
        go."""
        found = checkpoint.fault(folder)
        if found is not None:
            raise RunError(
                f"the checkpoint did not read back as it was written: {found}",
                where=str(folder),
                fix="look at the disk",
            )
        if self.when_saved is not None:
            self.when_saved(step)
            self.when_saved = None
        retain(self._checkpoints, step, self._keep, best=best)
        for line in drop_aside(self._checkpoints):
            if line not in self._told:
                self._told.add(line)
                warnings.warn(line, RunWarning, stacklevel=1)


def _copy(tensors: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, in the memory of the copies `before` where it fits: new memory takes
    several times as long as the copying."""
    copies = {}
    for name, tensor in tensors.items():
        copy = before.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = tensor.new_empty(tensor.shape, device="cpu")
        copies[name] = copy.copy_(tensor.detach())
    return copies
