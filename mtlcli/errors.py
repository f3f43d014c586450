"""The errors that are explained to the user, and the exit code of each kind. Any other exception is
a bug and keeps its traceback."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any


def count_of(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, as in `1 job` and `2 batches`. `nouns`: the plural, if it is
    not made with -s or -es."""
    plural = nouns or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


EXIT_CODES = {signal.SIGINT: 130, signal.SIGHUP: 129}
"""Exit codes of a run that a signal has stopped, by signal; 143 for all other signals."""


@dataclass(frozen=True)
class Problem:
    """One mistake or failure, in the words that the user reads."""

    what: str
    """The mistake, with the value that was found."""
    where: str = ""
    """The key, the file and row, or the path with the mistake."""
    fix: str = ""
    """The remedy: the nearest name, the allowed values, the command to type."""
    brief: str = ""
    """A short form of `what`, for a line that sums up many problems; empty: `what` itself."""

    def of_task(self, name: str) -> Problem:
        """Return the problem with the task's name, unless its key names the task already."""
        return (
            self
            if self.where.startswith(f"tasks.{name}.")
            else replace(self, what=f"task {name}: {self.what}")
        )

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n    -> {self.fix}" if self.fix else head


class MtlError(Exception):
    """A failure that the user sees as one block of text instead of a traceback."""

    exit_code = 1

    def __init__(
        self, problems: Problem | Iterable[Problem] | str, where: str = "", fix: str = ""
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, where, fix)
        self.problems: list[Problem] = (
            [problems] if isinstance(problems, Problem) else list(dict.fromkeys(problems))
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def report(self) -> dict[str, Any]:
        """Return the error as JSON values, for another process: see `reported_problems`."""
        failed = [astuple(problem) for problem in self.problems]
        return {"failed": failed, "by_user": isinstance(self, UserError)}


def reported_problems(report: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of an error that another process has reported."""
    return [Problem(*values) for values in report["failed"]]


class UserError(MtlError):
    """A mistake in the user's input (configuration, data, path): nothing was started, nothing is
    lost."""

    exit_code = 2


class RunError(MtlError):
    """A failure of a run that was under way."""

    exit_code = 1


class NotFinite(RunError):
    """A loss, a gradient or an output of the model that is not finite."""


class Interrupted(MtlError):
    """A stop of a run at the request of a signal; a checkpoint was written, if there was anything
    to save."""

    def __init__(self, number: int, step: int | None = None, command: str = "") -> None:
        """Name the signal `number` and the way to continue.

        `step`: the step that was saved, from which `command` resumes the run; None: the run had not
        begun.
        """
        if step is None:
            what, fix = "before the run began: nothing was written", "type the same command again"
        else:
            what, fix = f"and saved at step {step}", f"go on with: {command}"
        super().__init__(f"interrupted by {signal.Signals(number).name} {what}", fix=fix)
        self.number, self.step = number, step
        self.exit_code = EXIT_CODES.get(signal.Signals(number), 143)

    def go_on_with(self, command: str) -> None:
        """Name `command` as the way to continue: that of the sweep, for example, to which the run
        belongs."""
        self.problems = [
            replace(problem, fix=f"go on with: {command}") for problem in self.problems
        ]


class RunWarning(RuntimeWarning):
    """A fault in a run that continues all the same; shown on the console and kept in log.txt."""


def panicked(error: BaseException) -> bool:
    """Return whether an error is a panic of a library in Rust, for which the library has no
    Exception class."""
    return type(error).__name__ == "PanicException"
