"""What can go wrong, and the exit code of each kind. Anything that is not an MtlError is a bug and
keeps its traceback."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace


def count_of(number: int, noun: str, nouns: str = "") -> str:
    """A number with its noun, as in `1 job` and `2 batches`. `nouns`: the plural, if it is not made
    with -s or -es."""
    plural = nouns or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


EXIT_CODES = {signal.SIGINT: 130, signal.SIGHUP: 129}
"""Exit codes of a run that a signal has stopped; 143 for all other signals."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the words the user reads."""

    what: str
    """What is wrong, with the value that was found."""
    where: str = ""
    """The key, file and row, or path it concerns."""
    fix: str = ""
    """What to do about it: the nearest name, the allowed values, the command to type."""
    brief: str = ""
    """The same in a few words, where many are summed up in a line; empty: as `what`."""

    def of_task(self, name: str) -> Problem:
        """The same, naming the task it concerns, unless its key does so already."""
        return (
            self
            if self.where.startswith(f"tasks.{name}.")
            else replace(self, what=f"task {name}: {self.what}")
        )

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n    -> {self.fix}" if self.fix else head


class MtlError(Exception):
    """A failure that is explained to the user in one block instead of a traceback."""

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


class UserError(MtlError):
    """The user's input is wrong (configuration, data, path): nothing was started, nothing is
    lost."""

    exit_code = 2


class RunError(MtlError):
    """A run that was under way could not go on."""

    exit_code = 1


class NotFinite(RunError):
    """A loss, a gradient or an output of the model is not finite."""


class Interrupted(MtlError):
    """A run stopped because a signal asked it to; a checkpoint was written, if there was anything
    to save."""

    def __init__(self, number: int, step: int | None = None, command: str = "") -> None:
        """`step`: what was saved, and `command` goes on from there; None: the run had not begun."""
        if step is None:
            what, fix = "before the run began: nothing was written", "type the same command again"
        else:
            what, fix = f"and saved at step {step}", f"go on with: {command}"
        super().__init__(f"interrupted by {signal.Signals(number).name} {what}", fix=fix)
        self.number, self.step = number, step
        self.exit_code = EXIT_CODES.get(signal.Signals(number), 143)


class RunWarning(RuntimeWarning):
    """Something went wrong in a run that goes on; shown on the console and kept in log.txt."""


def panicked(error: BaseException) -> bool:
    """Whether a library in Rust has failed in a way that it does not expect, for which it has no
    Exception."""
    return type(error).__name__ == "PanicException"
