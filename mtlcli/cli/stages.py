"""`mtl train` with stages: the runs of all of them, one after another, then the comparison of the
first stage with the others."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mtlcli.cli.planned import announce, train
from mtlcli.cli.preflight import Plan
from mtlcli.cli.report import read_runs, show
from mtlcli.cli.stage_plan import StageRun, plan_stages
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Problem, UserError
from mtlcli.report.comparison import compare
from mtlcli.report.finished import Finished
from mtlcli.report.methods import Method, baseline_of
from mtlcli.report.page import has_library


def train_stages(plan: Plan, arguments: argparse.Namespace) -> int:
    """Carry out the stages of a command line as far as their runs are missing, and compare
    them."""
    _check(plan, arguments)
    own = ["-cd", str(arguments.config_dir)] if arguments.config_dir else []
    folder, planned = plan_stages(plan, arguments.overrides, own)
    announce("mtl train", planned, folder)
    option = ["-m"] if arguments.multirun else []
    train(planned, own, shlex.join(["mtl", "train", *option, *own, *arguments.overrides]))
    baseline, *others = _methods(planned, Path(own[1]) if own else None)
    others = [method for method in others if set(method.tasks) & set(baseline.tasks)]
    if others:
        page = folder / "report.html" if has_library() else None
        show(compare(baseline, others), page)
    print(f"folder of all runs: {folder}")
    return 0


def _check(plan: Plan, arguments: argparse.Namespace) -> None:
    """Raise UserError for what does not go with stages."""
    problems = []
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


def _methods(planned: Sequence[StageRun], own: Path | None) -> list[Method]:
    """Return what is compared, the first stage first: the last runs of every stage, by their
    seeds."""
    last = [run for run in planned if run.last]
    found: dict[str, list[Finished]] = {}
    for run, each in zip(last, read_runs([run.folder for run in last], own), strict=True):
        found.setdefault(run.method, []).append(each)
    return [baseline_of(runs, name) for name, runs in found.items()]
