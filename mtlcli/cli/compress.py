"""The verb `mtl compress RUN --method M --to DIR`: a smaller model out of a run."""

from __future__ import annotations

from pathlib import Path

from mtlcli.cli.derived import (
    methods_help,
    new_folder_problems,
    read_arguments,
    read_options,
    refuse_launch,
    show_made,
)
from mtlcli.cli.eval import import_methods, path_problems
from mtlcli.cli.typed import config_dir_problems
from mtlcli.compression.methods import METHODS, OPTIONS
from mtlcli.config.paths import typed_path
from mtlcli.errors import UserError
from mtlcli.output import say
from mtlcli.pulse import Pulse

HELP = """\
Make a smaller model out of a run, without training, and compare both: size, speed, and the score of
each task.

usage: mtl compress RUN --method M --to DIR [options of the method] [-cd DIR]

  mtl compress runs/NAME --method int8 --to runs/int8
  mtl compress runs/NAME --method heads --remove 0.25 --to runs/pruned
  mtl train task=rte init.from=runs/pruned        # recover by training

RUN is a run folder (its best checkpoint) or one checkpoint. The methods with their options, and
what these are without being typed:

{methods}

{options}
  --to DIR           a new run folder, which mtl eval, predict and serve read; without heads, also
                     mtl export and train init.from=DIR, which cannot use matrices in 8 bits
  -cd DIR            take the run's methods from the Python files of this folder; not needed for
                     files that you have used before and that have not changed

A model with fewer layers, which learns from trained ones: mtl train init.from=RUN init.layers=...
augmentation=distill
"""


def compress_main(argv: list[str]) -> int:
    """Run `mtl compress` and return the exit code."""
    arguments = read_arguments("compress", argv, OPTIONS)
    if arguments.help:
        print(help_text(), end="")
        return 0
    refuse_launch("compress", "a compression")
    own: Path | None = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    problems += path_problems(arguments.paths, "mtl compress RUN")
    options, found = read_options(arguments.method, arguments.typed, METHODS, OPTIONS)
    problems += found + new_folder_problems(arguments.to)
    if problems:
        raise UserError(problems)
    path = typed_path(arguments.paths[0], "RUN")
    # Print this line before the imports, which take seconds.
    say(f"mtl compress: reading {path}")
    for line in import_methods(path, own):
        say(line)
    from mtlcli.compression.compress import compress, describe

    with Pulse(stderr=True):
        results = compress(
            path,
            arguments.to,
            method=arguments.method,
            options=options,
            command=["mtl", "compress", *argv],
            say=say,
        )
    show_made(results, describe(results), arguments.to)
    return 0


def help_text() -> str:
    """Return the text of `mtl compress --help`."""
    methods, options = methods_help(METHODS, OPTIONS)
    return HELP.format(methods=methods, options=options)
