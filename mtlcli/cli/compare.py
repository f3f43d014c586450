"""The verb `mtl compare`: train the baseline and the candidates that are missing, on the same data
with the same budget and seeds, then compare all of them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mtlcli.cli.compare_groups import GroupPlan, compare_groups, group_problems, plan_groups
from mtlcli.cli.compare_made import Made, make, plan_made, sweep_texts, unknown_methods
from mtlcli.cli.compare_plan import plan
from mtlcli.cli.compare_tasks import (
    FEWEST,
    joint_problems,
    leave_one_out,
    trained_tasks,
    without_each,
)
from mtlcli.cli.eval import overrides_among
from mtlcli.cli.parser import Parser
from mtlcli.cli.planned import Planned, Runs, folder_problems, is_of, place_in, state_of
from mtlcli.cli.report import baseline_and_others, page_problems, read_runs, show
from mtlcli.cli.typed import config_dir_problems, joined, key_in, without_value
from mtlcli.config.paths import conf_dir, typed_path
from mtlcli.config.section import replaced
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Problem, UserError
from mtlcli.merging.methods import METHODS
from mtlcli.report.comparison import compare
from mtlcli.report.finished import Finished, read_run
from mtlcli.report.methods import runs_in, together
from mtlcli.report.page import has_library
from mtlcli.rundir.place import run_path_problems

HELP = """\
Train a single-task baseline and the candidates, as far as runs are missing, and compare them: which
tasks gain, which lose, by how much, how sure.

usage: mtl compare [RUN...] [KEY=VALUE ...] [--baseline RUN...] [--seeds N] [--equal data|compute]
                   [--merge M,...] [--leave-one-out | --groups K] [--to FILE.html] [-cd DIR]

  mtl compare task=glue_multi sharing=hard
  mtl compare task=sample data=sample model=tiny sharing=hard,lora --seeds 3
  mtl compare task=glue_multi sharing=hard weighting=static,pcgrad sampling=all --equal compute
  mtl compare runs/merged task=glue_multi sharing=hard          # a finished run is a candidate, too
  mtl compare runs/merged task=glue_multi                       # only the baseline is trained
  mtl compare task=glue_multi sharing=hard --merge ties sweep=optuna sweep.folds=3 \\
      'sweep.space={tasks.cola.weight: [0.5, 1, 2]}'
  mtl compare 'task=[cola,rte,mnli]' sampling=all runner.steps=400 --leave-one-out
  mtl compare 'task=[cola,rte,mnli,sst2]' sampling=all runner.steps=400 --groups 2

  KEY=VALUE          as for mtl train; of a key with several values, each makes a candidate
  RUN...             finished runs that are candidates as they are
  --baseline RUN...  finished runs to compare with, in place of training sharing=none
  --seeds N          train each method with the seeds 0 to N - 1 (default 3)
  --equal data       every run makes the same number of steps on the same batches (the default)
  --equal compute    candidates make as many steps as cost the baseline's floating-point operations
  --merge M,...      more candidates: the baseline's copies merged into one model, by these methods
                     of mtl merge
  sweep=...          one more candidate: the best configuration of a search (sweep=optuna) from the
                     first candidate, over folds of train (sweep.folds)
  --leave-one-out    which task helps which: the candidate with all tasks against the candidate
                     without one task each, in place of a baseline; needs sampling=all and
                     runner.steps=N, so that every task is trained as much in each
  --groups K         which tasks belong together: K groups found by affinity, a run for each,
                     against random groups of the same sizes and all tasks in one run; needs
                     sampling=all and runner.steps=N, too
  --affinity surrogate|lookahead
                     for --groups: estimated from gradients of a run on four fifths of train (the
                     default), or measured by the joint runs (logger.affinity=N)
  --to FILE.html     the page (default: report.html in the folder of the comparison, left_out.html
                     with --leave-one-out, groups.html with --groups)
  -cd DIR            your own configuration and methods, as for mtl train

