"""The verb `mtl push PATH --to NAME`: upload an exported model to the Hugging Face hub. Nothing
else uploads anything."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from mtlcli.cli.eval import import_methods, path_problems
from mtlcli.cli.export import format_problems
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.errors import Problem, UserError
from mtlcli.output import say
from mtlcli.pulse import Pulse

HELP = """\
Upload an exported model to the Hugging Face hub.

usage: mtl push PATH --to OWNER/NAME [--public] [--message TEXT]
                [--task T] [--format hf|onnx|safetensors] [--int8] [--license ID] [-cd DIR]

  mtl push rte --to me/rte                       # a folder that mtl export wrote, as it is
  mtl push runs/NAME --task rte --to me/rte      # a run: it is exported first

  --to OWNER/NAME    the repository; a new one is private
  --public           make a new repository public
  --message TEXT     the message of the commit
  the rest           as in mtl export, where PATH is a run

You have to be logged in: type hf auth login, or set HF_TOKEN. HF_ENDPOINT names another hub.
"""


def push_main(argv: list[str]) -> int:
    """Run `mtl push` and return the exit code."""
    parser = Parser(prog="mtl push", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--to")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--message")
    parser.add_argument("--task")
    parser.add_argument("--format")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--license")
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    exported = len(arguments.paths) == 1 and is_exported(typed_path(arguments.paths[0], "PATH"))
    own: Path | None = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    if exported:
        problems += [
            Problem(
                "the option has no effect on a folder that mtl export wrote", option, "take it out"
            )
            for option, value in (
                ("--task", arguments.task),
                ("--format", arguments.format),
                ("--int8", arguments.int8),
                ("--license", arguments.license),
                ("-cd", own),
            )
            if value
        ]
    else:
        problems += path_problems(arguments.paths, "mtl push PATH")
        problems += format_problems(arguments.format or "hf", int8=arguments.int8)
    if arguments.to is None:
        problems.append(Problem("no repository is given", "--to", "type --to OWNER/NAME"))
    if problems:
        raise UserError(problems)
    path = typed_path(arguments.paths[0], "PATH")

    say(f"mtl push: reading {path}")
    from mtlcli.export.push import Hub

    with Pulse(stderr=True):
        # Ask the hub first: an export may take minutes.
        hub = Hub(arguments.to)
        if exported:
            place = hub.upload(path, public=arguments.public, message=arguments.message)
        else:
            for line in import_methods(path, own):
                say(line)
            from mtlcli.export.export import export

            with tempfile.TemporaryDirectory() as folder:
                to = Path(folder) / "model"
                made = export(
                    path,
                    to,
                    task=arguments.task,
                    format=arguments.format or "hf",
                    int8=arguments.int8,
                    license=arguments.license,
                    say=say,
                )
                for line in made.lines:
                    say(line)
                place = hub.upload(to, public=arguments.public, message=arguments.message)
    print(f"uploaded: {place}")
    return 0


def is_exported(path: Path) -> bool:
    """Return whether a folder is one that `mtl export` wrote."""
    return (path / "mtl_export.json").is_file()
