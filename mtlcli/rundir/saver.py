"""Saving beside the training: the state is copied, then a thread writes the copy; at most one save
is under way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
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
    """Writer of checkpoints below a folder, which also deletes old ones. An error of the writing
    thread is raised by the next call of any method.

    On leaving the context, a save that is under way is finished before any error leaves it: the run
    resumes from the newest checkpoint, and another process may hold the folder lock next.
    """

    def __init__(self, checkpoints: Path, keep: int) -> None:
        self._checkpoints = checkpoints
        self._keep = keep
        self.config = ""
        """The text of config.yaml; every checkpoint holds a copy."""
        self.around: dict[str, str] | None = None
        """SHA-256 of the run's other files, as `checkpoint.digests` returned them before the first
        step."""
        self._thread = ThreadPoolExecutor(1, "save")
        self._running: Future[None] | None = None
        self._copies: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

        self._warned: set[str] = set()
        self.when_saved: Callable[[int], None] | None = None
        """Function that is called once, with the step of the first checkpoint that is complete."""

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
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: dict[str, Any],
        *,
        best: int | None,
    ) -> None:
        """Copy the model, optimizer and state, and begin to write them. Waits for the previous
        save. `best`: a step whose checkpoint is kept whatever its age."""
        self.wait()
        self._copies = _copy(model, self._copies[0]), _copy(optimizer, self._copies[1])
        self._running = self._thread.submit(self._write, *self._copies, state, best)

    def wait(self) -> None:
        """Wait until the save that is under way is complete."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def check(self) -> None:
        """Raise the error of the last save if it has ended, without waiting."""
        if not self.busy:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
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
        """Verify the new checkpoint, and only then delete older ones."""
        found = checkpoint.fault(folder)
        if found is not None:
            raise RunError(
                f"the checkpoint did not read back as it was written: {found}",
                where=str(folder),
                fix="check the disk",
            )
        if self.when_saved is not None:
            self.when_saved(step)
            self.when_saved = None
        retain(self._checkpoints, step, self._keep, best=best)
        for line in drop_aside(self._checkpoints):
            if line not in self._warned:
                self._warned.add(line)
                warnings.warn(line, RunWarning, stacklevel=1)


def _copy(tensors: Mapping[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU. They reuse the memory of the copies `before` where shape and dtype
    agree, because new memory takes several times as long as the copying."""
    copies = {}
    for name, tensor in tensors.items():
        copy = before.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = tensor.new_empty(tensor.shape, device="cpu")
        copies[name] = copy.copy_(tensor.detach())
    return copies
