"""The arguments of `mtl train`: Hydra's own options, and overrides."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.errors import Problem, UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        option = unknown.split()[0] if unknown != message else ""
        what = f"unknown option '{option}'" if option else message
        fix = "type values as key=value, for example task=rte; mtl train --help lists the options"
        if option.partition("=")[0] == "--seeds":
            fix = "type -m seed=0,1,2: a run, or with stages all of them, for each seed"
        raise UserError(what, fix=fix)


def read_arguments(argv: list[str]) -> argparse.Namespace:
    """Read Hydra's own options and overrides, in any order. Raises UserError for an unknown
    option."""
    hydras = get_args_parser()
    hydras.__class__ = _Parser
    arguments = hydras.parse_intermixed_args(argv)
    instead = "use -cd DIR and key=value"
    refused = {
        "--config-path": (arguments.config_path, instead),
        "--config-name": (arguments.config_name, instead),
        "--experimental-rerun": (arguments.experimental_rerun, instead),
        "--shell-completion": (
            arguments.shell_completion or None,
            "mtl completion bash, zsh or fish prints mtl's own",
        ),
    }
    problems = [
        Problem("the option is not supported", option, fix)
        for option, (value, fix) in refused.items()
        if value is not None
    ]
    commands = [
        option
        for option, given in {
            "--multirun": arguments.multirun,
            "--cfg": arguments.cfg,
            "--info": arguments.info,
            "--run": arguments.run,
        }.items()
        if given
    ]
    if len(commands) > 1:
        problems.append(
            Problem(f"{' and '.join(commands)} cannot be combined", fix="give one of them")
        )
    if arguments.resolve and not (arguments.cfg or arguments.help):
        problems.append(Problem("the option shows nothing by itself", "--resolve", "add --cfg job"))
    if arguments.config_dir is not None:
        arguments.config_dir = str(typed_path(arguments.config_dir, "-cd"))
        problems += config_dir_problems(Path(arguments.config_dir))
    if problems:
        raise UserError(problems)
    return arguments
