"""The verb `mtl eval PATH`: evaluate a run's best checkpoint, or one checkpoint, with the data and
config of its run folder."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from mtlcli import commands
from mtlcli.cli import first_rank
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.changes import refuse_at_evaluation
from mtlcli.config.own_code import import_for_run
from mtlcli.config.paths import typed_path
from mtlcli.config.snapshot import saved_values
from mtlcli.config.validate import check_key
from mtlcli.disk import obstacle, writing
from mtlcli.errors import Problem, UserError
from mtlcli.pulse import Pulse
from mtlcli.rundir.checkpoint import run_of
from mtlcli.rundir.folder import RunFolder
from mtlcli.rundir.place import run_path_problems

HELP = """\
Evaluate a run folder (its best checkpoint) or one checkpoint folder.

usage: mtl eval PATH [--split S] [--task T ...] [--json FILE] [--predictions DIR [--texts]]
                [-cd DIR] [KEY=VALUE ...]

  mtl eval runs/2026-01-31_12-00-00_glue_multi_hard_static
  mtl eval RUN/checkpoints/step_00000120 --task rte mrpc --json scores.json
  mtl eval RUN --split test --task ax --predictions out
  mtl eval RUN data.source=local data.root=DIR runner.eval_batch_size=128
  mtl eval RUN tasks.mine.source.files.new=FILE --split new --predictions out

  --split S          validation (default), test, train, or the name of a split
  --task T ...       only these tasks; default: every task that has the split
  --json FILE        write the scores, in the form of the run folder's results.json
  --predictions DIR  write a line for every row, one file per task: number and id of the row,
                     gold label, prediction, probabilities
  --texts            write the texts of the rows into these files, too
  -cd DIR            take the run's methods from the Python files of this folder; not needed for
                     files that you have used before and that have not changed
  KEY=VALUE          change where rows come from (data, and a task's source, splits, columns,
                     unlabelled, range), what is made of the model's outputs (a task's metrics,
                     max_answer_length, n_best, no_answer_threshold) or what computes them
                     (runner.device, devices, threads, timeout, precision, eval_batch_size,
                     fast);
                     the checkpoint fixes everything else; allow=[FILE] where a file of the run is
                     meant to differ from what the checkpoint was saved with

