"""The report of a rank to the launcher of this program: `done` with the results, `interrupted`, or
`failed` with the problems.

It lies in an open file, from which the rank first reads what the launcher hands over.
"""

from __future__ import annotations

import json
import os
import traceback
from typing import IO, Any

from mtlcli.errors import Interrupted, MtlError, RunError


class Report:
    """The report, as the rank writes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.handed_over: Any = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        """The JSON value that the launcher hands over."""
        self.outcome: dict[str, Any] = {}
        """What has been reported."""

    def write(self, outcome: dict[str, Any]) -> None:
        """Report an outcome, unless there is one already: errors while leaving the process group
        follow from the first."""
        if not self.outcome:
            self.outcome = outcome
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            with os.fdopen(self._descriptor, "w", encoding="utf-8") as stream:
                json.dump(outcome, stream)

    def write_error(self, error: Exception) -> None:
        """Report that an error has ended the rank."""
        self.write(_outcome_of(error))


def _outcome_of(error: Exception) -> dict[str, Any]:
    if isinstance(error, Interrupted):
        return {"interrupted": [error.number, error.step]}
    if isinstance(error, MtlError):
        return error.report()
    from mtlcli.distributed.process_group import is_lost_rank, lost_rank_text

    lost = is_lost_rank(error)
    failure = RunError(lost_rank_text(error) if lost else f"{type(error).__name__}: {error}")
    return failure.report() | {"lost_rank": lost, "traceback": traceback.format_exc()}


def read_report(file: IO[bytes]) -> dict[str, Any]:
    """Return the report in a file; empty when the rank was killed and has left none or part of one,
    so that only its exit code shows the reason."""
    file.seek(0)
    try:
        report = json.loads(file.read())
    except ValueError:
        return {}
    return report if report and report.keys() & {"done", "interrupted", "failed"} else {}