The runs lie in compare/NAME of the tasks, or in run_dir=DIR. The same command again reuses what has
finished and goes on with what was interrupted; more candidates or seeds add runs to those there.
"""


SEEDS = range(1, 101)
"""The numbers of seeds that can be trained."""


def compare_main(argv: list[str]) -> int:
    """Run `mtl compare` and return the exit code."""
    arguments = _read(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    if read_launch() is not None:
        what = "a comparison starts its runs itself, and another program has started ranks here"
        raise UserError(what, fix="type it by itself, with runner.devices=N for several devices")
    words, problems = joined(arguments.rest)
    overrides = overrides_among(words)
    names = dict(_names(words, overrides, arguments.merge))
    problems += names.values()
    paths = runs_in(
        typed_path(word, "RUN") for word in words if word not in overrides and word not in names
    )
    baselines = runs_in(typed_path(word, "--baseline") for word in arguments.baseline)
    again = shlex.join(["mtl", "compare", *argv])
    runs = Runs("mtl compare", Path(), arguments.config_dir, again)
    # Every mistake is reported at once, and before anything is trained.
    problems += _problems(arguments, paths, baselines, overrides)
    page = arguments.to
    planned: list[Planned] = []
    parts, made = Parts(), Made()
    baseline: list[Finished] = []
    others: list[Finished] = []
    try:
        runs.folder, planned = plan(
            [text for text in overrides if not is_of(text, ["seed", "resume", "sweep"])],
            seeds_of(arguments),
            runs.own,
            train_baseline=not baselines and not arguments.leave_one_out,
            candidates_given=bool(paths),
        )
        page = page or (runs.folder / _page_name(arguments) if has_library() else None)
        wrong = folder_problems(runs.folder) if planned or arguments.to is None else []
        problems += wrong or page_problems(page)
        parts = _parts(arguments, planned, runs)
        made, wrong = plan_made(arguments.merge, sweep_texts(overrides), planned, runs)
        problems += [*parts.problems, *wrong]
    except UserError as error:
        problems += error.problems
    if not problems:
        # Runs that are given are read before anything is trained.
        baseline = read_runs(baselines, arguments.config_dir)
        others = read_runs(paths, arguments.config_dir)
        problems = [] if arguments.leave_one_out else _task_problems(planned, baseline, others)
    if problems:
        raise UserError(problems)
    if page is None:
        print("note: there will be no page: pip install 'mtlcli[report]'", file=sys.stderr)
    if arguments.leave_one_out:
        show(leave_one_out(planned, parts.without, runs), page)
        return 0
    if parts.groups is not None:
        given = together(baseline) if baseline else None
        show(compare_groups(parts.groups, given, runs), page)
        return 0
    if arguments.equal == "compute":
        planned = _equal_compute(planned, baseline, runs)
    runs.finish(planned)
    trained = read_runs([run.folder for run in planned], arguments.config_dir)
    if not baseline:
        seeds = sum(run.baseline for run in planned)
        baseline, trained = trained[:seeds], trained[seeds:]
    extra = make(made, planned, runs)
    method, candidates = baseline_and_others([*trained, *others], baseline)
    show(compare(method, [*candidates, *extra]), page)
    return 0


def _page_name(arguments: argparse.Namespace) -> str:
    """Return the name of the page where none is typed: comparisons in one folder keep theirs."""
    if arguments.leave_one_out:
        return "left_out.html"
    return "report.html" if arguments.groups is None else "groups.html"


@dataclass
class Parts:
    """The runs on some of the tasks that are compared with the joint run."""

    without: dict[str, list[Planned]] = field(default_factory=dict)
    """The runs without a task, by the task."""
    groups: GroupPlan | None = None
    """What groups take."""
    problems: list[Problem] = field(default_factory=list)


def _parts(arguments: argparse.Namespace, planned: Sequence[Planned], runs: Runs) -> Parts:
    """Return what `--leave-one-out` or `--groups` compares; nothing without them."""
    joint = [run for run in planned if not run.baseline]
    if not joint or not (arguments.leave_one_out or arguments.groups is not None):
        return Parts()
    option = "--leave-one-out" if arguments.leave_one_out else "--groups"
    problems = joint_problems(joint, option)
    if len(trained_tasks(joint[0].config)) < FEWEST:
        return Parts(problems=problems)
    # Groups are not known yet; what keeps a task from being left out also keeps it from a group.
    without, found = without_each(joint, runs.folder, runs.own)
    problems += found
    if arguments.groups is None:
        return Parts(without, None, problems)
    affinity = arguments.affinity or "surrogate"
    problems += group_problems(joint, arguments.groups, affinity)
    return Parts(without, plan_groups(planned, arguments.groups, affinity, runs), problems)


def _read(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="mtl compare", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--baseline", nargs="+", action="extend", default=[])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--equal", choices=("data", "compute"), default="data")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--groups", type=int)
    parser.add_argument("--merge", type=lambda text: text.split(","), default=[])
    parser.add_argument("--affinity", choices=("surrogate", "lookahead"))
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    # A word with `=` behind --baseline is a setting.
    settings = overrides_among(arguments.baseline)
    arguments.rest += settings
    arguments.baseline = [word for word in arguments.baseline if word not in settings]
    return arguments


def _names(
    words: Sequence[str], overrides: Sequence[str], merges: Sequence[str]
) -> Iterator[tuple[str, Problem]]:
    """Yield the words that are no runs but names of what can be chosen, such as the second one of
    `task=cola rte`, each with its problem. `merges`: the methods that stand behind `--merge`."""
    groups = [path for path in conf_dir().iterdir() if path.is_dir()]
    for before, word in zip([None, *words], words, strict=False):
        if word in overrides or Path(word).exists():
            continue
        homes = [group.name for group in groups if (group / f"{word}.yaml").is_file()]
        if merges and word in METHODS:
            fix = f"several methods are one list: --merge {','.join([*merges, word])}"
            yield word, Problem(f"'{word}' is no run", "--merge", fix)
        elif homes:
            yield word, without_value(word, before, homes)


def seeds_of(arguments: argparse.Namespace) -> int:
    """Return the number of seeds; 1 where what was typed is none, which `_problems` reports."""
    typed = 3 if arguments.seeds is None else int(arguments.seeds)
    return typed if typed in SEEDS else 1


def _problems(
    arguments: argparse.Namespace,
    paths: Sequence[Path],
    baselines: Sequence[Path],
    overrides: Sequence[str],
) -> list[Problem]:
    """Return every mistake that can be found before anything is composed."""
    own = arguments.config_dir
    problems = page_problems(arguments.to) + ([] if own is None else config_dir_problems(own))
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
    if arguments.seeds is not None and arguments.seeds not in SEEDS:
        problems.append(Problem("must be from 1 to 100", "--seeds", "3 to 5 are common"))
    problems += unknown_methods(arguments.merge)
    searched = bool(sweep_texts(overrides))
    if searched and arguments.equal == "compute":
        what = "has no part in a search, whose trials all have the same number of steps"
        problems.append(Problem(what, "--equal compute", "take it out"))
    given = {
        "RUN": bool(paths),
        "--merge": bool(arguments.merge),
        "sweep": searched,
        "--baseline": bool(baselines) and arguments.leave_one_out,
        "--equal compute": arguments.equal == "compute",
        "--groups": arguments.groups is not None and arguments.leave_one_out,
    }
    for option in ("leave_one_out", "groups"):
        if getattr(arguments, option) not in (None, False):
            what = f"has no part in --{option.replace('_', '-')}, which makes runs of its own"
            problems += [
                Problem(what, name, "take it out") for name, there in given.items() if there
            ]
            break
    if arguments.affinity is not None and arguments.groups is None:
        what = "has an effect on groups only"
        problems.append(Problem(what, "--affinity", "add --groups K, or take it out"))
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
    return problems


def _task_problems(
    planned: Sequence[Planned], baseline: Sequence[Finished], others: Sequence[Finished]
) -> list[Problem]:
    """Return the candidates that have no task of the baseline."""
    known = {task for run in planned if run.baseline for task in run.config.tasks}
    known.update(task for run in baseline for task in run.tasks)
    named = [
        *((run.label, list(run.config.tasks)) for run in planned if run.seed == 0),
        *((str(run.path), list(run.tasks)) for run in others),
    ]
    return [
        Problem(
            f"the baseline has none of its tasks: {', '.join(tasks)}",
            name,
            "compare the same tasks; a run of several is typed with brackets: 'task=[A,B]'",
        )
        for name, tasks in named
        if not known & set(tasks)
    ]


def _equal_compute(
    planned: Sequence[Planned], baseline: Sequence[Finished], runs: Runs
) -> list[Planned]:
    """Return the plan with as many steps for each candidate as cost what the baseline's steps cost.

    A run of one step measures the floating-point operations of an example, which do not depend on
    how fast the machine is. All methods draw as many examples in a step, so steps times operations
    are made equal. `baseline`: the finished runs that are the baseline, if they are given.
    """
    measured = {
        run.label: replace(
            run,
            folder=(place := runs.folder / "costs" / run.folder.name),
            state=state_of(place),
            config=replaced(run.config, FOR_COST),
            overrides=_with(run.overrides, FOR_COST),
        )
        for run in planned
        if run.seed == 0
    }
    print("\nthe operations of an example, measured by runs of one step:", flush=True)
    runs.train(list(measured.values()))
    flops = {label: _flops(run.folder) for label, run in measured.items()}
    budget = flops["none"] if not baseline else _flops(baseline[0].path)
    found = []
    for run in planned:
        ratio = budget / flops[run.label]
        runner = run.config.runner
        if abs(ratio - 1) >= SAME:
            value = (
                {"runner.steps": max(1, round(runner.steps * ratio))}
                if runner.steps is not None
                else {"runner.epochs": round((runner.epochs or 1) * ratio, 4)}
            )
            run = replace(
                run,
                config=replaced(run.config, value),
                overrides=_with(run.overrides, value),
            )
            place_in(runs.folder, run)
        found.append(run)
    return found


FOR_COST = {"runner.steps": 1, "data.max_eval_rows": 64}
"""The settings of a run that only measures operations."""
SAME = 0.005
"""The share by which operations may differ and count as equal."""


def _with(overrides: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Return overrides with other values. A number of steps replaces one of epochs."""
    gone = [*values, *(["runner.epochs"] if "runner.steps" in values else [])]
    kept = [text for text in overrides if not is_of(text, gone)]
    return [*kept, *(f"{key}={value}" for key, value in values.items())]


def _flops(run: Path) -> float:
    """Return the operations of an example in a finished run."""
    return float(read_run(run).results["cost"]["flops_per_example"])
