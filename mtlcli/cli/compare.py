"""The verb `mtl compare`: train the baseline and the candidates that are missing, on the same data
with the same budget and seeds, then compare all of them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mtlcli import commands
from mtlcli.cli.compare_plan import Planned, composed, is_of, name_of, plan, state_of
from mtlcli.cli.eval import overrides_among
from mtlcli.cli.parser import Parser
from mtlcli.cli.report import baseline_and_others, page_problems, read_runs, show
from mtlcli.cli.typed import config_dir_problems, key_in
from mtlcli.config.paths import typed_path
from mtlcli.disk import obstacle
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Interrupted, Problem, UserError, count_of
from mtlcli.report.comparison import compare
from mtlcli.report.finished import Finished, read_run
from mtlcli.report.methods import runs_in
from mtlcli.report.page import has_library
from mtlcli.rundir.place import run_path_problems

HELP = """\
Train a single-task baseline and the candidates, as far as runs are missing, and compare them: which
tasks gain, which lose, by how much, how sure.

usage: mtl compare [RUN...] [KEY=VALUE ...] [--baseline RUN...] [--seeds N] [--equal data|compute]
                   [--to FILE.html] [-cd DIR]

  mtl compare task=glue_multi sharing=hard
  mtl compare task=sample data=sample model=tiny sharing=hard,lora --seeds 3
  mtl compare task=glue_multi sharing=hard weighting=static,pcgrad sampling=all --equal compute
  mtl compare runs/merged task=glue_multi sharing=hard          # a finished run is a candidate, too
  mtl compare runs/merged task=glue_multi                       # only the baseline is trained

  KEY=VALUE          as for mtl train; of a key with several values, each makes a candidate
  RUN...             finished runs that are candidates as they are
  --baseline RUN...  finished runs to compare with, in place of training sharing=none
  --seeds N          train each method with the seeds 0 to N - 1 (default 3)
  --equal data       every run makes the same number of steps on the same batches (the default)
  --equal compute    candidates make as many steps as cost the baseline's floating-point operations
  --to FILE.html     the page (default: report.html in the folder of the comparison)
  -cd DIR            your own configuration and methods, as for mtl train

The runs lie in compare/NAME of the tasks, or in run_dir=DIR. The same command again reuses what has
finished and goes on with what was interrupted; more candidates or seeds add runs to those there.
"""


def compare_main(argv: list[str]) -> int:
    """Run `mtl compare` and return the exit code."""
    arguments = _read(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    if read_launch() is not None:
        what = "a comparison starts its runs itself, and another program has started ranks here"
        raise UserError(what, fix="type it by itself, with runner.devices=N for several devices")
    overrides = overrides_among(arguments.rest)
    paths = runs_in(typed_path(word, "RUN") for word in arguments.rest if word not in overrides)
    baselines = runs_in(typed_path(word, "--baseline") for word in arguments.baseline)
    _check(arguments, paths, baselines, overrides)
    own = [] if arguments.config_dir is None else ["-cd", str(arguments.config_dir)]
    folder, planned = plan(
        overrides,
        3 if arguments.seeds is None else arguments.seeds,
        own,
        train_baseline=not baselines,
        candidates_given=bool(paths),
    )
    page = arguments.to or (folder / "report.html" if has_library() else None)
    if page is None:
        print("note: there will be no page: pip install 'mtlcli[report]'", file=sys.stderr)
    problems = _folder_problems(folder) if planned or arguments.to is None else []
    if problems := problems or page_problems(page):
        raise UserError(problems)
    again = _again(argv)
    # Runs that are given are read before anything is trained.
    baseline = read_runs(baselines, arguments.config_dir)
    others = read_runs(paths, arguments.config_dir)
    _check_tasks(planned, baseline, others)
    if arguments.equal == "compute":
        planned = _equal_compute(planned, folder, baseline, own, again)
    _announce(planned, folder)
    _train(planned, own, again)
    trained = read_runs([run.folder for run in planned], arguments.config_dir)
    if not baseline:
        seeds = sum(run.baseline for run in planned)
        baseline, trained = trained[:seeds], trained[seeds:]
    show(compare(*baseline_and_others([*trained, *others], baseline)), page)
    return 0


def _read(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="mtl compare", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--baseline", nargs="+", action="extend", default=[])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--equal", choices=("data", "compute"), default="data")
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    # A word with `=` behind --baseline is a setting.
    settings = overrides_among(arguments.baseline)
    arguments.rest += settings
    arguments.baseline = [word for word in arguments.baseline if word not in settings]
    return arguments


def _check(
    arguments: argparse.Namespace,
    paths: Sequence[Path],
    baselines: Sequence[Path],
    overrides: Sequence[str],
) -> None:
    """Raise UserError for every mistake that can be found before anything is composed."""
    own = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    for path in (*paths, *baselines):
        problems += run_path_problems(path)
    keys = [key_in(text) for text in overrides]
    if "seed" in keys:
        problems.append(
            Problem("every method is trained with several seeds", "seed", "type --seeds N")
        )
    if "resume" in keys:
        problems.append(
            Problem(
                "a comparison goes on by itself", "resume", "take it out, and type the same command"
            )
        )
    if arguments.seeds is not None and not 1 <= arguments.seeds <= 100:
        problems.append(Problem("must be from 1 to 100", "--seeds", "3 to 5 are common"))
    if not overrides and not paths:
        problems.append(
            Problem(
                "nothing is given to compare",
                fix="type settings as for mtl train, such as task=glue_multi sharing=hard",
            )
        )
    # The default suite would be trained for days, and is seldom what the finished runs learned.
    if paths and not baselines and not {"task", "experiment"} & set(keys):
        fix = "give finished runs, or settings such as 'task=[cola,rte]', with which one is trained"
        problems.append(Problem("there is no baseline", "--baseline", fix))
    if problems:
        raise UserError(problems)


def _folder_problems(folder: Path) -> list[Problem]:
    """Return a problem if the folder of the comparison cannot be made."""
    if why := obstacle(folder, folder=True):
        what = f"the folder cannot be written: {why}"
        return [Problem(what, f"run_dir={folder}", "give another run_dir=")]
    return []


def _check_tasks(
    planned: Sequence[Planned], baseline: Sequence[Finished], others: Sequence[Finished]
) -> None:
    """Raise UserError where a candidate has no task of the baseline."""
    known = {task for run in planned if run.baseline for task in run.config.tasks}
    known.update(task for run in baseline for task in run.tasks)
    named = [
        *((run.label, list(run.config.tasks)) for run in planned if run.seed == 0),
        *((str(run.path), list(run.tasks)) for run in others),
    ]
    problems = [
        Problem(
            f"the baseline has none of its tasks: {', '.join(tasks)}",
            name,
            "compare the same tasks; a run of several is typed with brackets: 'task=[A,B]'",
        )
        for name, tasks in named
        if not known & set(tasks)
    ]
    if problems:
        raise UserError(problems)


def _again(argv: Sequence[str]) -> str:
    return shlex.join(["mtl", "compare", *argv])


def _announce(planned: Sequence[Planned], folder: Path) -> None:
    """Print what will be trained, and what is there."""
    new = sum(run.state != "has finished" for run in planned)
    print(f"mtl compare: {count_of(len(planned), 'run')} in {folder}, {new} of them to train")
    for run in planned:
        print(f"  {run.label}, seed {run.seed}: {run.state} ({run.folder.name})")
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------
# training


def _train(planned: Sequence[Planned], own: list[str], again: str) -> None:
    """Train the runs that have not finished, one after another. Raises Interrupted, with the
    command to go on with, when a signal comes."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.cli.train import run_job

    waiting = [run for run in planned if run.state != "has finished"]
    for number, run in enumerate(waiting, start=1):
        print(f"\nrun {number} of {len(waiting)}: {run.label}, seed {run.seed}", flush=True)
        resumes = run.folder if run.state == "goes on" else None
        place = [f"run_dir={commands.hydra_value(run.folder)}", "resume=auto"]
        arguments = read_arguments([*own, *run.overrides, *(place if resumes is None else [])])
        command = ["mtl", "train", *own, *run.overrides]
        try:
            run_job(preflight(arguments, resumes).configs[0], run.folder, command, resumes=resumes)
        except Interrupted as error:
            error.go_on_with(again)
            raise


