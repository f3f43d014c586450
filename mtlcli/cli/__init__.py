"""The command line: `mtl VERB ...`. One file per verb, imported when it is called; this is the only room that knows Hydra."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import mtlcli
from mtlcli.disk import REMEDIES, reason
from mtlcli.errors import MtlError, RunError, UserError
from mtlcli.registry import suggest
from mtlcli.runner.launched import read_launch

VERBS = {
    "train": "compose a configuration, run it, write a run folder; -m for a sweep",
    "eval": "evaluate a run folder or one of its checkpoints",
    "tasks": "list tasks, suites and the other groups, or show one task",
    "completion": "print the script that completes command lines in bash, zsh or fish",
}

HELP = """\
mtl: train one model on several language tasks

usage: mtl VERB [...]

{verbs}

mtl VERB --help says more about a verb, mtl --version tells the version.
The main job: mtl train task=glue_multi sharing=hard
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 the input is wrong, 1 a failure, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except MtlError as error:
        if os.environ.get("MTL_DEBUG") == "1":
            raise
        _tell(argv, error)
        return error.exit_code
    except KeyboardInterrupt:
        if first_rank():
            print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: there is nobody left to tell.
        _close_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in REMEDIES or os.environ.get("MTL_DEBUG") == "1":
            raise
        # The disk, in a place that says nothing more of it, such as a library's own files.
        place = Path(error.filename) if isinstance(error.filename, str) else Path.cwd()
        named = str(place) if isinstance(error.filename, str) else ""
        _tell(argv, RunError(reason(error, place), where=named, fix=REMEDIES[error.errno]))
        return RunError.exit_code


def _tell(argv: list[str], error: MtlError) -> None:
    """Show an error to the user."""
    if first_rank():
        print(block(f"mtl {argv[0]}" if argv and argv[0] in VERBS else "mtl", error), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        # Output that goes into a file on a full disk: what is left of it would fail again when Python ends, with an exit code of its own.
        _close_output()


def _close_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def block(title: str, error: MtlError) -> str:
    """What the user reads about an error: how many problems, and for each of them what, where and what to do."""
    count = len(error.problems)
    lines = [f"{title}: {count} problem{'s' if count > 1 else ''}"]
    for problem in error.problems:
        lines += ["  " + line for line in str(problem).splitlines()]
    return "\n".join(lines)


def first_rank() -> bool:
    """Whether this process talks to the user: under torchrun or SLURM only rank 0 does."""
    try:
        launch = read_launch()
    except UserError:
        return True
    return launch is None or launch.rank == 0


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:<12} {about}" for verb, about in VERBS.items())), end="")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb in ("-V", "--version"):
        print(f"mtl {mtlcli.__version__}")
        return 0
    if verb == "--complete":
        from mtlcli.cli.completion import complete_main

        return complete_main(rest)
    if verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'", fix=suggest(verb, VERBS))
    run: Callable[[list[str]], int] = getattr(import_module(f"mtlcli.cli.{verb}"), f"{verb}_main")
    return run(rest)
