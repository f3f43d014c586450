"""The verb `mtl merge RUN... --method M --to DIR`: one model out of runs that were trained
separately."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mtlcli import commands
from mtlcli.cli.eval import import_methods, path_problems
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.disk import obstacle
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.merging.methods import METHODS, OPTIONS, Option
from mtlcli.output import say
from mtlcli.pulse import Pulse
from mtlcli.registry import suggest

HELP = """\
Merge runs that were trained separately into one run folder, without training: one backbone, and the
head of every task.

usage: mtl merge RUN RUN ... --method M --to DIR [options of the method] [-cd DIR]

  mtl merge runs/rte runs/mrpc runs/stsb --method ties --to runs/ties
  mtl merge runs/rte runs/mrpc --method task_arithmetic --scale 0.3 --to runs/sum
  mtl merge runs/rte runs/mrpc --method dare --scale auto --to runs/dare
  mtl merge runs/none --method average --to runs/merged       # the copies of one run

RUN is a run folder (its best checkpoint) or one checkpoint. The runs need the same model and
tokenizer, and should have begun with the same weights: the same pretrained model, or init.from=RUN.
A run with sharing=none has a copy of the backbone for each task, which have begun alike.
The methods with their options, and what these are without being typed:

{methods}

{options}
  auto               the best of a few values, by the average score on rows that all runs have kept
                     out of training (tasks.NAME.splits.calibration); for {auto}
  --to DIR           a new run folder, which mtl eval, predict, export and train init.from=DIR read
  -cd DIR            take the runs' methods from the Python files of this folder; not needed for
                     files that you have used before and that have not changed

No option is ever chosen on the splits that are reported.
"""


def merge_main(argv: list[str]) -> int:
    """Run `mtl merge` and return the exit code."""
    parser = Parser(prog="mtl merge", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--method")
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    for name in OPTIONS:
        parser.add_argument(f"--{name}")
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(help_text(), end="")
        return 0
    if read_launch() is not None:
        what = "a merge is one process, and a launcher has started several"
        raise UserError(what, "mtl merge", "type it without torchrun or srun")
    own: Path | None = arguments.config_dir
    typed = {name: getattr(arguments, name) for name in OPTIONS}
    typed = {name: text for name, text in typed.items() if text is not None}
    problems = [] if own is None else config_dir_problems(own)
    for text in arguments.paths:
        problems += path_problems([text], "mtl merge RUN RUN ...")
    if not arguments.paths:
        problems.append(Problem("no run is given", "RUN", "give the folders of the runs to merge"))
    options, found = read_options(arguments.method, typed)
    problems += found
    if arguments.to is None:
        problems.append(Problem("no folder is given", "--to", "type --to DIR, a new folder"))
    elif why := obstacle(arguments.to, folder=True):
        what = f"the folder cannot be written: {why}"
        problems.append(Problem(what, f"--to {arguments.to}", "give another folder"))
    elif arguments.to.is_dir() and any(arguments.to.iterdir()):
        problems.append(
            Problem("the folder is not empty", f"--to {arguments.to}", "give a new folder")
        )
    if problems:
        raise UserError(problems)
    paths = [typed_path(text, "RUN") for text in arguments.paths]
    # Print this line before the imports, which take seconds.
    say(f"mtl merge: reading {count_of(len(paths), 'run')}")
    for path in paths:
        for line in import_methods(path, own):
            say(line)
    from mtlcli.merging.merge import describe, merge
    from mtlcli.rundir.console import results_table
    from mtlcli.screen import screen

    with Pulse(stderr=True):
        merged = merge(
            paths,
            arguments.to,
            method=arguments.method,
            options=options,
            command=["mtl", "merge", *argv],
            say=say,
        )
    screen().print(results_table(merged.results))
    for line in describe(merged):
        print(line)
    print(f"run folder: {arguments.to}\nevaluate it again: {commands.evaluate(arguments.to)}")
    return 0


def help_text() -> str:
    """Return the text of `mtl merge --help`."""
    methods = []
    for name, method in METHODS.items():
        given = " ".join(f"--{option} {value:g}" for option, value in method.options.items())
        methods.append(f"  {name:<17}{method.about}" + (f"\n{'':19}{given}" if given else ""))
    options = [f"  {f'--{name} X':<19}{option.about}" for name, option in OPTIONS.items()]
    auto = " and ".join(f"--{name}" for name, option in OPTIONS.items() if option.grid)
    return HELP.format(methods="\n".join(methods), options="\n".join(options), auto=auto)


def read_options(method: str | None, typed: dict[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values of the options that were typed, and the problems with them and the
    method."""
    if method not in METHODS:
        what = "no method is given" if method is None else f"unknown method '{method}'"
        return {}, [Problem(what, "--method", suggest(method or "", METHODS))]
    values: dict[str, Any] = {}
    problems = []
    for name, text in typed.items():
        if name not in METHODS[method].options:
            known = ", ".join(f"--{each}" for each in METHODS[method].options) or "none"
            what = f"the option has no effect with --method {method}, whose options are: {known}"
            problems.append(Problem(what, f"--{name}", "take it out"))
            continue
        option = OPTIONS[name]
        if text == "auto" and option.grid and method != "adamerging":
            values[name] = "auto"
            continue
        values[name] = _number(text, option)
        if values[name] is None:
            what = f"must be {_kind(option)} from {option.low:g} to {option.high:g}, found '{text}'"
            fix = "type a number" + (", or auto" if option.grid and method != "adamerging" else "")
            problems.append(Problem(what, f"--{name}", fix))
    return values, problems


def _kind(option: Option) -> str:
    return "a whole number" if option.whole else "a number"


def _number(text: str, option: Option) -> float | None:
    """Return the value that a text has for an option; None if it has none."""
    try:
        value = int(text) if option.whole else float(text)
    except ValueError:
        return None
    return value if option.low <= value <= option.high else None