A limit of rows in the run's configuration (data.max_eval_rows) holds where training has scored the
same split, so that scores are those of results.json. Predictions, and splits that training has not
scored, take every row, unless you type a limit here.
"""


def eval_main(argv: list[str]) -> int:
    """Run `mtl eval` and return the exit code."""
    parser = Parser(prog="mtl eval", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--split")
    parser.add_argument("--task", nargs="+", action="extend", default=[])
    parser.add_argument("--json", type=partial(typed_path, where="--json"))
    parser.add_argument("--predictions", type=partial(typed_path, where="--predictions"))
    parser.add_argument("--texts", action="store_true")
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    # A word with `=` after --task is an override (`--task rte data.root=DIR`), because a task's
    # name has no `=`.
    words = [*arguments.rest, *arguments.task]
    overrides = overrides_among(words)
    paths = [str(typed_path(word, "PATH")) for word in arguments.rest if word not in overrides]
    tasks = [word for word in arguments.task if word not in overrides]
    own: Path | None = arguments.config_dir
    if own is not None and (problems := config_dir_problems(own)):
        raise UserError(problems)
    methods = import_methods(Path(paths[0]), own) if len(paths) == 1 else []
    _check(paths, overrides, arguments.json, arguments.predictions)
    if arguments.texts and arguments.predictions is None:
        raise UserError(
            "the option has no effect without --predictions",
            "--texts",
            "add --predictions DIR, or take it out",
        )

    def say(text: str) -> None:
        if first_rank():
            print(text, file=sys.stderr, flush=True)

    # Print this line before the imports, which take seconds.
    say(f"mtl eval: evaluating {paths[0]}")
    for line in methods:
        say(line)
    from mtlcli.evaluation.saved_run import evaluate_path

    def show(results: dict[str, Any]) -> None:
        if not first_rank():
            return
        from mtlcli.rundir.console import results_table
        from mtlcli.screen import screen

        try:
            if arguments.json is not None:
                with writing("the scores", arguments.json, "then evaluate again"):
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    arguments.json.write_text(
                        json.dumps(results, indent=2) + "\n", encoding="utf-8"
                    )
        finally:
            screen().print(results_table(results, whole="the file of --json"))

    with Pulse(stderr=True) if first_rank() else nullcontext():
        evaluate_path(
            Path(paths[0]),
            split=arguments.split,
            tasks=tasks,
            overrides=overrides,
            scores_file=arguments.json,
            predictions=arguments.predictions,
            texts=arguments.texts,
            say=say,
            show=show,
        )
    return 0


def _check(paths: list[str], overrides: list[str], file: Path | None, folder: Path | None) -> None:
    """Raise UserError for every mistake that can be found before the checkpoint is read."""
    problems = []
    values = None
    problems += path_problems([Path(path) for path in paths], "mtl eval PATH")
    if len(paths) == 1:
        values = saved_of(Path(paths[0]))
    problems += override_problems(overrides, values)
    if file is not None and (why := obstacle(file, folder=False)):
        problems.append(
            Problem(
                f"the file cannot be written: {why}",
                f"--json {file}",
                "give a file in a folder that you can write to",
            )
        )
    if folder is not None and (why := obstacle(folder, folder=True)):
        problems.append(
            Problem(
                f"the folder cannot be written: {why}",
                f"--predictions {folder}",
                "give a folder that you can write to",
            )
        )
    if problems:
        raise UserError(problems)


def overrides_among(words: list[str]) -> list[str]:
    """Return the words that set a value, or take one out (`~tasks.NAME`). A word with `=` that is
    an existing path does not."""
    # Use os.path, because Path.exists raises OSError for a name that is too long.
    return [
        word
        for word in words
        if ("=" in word and not os.path.exists(word)) or re.fullmatch(r"~[\w.]+", word)  # noqa: PTH110
    ]


def override_problems(overrides: list[str], values: dict[str, Any] | None) -> list[Problem]:
    """Return problems of the settings that an evaluation cannot change. `values`: those of the run,
    if they can be read."""
    problems = []
    for override in overrides:
        key = override.partition("=")[0]
        if key.lstrip("+~") != key:
            problems.append(Problem("change values with key=value here, without + and ~", key))
        elif problem := (
            check_key(key, values) if values and key != "task" else None
        ) or refuse_at_evaluation(key):
            problems.append(problem)
    return problems


def import_methods(path: Path, own: Path | None) -> list[str]:
    """Import the user's own methods that the run of `path` needs, and return lines about them; see
    `import_for_run`. `own`: the folder behind `-cd`."""
    try:
        run = run_of(path)
    except UserError:  # It is reported together with the other mistakes.
        return []
    return import_for_run(run, RunFolder(run).methods(), own, commands.evaluate(path))


def saved_of(path: Path) -> dict[str, Any] | None:
    """Return the configuration of the run that `path` is in; None when the configuration cannot be
    read, which is reported when the run is opened."""
    try:
        return saved_values(run_of(path) / "config.yaml")
    except UserError:
        return None


def path_problems(paths: Sequence[Path | str], usage: str) -> list[Problem]:
    """Return the problems with the path of a run, of which there has to be one. A text is what the
    user has typed. `usage`: how the command is typed."""
    if len(paths) == 1:
        (path,) = paths
        return run_path_problems(path if isinstance(path, Path) else typed_path(path, "PATH"))
    what = (
        f"expected one path, found {len(paths)}: {' '.join(map(str, paths))}"
        if paths
        else "no path is given"
    )
    return [Problem(what, "PATH", f"give a run folder or a checkpoint: {usage}")]
