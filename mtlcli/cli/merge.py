"""The verb `mtl merge RUN... --method M --to DIR`: one model out of runs that were trained
separately."""

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
from mtlcli.config.paths import typed_path
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.merging.methods import METHODS, OPTIONS
from mtlcli.output import say
from mtlcli.pulse import Pulse

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
    arguments = read_arguments("merge", argv, OPTIONS)
    if arguments.help:
        print(help_text(), end="")
        return 0
    refuse_launch("merge", "a merge")
    own: Path | None = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    for text in arguments.paths:
        problems += path_problems([text], "mtl merge RUN RUN ...")
    if not arguments.paths:
        problems.append(Problem("no run is given", "RUN", "give the folders of the runs to merge"))
    options, found = read_options(arguments.method, arguments.typed, METHODS, OPTIONS)
    problems += found
    problems += new_folder_problems(arguments.to)
    if problems:
        raise UserError(problems)
    paths = [typed_path(text, "RUN") for text in arguments.paths]
    # Print this line before the imports, which take seconds.
    say(f"mtl merge: reading {count_of(len(paths), 'run')}")
    for path in paths:
        for line in import_methods(path, own):
            say(line)
    from mtlcli.merging.merge import describe, merge

    with Pulse(stderr=True):
        merged = merge(
            paths,
            arguments.to,
            method=arguments.method,
            options=options,
            command=["mtl", "merge", *argv],
            say=say,
        )
    show_made(merged.results, describe(merged), arguments.to)
    return 0


def help_text() -> str:
    """Return the text of `mtl merge --help`."""
    methods, options = methods_help(METHODS, OPTIONS)
    auto = " and ".join(f"--{name}" for name, option in OPTIONS.items() if option.grid)
    return HELP.format(methods=methods, options=options, auto=auto)
