"""A run that ends too early: what its folder says, and whether the folder stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mtlcli.errors import Interrupted, MtlError, RunError, UserError
from mtlcli.rundir.folder import RunFolder


@contextmanager
def undone_on_failure(folder: RunFolder) -> Iterator[None]:
    """Begin a run inside the context: after an error, no lock is held. When the disk has failed,
    which is a UserError before the first step, the new folder is deleted."""
    try:
        yield
    except RunError as error:
        _note_end(folder, "failed", str(error), error)
        folder.discard()
        raise UserError(error.problems) from error
    except BaseException as error:
        _note_end(folder, "failed", f"{type(error).__name__}: {error}", error)
        folder.lock.release()
        raise


@contextmanager
def held_to_the_end(folder: RunFolder) -> Iterator[None]:
    """Train inside the context: an error is written into status.json, and the lock is released at
    the end.

    The folder is deleted when the user's input was wrong and the run has not begun.
    """
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        _note_end(folder, "interrupted", str(error) or "interrupted by the user", error)
        raise
    except BaseException as error:
        _note_end(folder, "failed", f"{type(error).__name__}: {error}", error)
        if isinstance(error, UserError):
            folder.discard_unused()
        raise
    finally:
        folder.lock.release()


def _note_end(folder: RunFolder, status: str, reason: str, error: BaseException) -> None:
    """Write the status of a run that did not finish. A failure to write it is reported after the
    error, never instead of the error."""
    try:
        folder.note_end(status, reason)
    except RunError as unwritten:
        if isinstance(error, MtlError):
            error.problems += unwritten.problems
        else:
            error.add_note(str(unwritten))
