"""What `mtl merge` and `mtl compress` have in common on the command line: a method with options,
and the new folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mtlcli import commands
from mtlcli.cli.parser import Parser
from mtlcli.config.paths import typed_path
from mtlcli.disk import obstacle
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Problem, UserError
from mtlcli.merging.methods import Option
from mtlcli.registry import suggest


class Method(Protocol):
    """What has to be known about a method."""

    @property
    def about(self) -> str:
        """What it does, in one line."""
        ...

    @property
    def options(self) -> dict[str, float]:
        """Its options, each with its default."""
        ...


def read_arguments(
    verb: str, argv: Sequence[str], options: Mapping[str, Option]
) -> argparse.Namespace:
    """Read a command line. `typed` of the result holds the options of methods that were typed."""
    parser = Parser(prog=f"mtl {verb}", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--method")
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    for name in options:
        parser.add_argument(f"--{name}")
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_intermixed_args(list(argv))
    given = {name: getattr(arguments, name) for name in options}
    arguments.typed = {name: text for name, text in given.items() if text is not None}
    return arguments


def refuse_launch(verb: str, what: str) -> None:
    """Raise UserError where a launcher has started several processes. `what`: the work, with its
    article."""
    if read_launch() is not None:
        why = f"{what} is one process, and a launcher has started several"
        raise UserError(why, f"mtl {verb}", "type it without torchrun or srun")


def show_made(results: dict[str, Any], lines: Iterable[str], to: Path) -> None:
    """Print the table of the new run, lines about it, and what to do with it."""
    from mtlcli.rundir.console import results_table
    from mtlcli.screen import screen

    screen().print(results_table(results))
    for line in lines:
        print(line)
    print(f"run folder: {to}\nevaluate it again: {commands.evaluate(to)}")


def methods_help(methods: Mapping[str, Method], options: Mapping[str, Option]) -> tuple[str, str]:
    """Return the lines of a help text about methods and about their options."""
    about = []
    for name, method in methods.items():
        given = " ".join(f"--{option} {value:g}" for option, value in method.options.items())
        about.append(f"  {name:<17}{method.about}" + (f"\n{'':19}{given}" if given else ""))
    lines = [f"  {f'--{name} X':<19}{option.about}" for name, option in options.items()]
    return "\n".join(about), "\n".join(lines)


def read_options(
    method: str | None,
    typed: dict[str, str],
    methods: Mapping[str, Method],
    options: Mapping[str, Option],
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values of the options that were typed, and the problems with them and the
    method."""
    if method is None or method not in methods:
        what = "no method is given" if method is None else f"unknown method '{method}'"
        return {}, [Problem(what, "--method", suggest(method or "", methods))]
    values: dict[str, Any] = {}
    problems = []
    for name, text in typed.items():
        if name not in methods[method].options:
            known = ", ".join(f"--{each}" for each in methods[method].options) or "none"
            what = f"the option has no effect with --method {method}, whose options are: {known}"
            problems.append(Problem(what, f"--{name}", "take it out"))
            continue
        option = options[name]
        if text == "auto" and option.grid and method != "adamerging":
            values[name] = "auto"
            continue
        values[name] = _number(text, option)
        if values[name] is None:
            what = f"must be {_kind(option)} from {option.low:g} to {option.high:g}, found '{text}'"
            fix = "type a number" + (", or auto" if option.grid and method != "adamerging" else "")
            problems.append(Problem(what, f"--{name}", fix))
    return values, problems


def new_folder_problems(to: Path | None) -> list[Problem]:
    """Return the problems with the folder of `--to`, which has to be a new one."""
    if to is None:
        return [Problem("no folder is given", "--to", "type --to DIR, a new folder")]
    if why := obstacle(to, folder=True):
        what = f"the folder cannot be written: {why}"
        return [Problem(what, f"--to {to}", "give another folder")]
    if to.is_dir() and any(to.iterdir()):
        return [Problem("the folder is not empty", f"--to {to}", "give a new folder")]
    return []


def _kind(option: Option) -> str:
    return "a whole number" if option.whole else "a number"


def _number(text: str, option: Option) -> float | None:
    """Return the value that a text has for an option; None if it has none."""
    try:
        value = int(text) if option.whole else float(text)
    except ValueError:
        return None
    return value if option.low <= value <= option.high else None
