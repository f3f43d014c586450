"""A search, `mtl train -m sweep=optuna`: trials whose values come from a study, each a run, or a
run for each fold, in a folder in which several processes may work and a killed search goes on."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mtlcli import commands
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.overrides import parsed
from mtlcli.cli.preflight import Plan, preflight
from mtlcli.cli.study import LOCKS, STUDY, Study, failed_since, held
from mtlcli.cli.sweep import (
    finish,
    given_folder,
    make_folder,
    reopen,
    resume_command,
)
from mtlcli.cli.train import job_folder, run_job
from mtlcli.cli.typed import key_in
from mtlcli.config.experiment import write_experiment
from mtlcli.config.own_code import record
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
from mtlcli.disk import append
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import Interrupted, MtlError, NotFinite, RunError, UserError, count_of
from mtlcli.output import outlive_reader
from mtlcli.report.sweep import LISTED, SweepJob, listed_jobs, read_job
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder

BEST = "best"
"""The name of the experiment that holds the best configuration. After a search over folds, the run
folder in which trial 3 is trained on all of train is `best_3`."""
OF_FOLDS = ("data.folds", "data.fold")
ONCE = "runner.eval_every=99999999"
"""The override that leaves one evaluation, at the last step."""


def search(plan: Plan, arguments: argparse.Namespace) -> int:
    """Run the trials of a search until there are enough, then show the table and write the best
    configuration as an experiment."""
    outlive_reader("stdout")
    _check_processes(plan)
    fixed = [text for text in plan.overrides if _belongs_to_trials(text, plan)]
    # The sweep's folder is compared by the overrides that all jobs have.
    folder = _open_folder(replace(plan, overrides=fixed, swept=[*plan.searched, *OF_FOLDS]))
    work = _Search(folder, plan, arguments, fixed)
    again = resume_command(arguments, folder)
    try:
        while (trial := work.take()) is not None:
            work.run(trial)
        failed = finish(folder, again, work.ended())
        work.conclude()
    except (Interrupted, KeyboardInterrupt) as error:
        finish(folder, again)
        if isinstance(error, Interrupted):
            error.go_on_with(again)
        raise
    if failed:
        raise RunError(failed)
    return 0


def best_overrides(plan: Plan, folder: Path) -> list[str]:
    """Return the values of the best trial of a search that has ended. Raises RunError when no trial
    has a score."""
    study = Study(folder, plan.configs[0].sweep, plan.configs[0].seed)
    if not study.best:
        raise RunError("no trial of the search has a score", str(folder), "change sweep.space")
    return study.overrides(study.chosen)


def _check_processes(plan: Plan) -> None:
    """Raise UserError when trials would need several processes that the study cannot follow."""
    config = plan.configs[0]
    if read_launch() is not None:
        what = "a search starts its runs itself, and the launcher has started several ranks"
        fix = "type mtl without the launcher; runner.devices=N lets each trial use N devices"
        raise UserError(what, "sweep", fix)
    if config.sweep.prune_after is not None and not config.sweep.folds:
        several = [each.runner.devices for each in plan.configs if each.runner.devices > 1]
        if several:
            what = f"runs on {several[0]} devices cannot be stopped between their evaluations"
            fix = "take it out, or type runner.devices=1"
            raise UserError(what, "sweep.prune_after", fix)


def _belongs_to_trials(text: str, plan: Plan) -> bool:
    """Return whether an override holds for every trial."""
    key = key_in(text)
    own = ("run_dir", "resume", "sweep", *plan.searched)
    return key not in own and not key.startswith("sweep.") and not parsed(text).is_hydra_override()


def _open_folder(plan: Plan) -> Path:
    """Make the folder of a search, or join the search that the folder holds."""
    given = given_folder(plan)
    if given is None or plan.configs[0].resume != "auto":
        return make_folder(plan)
    there = [path.name for path in given.iterdir()] if given.is_dir() else []
    if there not in ([], [LOCKS]) and LISTED not in there:
        reopen(given, plan)  # Says what is wrong.
    with held(given):
        # Another process may have made the list a moment ago, and not yet the study.
        if listed_jobs(given) and not (given / STUDY).is_file():
            what = f"the folder holds a sweep without a study (looked for {STUDY})"
            raise UserError(what, f"run_dir={given}", "give another run_dir=")
        if (given / LISTED).is_file():
            reopen(given, plan)
        else:
            (given / LISTED).touch()
    return given


class _Search:
    """A search, as one of its processes sees it."""

    def __init__(
        self, folder: Path, plan: Plan, arguments: argparse.Namespace, fixed: list[str]
    ) -> None:
        self.folder, self._fixed = folder, fixed
        self._own = ["-cd", arguments.config_dir] if arguments.config_dir is not None else []
        self._sweep = plan.configs[0].sweep
        self._study = Study(folder, self._sweep, plan.configs[0].seed)
        self._began = time.time()
        self._failed: set[int] = set()

    # --------------------------------------------------------------------------------------------
    # trials

    def take(self) -> FrozenTrial | None:
        """Claim the next trial. None when there are enough."""
        return self._study.take(self._can_go_on)

    def _can_go_on(self, trial: FrozenTrial) -> bool:
        """Return whether a trial whose process is gone is worth another try: not if it has failed
        since this process has begun."""
        return trial.number not in self._failed and not any(
            failed_since(self.folder / entry["folder"], self._began)
            for entry in listed_jobs(self.folder)
            if entry["trial"] == trial.number
        )

    def run(self, trial: FrozenTrial) -> None:
        """Run a claimed trial to its end, and note the end in the study."""
        number, overrides = trial.number, self._study.overrides(trial)
        print(
            f"\ntrial {number} (of {self._sweep.trials}): {' '.join(overrides)}",
            flush=True,
        )
        if (same := self._study.same(trial)) is not None:
            print(f"trial {number} has the values of trial {same.number}, and its score")
            self._study.end(number, same.values, TrialState.COMPLETE)
            return
        try:
            values = self._values(number, overrides)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001 (it ends one trial, not the search)
            self._note_failure(number, error)
            return
        if values is None:
            self._study.end(number, None, TrialState.PRUNED)
        else:
            self._study.end(number, values, TrialState.COMPLETE)

    def _note_failure(self, number: int, error: Exception) -> None:
        """Show why a trial has failed. One that diverged has ended, while a resumed search tries
        the others again."""
        self._failed.add(number)
        if not isinstance(error, MtlError):
            traceback.print_exc()
        reason = str(error) if isinstance(error, MtlError) else f"{type(error).__name__}: {error}"
        print(f"trial {number} failed: {reason}", file=sys.stderr, flush=True)
        entry = [each for each in listed_jobs(self.folder) if each["trial"] == number][-1]
        run_dir = self.folder / entry["folder"]
        run_dir.mkdir(exist_ok=True)
        if not (run_dir / "status.json").exists():
            RunFolder(run_dir).write_status("failed", reason=reason)
        if isinstance(error, NotFinite):
            self._study.end(number, None, TrialState.FAIL)
        else:
            self._study.release(number)

    def _values(self, number: int, overrides: list[str]) -> list[float] | None:
        """Return the values of a trial, one for each objective; None when it was pruned."""
        folds = self._sweep.folds
        if folds is None:
            job = self._job(number, number, overrides, watched=True)
            return None if job.status == "pruned" else self._of(job)
        found: list[list[float]] = []
        for fold in range(folds):
            cut = [f"data.folds={folds}", f"data.fold={fold}"]
            job = self._job(number, number * folds + fold, [*overrides, *cut])
            found.append(self._of(job))
            mean = [statistics.fmean(each) for each in zip(*found, strict=True)]
            if fold < folds - 1 and (why := self._study.report(number, fold, mean[0])):
                print(f"trial {number} is stopped after fold {fold}: {why}", flush=True)
                return None
        return mean

    def _of(self, job: SweepJob) -> list[float]:
        """Return the values of a run, one for each objective."""
        names = self._sweep.objectives
        values = [job.scores.get(name) for name in names] if names else [job.average]
        if any(value is None or math.isnan(value) for value in values):
            what = "the run has no score to search for: no row that is scored has a label"
            raise RunError(what, str(job.folder), "name other tasks, or splits with labels")
        return [float(value) for value in values if value is not None]

    def _watch(self, number: int, step: int, results: dict[str, Any]) -> str:
        name = self._sweep.objectives[0] if self._sweep.objectives else None
        value = results["average"] if name is None else results["tasks"][name]["main"]
        return self._study.report(number, step, value)

    def _job(
        self, trial: int, number: int, overrides: list[str], *, watched: bool = False
    ) -> SweepJob:
        """Carry out one run of a trial, or go on with it, and return it as it has ended."""
        entry: dict[str, Any] = {
            "number": number,
            "trial": trial,
            "folder": job_folder(number, "|".join(overrides)),
            "overrides": [*(text.removeprefix("++") for text in self._fixed), *overrides],
        }
        with held(self.folder):
            if not any(each["number"] == number for each in listed_jobs(self.folder)):
                append(self.folder / LISTED, json.dumps(entry) + "\n")
        before = read_job(entry, self.folder)
        if before.status in ("finished", "pruned"):
            return before
        self._run([*self._fixed, *overrides], self.folder / entry["folder"], trial, watched)
        return read_job(entry, self.folder)

    def _run(self, overrides: list[str], run_dir: Path, trial: int, watched: bool) -> None:
        words = [text.removeprefix("++") for text in overrides]
        resumes = run_dir if checkpoint.folders(run_dir / "checkpoints") else None
        plan = preflight(read_arguments([*self._own, *words]), resumes)
        config = replaced(plan.configs[0], {"run_dir": str(run_dir), "resume": "auto"})
        run_job(
            config,
            run_dir,
            ["mtl", "train", *self._own, *words],
            resumes=resumes,
            watch=(lambda step, results: self._watch(trial, step, results))
            if watched and self._sweep.prune_after is not None
            else None,
        )

    # --------------------------------------------------------------------------------------------
    # the end

    def ended(self) -> frozenset[int]:
        """Return the numbers of the jobs of trials that have ended in the study, or that other
        processes have: this one has no more to do with them."""
        left = {each.number for each in self._study.under_way() if not self._can_go_on(each)}
        return frozenset(
            entry["number"] for entry in listed_jobs(self.folder) if entry["trial"] not in left
        )

    def conclude(self) -> None:
        """Show the best configuration, and write it as an experiment. After a search over folds,
        train it on all of train first. Other processes may still be at work: then the last one
        does it."""
        if any(self._can_go_on(trial) for trial in self._study.under_way()):
            print("other trials are under way: the process that ends last names the best")
            return
        best = self._study.best
        if not best:
            print("no trial has a score, so there is no best configuration")
            return
        names = self._sweep.objectives or ["average"]
        if len(names) > 1:
            print(f"Pareto set over {', '.join(names)}: no other trial is better in all of them")
            for trial in best:
                print(f"  trial {trial.number}: {_shown(names, trial.values)}")
        chosen = self._study.chosen
        told = _shown(names, chosen.values)
        with held(self.folder):
            run_dir = self._final(chosen)
        results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
        if self._sweep.folds is not None:
            told += (
                f" (mean over {count_of(self._sweep.folds, 'fold')} of train). Trained on all of "
                "train and scored once on validation, which the search has not read: average "
                f"{results['average']:.4f}"
            )
        file = self.folder / "experiment" / f"{BEST}.yaml"
        about = f"Trial {chosen.number} of a search over {', '.join(self._sweep.space)}: {told}"
        config = load_config(run_dir / "config.yaml")
        write_experiment(config, file, about)
        again = commands.experiment(self.folder, BEST)
        if (own := record(config)) is not None:
            # Methods are imported from one folder, and it is not this one.
            place = Path(own["folder"])
            again = commands.copy(file, place / "experiment" / file.name)
            again += f" && {commands.experiment(place, BEST)}"
        print(f"best: trial {chosen.number}, {told}\ntrain it again: {again}", flush=True)

    def _final(self, chosen: FrozenTrial) -> Path:
        """Return the run folder of the best configuration."""
        if self._sweep.folds is None:
            same = self._study.same(chosen) or chosen
            numbers = {each["trial"]: each["folder"] for each in listed_jobs(self.folder)}
            return self.folder / numbers[same.number]
        # A search that goes on with more trials may find a better one.
        run_dir = self.folder / f"{BEST}_{chosen.number}"
        entry = {"number": chosen.number, "folder": run_dir.name, "overrides": []}
        if read_job(entry, self.folder).status != "finished":
            print("\nthe best configuration, on all of train:", flush=True)
            self._run(
                [*self._fixed, *self._study.overrides(chosen), ONCE], run_dir, chosen.number, False
            )
        return run_dir


def _shown(names: list[str], values: list[float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in zip(names, values, strict=True))
