"""Candidates of a comparison that are made of what it trains: models merged out of the baseline's
copies (`--merge`), and the best configuration of a search (`sweep=...`)."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from hydra.errors import HydraException, OverrideParseException

from mtlcli import commands
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.compare_plan import seeded
from mtlcli.cli.overrides import parsed
from mtlcli.cli.planned import DONE, Planned, Runs, is_of, place_in, state_of
from mtlcli.cli.preflight import Plan, preflight
from mtlcli.cli.typed import key_in
from mtlcli.errors import Interrupted, Problem, UserError
from mtlcli.merging.methods import METHODS, class_problems
from mtlcli.output import say
from mtlcli.pulse import Pulse
from mtlcli.registry import suggest
from mtlcli.report.methods import Method

SEARCH = "search"
"""The folder of the search in that of the comparison."""
BEST = "best found"
"""What the best configuration of the search is called."""


@dataclass
class Made:
    """What is made of other runs."""

    merges: list[str] = field(default_factory=list)
    """The methods of merging."""
    search: Plan | None = None
    """The search; None where none is asked for."""
    arguments: argparse.Namespace | None = None
    """The arguments of the search, as `mtl train -m` would read them."""
    texts: list[str] = field(default_factory=list)
    """The overrides of the candidate whose settings are searched, without the seed and without what
    is searched."""


def plan_made(
    merges: Sequence[str], sweep: Sequence[str], planned: Sequence[Planned], runs: Runs
) -> tuple[Made, list[Problem]]:
    """Return what is to be made, and the problems with it. `merges`: the methods that are typed.
    `sweep`: the overrides of the search. `planned`: the runs of the baseline and candidates."""
    made, problems = Made(list(dict.fromkeys(merges))), []
    baseline = [run for run in planned if run.baseline]
    candidates = [run for run in planned if not run.baseline]
    if merges:
        problems += _merge_problems(merges, baseline)
    if sweep and not candidates:
        what = "there is no candidate whose settings could be searched"
        problems.append(Problem(what, "sweep", "type one, such as sharing=hard"))
    elif sweep:
        # What is typed for a key that is searched holds for the other candidates.
        typed, searched = candidates[0].unseeded, _space(sweep)
        made.texts = [text for text in typed if key_in(text) not in searched]
        place = commands.hydra_value(runs.folder / SEARCH)
        words = [*made.texts, *sweep, "seed=0", f"run_dir={place}", "resume=auto"]
        made.arguments = read_arguments(["-m", *runs.own, *words])
        try:
            made.search = preflight(made.arguments)
        except UserError as error:
            problems += error.problems
        else:
            problems += _search_problems(made.search)
    return made, problems


def _space(sweep: Sequence[str]) -> Container[str]:
    """Return the keys that a search chooses, as far as they can be read."""
    found: Container[str] = ()
    for text in sweep:
        try:
            value = parsed(text).value() if key_in(text) == "sweep.space" else None
        except (OverrideParseException, HydraException, ValueError):
            continue  # The check of the whole command line says what cannot be read.
        found = value if isinstance(value, dict) else found
    return found


def unknown_methods(merges: Sequence[str]) -> list[Problem]:
    """Return a problem for each name behind `--merge` that no method has."""
    return [
        Problem(f"unknown method '{name}'", "--merge", suggest(name, METHODS))
        for name in merges
        if name not in METHODS
    ]


def _merge_problems(merges: Sequence[str], baseline: Sequence[Planned]) -> list[Problem]:
    if not baseline:
        what = "what is merged are the copies of the baseline, and it is not trained here"
        fix = "take out --baseline, or give the model of mtl merge as RUN"
        return [Problem(what, "--merge", fix)]
    problems: list[Problem] = []
    config = baseline[0].config
    if len({task.head or name for name, task in config.tasks.items()}) < 2:
        problems.append(Problem("one task has nothing to merge with", "--merge", "type more tasks"))
    for name in merges:
        problems += class_problems(config.formed_tasks, name, f"--merge {name}")
    return problems


def _search_problems(plan: Plan) -> list[Problem]:
    settings = plan.configs[0].sweep
    if not settings.searches:
        what = "a comparison takes a search, and values of several candidates where they are typed"
        return [Problem(what, f"sweep={settings.name}", "type sweep=optuna or sweep=random")]
    problems = []
    if settings.folds is None:
        what = "the search would choose on the rows that are reported"
        fix = "type sweep.folds=3: each trial is then scored on parts of train"
        problems.append(Problem(what, "sweep.folds", fix))
    if settings.dry_run:
        problems.append(Problem("has no part in a comparison", "sweep.dry_run", "leave it out"))
    return problems


def sweep_texts(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that are of a search."""
    return [text for text in overrides if is_of(text, ["sweep"])]


def make(made: Made, planned: Sequence[Planned], runs: Runs) -> list[Method]:
    """Make what is missing, and return the methods: the best of the search, then merged models.
    `planned`: runs of the comparison, which have finished."""
    methods = []
    if made.search is not None:
        best = _search(made, len({run.seed for run in planned}), runs)
        there = {run.folder: run.label for run in planned}
        if best[0].folder in there:
            print(f"the best configuration of the search is {there[best[0].folder]}")
        else:
            runs.finish(best)
            methods.append(runs.method(BEST, best))
    for name in made.merges:
        merged = [_merged(name, run, runs) for run in planned if run.baseline]
        methods.append(runs.method(f"merged {name}", merged))
    return methods


def _search(made: Made, seeds: int, runs: Runs) -> list[Planned]:
    """Carry the search out, as far as it is missing, and return the runs of its best
    configuration."""
    from mtlcli.cli.search import best_overrides, search

    assert made.search is not None and made.arguments is not None
    print(f"\nthe search, in {runs.folder / SEARCH}:", flush=True)
    try:
        search(made.search, made.arguments)
    except Interrupted as error:
        error.go_on_with(runs.again)
        raise
    found = best_overrides(made.search, runs.folder / SEARCH)
    best, _ = seeded(BEST, [*made.texts, *found], seeds, runs.own)
    for run in best:
        place_in(runs.folder, run)
    return best


def _merged(name: str, source: Planned, runs: Runs) -> Planned:
    """Merge the copies of a run of the baseline, unless that has been done."""
    from mtlcli.merging.merge import merge

    folder = runs.folder / f"{source.folder.name}_{name}"
    made = Planned(f"merged {name}", source.seed, folder, [], source.config, state=state_of(folder))
    if made.state != DONE:
        # What a kill has left of a merge is made again in seconds.
        shutil.rmtree(folder, ignore_errors=True)
        command = ["mtl", "merge", str(source.folder), "--method", name, "--to", str(folder)]
        say(f"merging the copies of {source.folder.name}: {name}")
        with Pulse(stderr=True):
            merge([source.folder], folder, method=name, options={}, command=command, say=say)
    return made
