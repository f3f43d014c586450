"""The command line: `mtl VERB ...`. There is one file per verb, imported when the verb is called.
This is the only room that knows Hydra."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import mtlcli
from mtlcli import output
from mtlcli.disk import REMEDIES, reason
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import MtlError, RunError, UserError, count_of
from mtlcli.registry import suggest

VERBS = {
    "train": "compose a configuration, run it, write a run folder; -m for a sweep",
    "eval": "evaluate a run folder or one of its checkpoints",
    "compare": "train a baseline and candidates, as far as missing, and say who gains",
    "report": "compare finished runs with a baseline: who gains, by how much, how sure",
    "predict": "label new rows with the model of a run: files, pipes, several tasks at once",
    "serve": "answer over HTTP with the model of a run, with a page to try its tasks",
    "merge": "make one model of runs that were trained separately, without training",
    "compress": "make a smaller model of a run: 8 bits, fewer attention heads",
    "export": "write a task's model for other programs: Hugging Face, ONNX, safetensors",
    "push": "upload an exported model to the Hugging Face hub",
    "new": "write a task file for a file of your own rows: mtl new task FILE",
    "check": "look at a task's rows: sizes, labels, lengths, duplicates, mistakes",
    "tasks": "list tasks, suites and the other groups, or show one task",
    "doctor": "say what this machine has and lacks, and test that training works",
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
    """Run one command line and return its exit code: 0 for success, 2 for wrong input, 1 for a
    failure, 130 after an interruption."""
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
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mtlcli") or os.environ.get("MTL_DEBUG") == "1":
            raise
        fix = "mtl doctor lists what is missing, and how to install it"
        _tell(argv, RunError(f"a package is missing: {error}", fix=fix))
        return RunError.exit_code
    except KeyboardInterrupt:
        if first_rank():
            _write_error("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output (head, less) has gone, so nobody would see a message.
        output.silence(sys.stdout)
        output.silence(sys.stderr)
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and _fails(lambda: print(flush=True)):
            output.silence(sys.stdout)
            what = f"the output cannot be written: {error.strerror}"
            fix = (
                f"{REMEDIES.get(error.errno or 0, 'check the destination')}, or send the output "
                "elsewhere"
            )
            _tell(argv, RunError(what, where="standard output", fix=fix))
            return RunError.exit_code
        if error.errno not in REMEDIES or os.environ.get("MTL_DEBUG") == "1":
            raise
        # This is an error of the disk at a place that has no message of its own, such as the files
        # of a library.
        place = Path(error.filename) if isinstance(error.filename, str) else Path.cwd()
        named = str(place) if isinstance(error.filename, str) else ""
        _tell(argv, RunError(reason(error, place), where=named, fix=REMEDIES[error.errno]))
        return RunError.exit_code


def _tell(argv: list[str], error: MtlError) -> None:
    """Show an error to the user."""
    if first_rank():
        _write_error(block(f"mtl {argv[0]}" if argv and argv[0] in VERBS else "mtl", error))
    if _fails(sys.stdout.flush):
        # The rest of the output would fail again when Python ends, and change the exit code.
        output.silence(sys.stdout)


def _write_error(text: str) -> None:
    """Print a last message. When printing fails, only the exit code remains."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        output.silence(sys.stderr)


def _fails(write: Callable[[], object]) -> bool:
    """Return whether the operation ends with an error of the disk, or of another device behind a
    file."""
    try:
        write()
    except OSError:
        return True
    return False


def block(title: str, error: MtlError) -> str:
    """Return the text that the user reads about an error: the number of problems, and the mistake,
    place and remedy of each."""
    count = len(error.problems)
    lines = [f"{title}: {count_of(count, 'problem')}"]
    for problem in error.problems:
        lines += ["  " + line for line in str(problem).splitlines()]
    return "\n".join(lines)


def first_rank() -> bool:
    """Return whether this process writes messages for the user: under torchrun or SLURM, only rank
    0 does."""
    try:
        launch = read_launch()
    except UserError:
        return True
    return launch is None or launch.rank == 0


def _dispatch(argv: list[str]) -> int:
    _check_characters(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(
            HELP.format(verbs="\n".join(f"  {verb:<12} {about}" for verb, about in VERBS.items())),
            end="",
        )
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


def _check_characters(argv: list[str]) -> None:
    """Raise UserError for a word whose bytes are not text, because no file of a run and no message
    could hold it."""
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            try:
                os.fsencode(word).decode()
            except UnicodeDecodeError:
                fix = "rename the file or folder, or type the word in UTF-8"
                raise UserError(
                    "the bytes of the word are not UTF-8", where=ascii(word), fix=fix
                ) from error
            what = f"the locale's encoding, {sys.getfilesystemencoding()}, lacks its characters"
            raise UserError(
                what, where=ascii(word), fix="set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            ) from error