def _equal_compute(
    planned: Sequence[Planned],
    folder: Path,
    baseline: Sequence[Finished],
    own: list[str],
    again: str,
) -> list[Planned]:
    """Return the plan with as many steps for each candidate as cost what the baseline's steps cost.

    A run of one step measures the floating-point operations of an example, which do not depend on
    how fast the machine is. All methods draw as many examples in a step, so steps times operations
    are made equal. `baseline`: the finished runs that are the baseline, if they are given.
    """
    measured = {
        run.label: replace(
            run,
            state="trains",
            folder=folder / "costs" / run.folder.name,
            overrides=[
                *(text for text in run.overrides if not is_of(text, FOR_COST_KEYS)),
                *FOR_COST,
            ],
        )
        for run in planned
        if run.seed == 0
    }
    for run in measured.values():
        run.config, _ = composed(run.overrides, own)
        if problems := state_of(run):
            raise UserError(problems)
    print("\nthe operations of an example, measured by runs of one step:", flush=True)
    _train(list(measured.values()), own, again)
    flops = {label: _flops(run.folder) for label, run in measured.items()}
    budget = flops["none"] if not baseline else _flops(baseline[0].path)
    found = []
    for run in planned:
        ratio = budget / flops[run.label]
        runner = run.config.runner
        if abs(ratio - 1) >= SAME:
            key = "epochs" if runner.steps is None else "steps"
            value = (
                max(1, round(runner.steps * ratio))
                if runner.steps is not None
                else round((runner.epochs or 1) * ratio, 4)
            )
            others = [text for text in run.overrides if not is_of(text, [f"runner.{key}"])]
            run = replace(run, overrides=[*others, f"runner.{key}={value}"])
            run.config, _ = composed(run.overrides, own)
            run.folder = folder / name_of(run)
        run.state = "trains"
        if problems := state_of(run):
            raise UserError(problems)
        found.append(run)
    return found


FOR_COST = ["runner.steps=1", "data.max_eval_rows=64"]
FOR_COST_KEYS = [text.partition("=")[0] for text in FOR_COST] + ["runner.epochs"]
"""The overrides of a run that only measures operations, and the keys that it takes out."""
SAME = 0.005
"""The share by which operations may differ and count as equal."""


def _flops(run: Path) -> float:
    """Return the operations of an example in a finished run."""
    return float(read_run(run).results["cost"]["flops_per_example"])
