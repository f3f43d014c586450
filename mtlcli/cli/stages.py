"""`mtl train` with stages: the runs of all of them, one after another, then the comparison of the
first stage with the others."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from mtlcli.cli.planned import Runs, folder_problems
from mtlcli.cli.preflight import Plan
from mtlcli.cli.report import read_runs, show
from mtlcli.cli.stage_plan import StageRun, folder_of, plan_stages
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Problem, UserError
from mtlcli.report.comparison import compare
from mtlcli.report.finished import Finished
from mtlcli.report.methods import Method, together
from mtlcli.report.order import Order, order_of, order_tables
from mtlcli.report.page import has_library
from mtlcli.screen import screen


def train_stages(plan: Plan, arguments: argparse.Namespace) -> int:
    """Carry out the stages of a command line as far as their runs are missing, and compare
    them."""
    check(plan, arguments)
    own = ["-cd", str(arguments.config_dir)] if arguments.config_dir else []
    folder, planned = plan_stages(plan, arguments.overrides, own)
    option = ["-m"] if arguments.multirun else []
    again = shlex.join(["mtl", "train", *option, *own, *arguments.overrides])
    Runs("mtl train", folder, arguments.config_dir, again).finish(planned)
    read = read_runs([run.folder for run in planned], arguments.config_dir)
    found = list(zip(planned, read, strict=True))
    baseline, *others = _methods(found)
    others = [method for method in others if set(method.tasks) & set(baseline.tasks)]
    if others:
        show(compare(baseline, others), folder / "report.html" if has_library() else None)
    if orders := _orders(found):
        for table in order_tables(orders):
            screen().print(table)
    print(f"folder of all runs: {folder}")
    return 0


def check(plan: Plan, arguments: argparse.Namespace) -> None:
    """Raise UserError for what does not go with stages."""
    problems = folder_problems(folder_of(plan))
    if read_launch() is not None:
        what = "stages start their runs themselves, and another program has started ranks here"
        problems.append(Problem(what, "stages", "type it by itself, with runner.devices=N"))
    for key in plan.swept:
        if key != "seed":
            what = "of several values, a command with stages takes those of seed alone"
            problems.append(Problem(what, key, "type one value"))
    settings = plan.configs[0].sweep
    if settings.searches or settings.dry_run:
        problems.append(Problem("does not go with stages", "sweep", "leave it out"))
    if problems:
        raise UserError(problems)


def _methods(found: Sequence[tuple[StageRun, Finished]]) -> list[Method]:
    """Return what is compared, the first stage first: the last runs of every stage, by their
    seeds."""
    of: dict[str, list[Finished]] = {}
    for run, each in found:
        if run.last and run.compared:
            of.setdefault(run.method, []).append(each)
    return [together(runs, label=name) for name, runs in of.items()]


def _orders(found: Sequence[tuple[StageRun, Finished]]) -> list[Order]:
    """Return the runs of each stage whose tasks are learned in order, with the run that it begins
    with."""
    results = {run.folder: each for run, each in found}
    of: dict[str, list[list[tuple[str, Finished]]]] = {}
    for run, _ in found:
        if not (run.in_order and run.last):
            continue
        chain, here = [run], run
        while here.in_order and here.begins is not None:
            here = here.begins
            chain.insert(0, here)
        of.setdefault(run.stage, []).append([(each.label, results[each.folder]) for each in chain])
    return [order_of(name, seeds) for name, seeds in of.items()]
