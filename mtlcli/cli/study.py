"""The study of a search: Optuna's record of its trials, in a file that several processes share.

Trials are claimed by locks that the kernel frees when a process ends, however it ends. So a trial
that is under way but not claimed belongs to a process that is gone, and the next process goes on
with it.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL

from mtlcli.cli.space import distributions, override
from mtlcli.config.sweep import Sweep
from mtlcli.errors import UserError
from mtlcli.seeds import derived_seed

STUDY = "study.db"
"""The file of a sweep folder that holds the study."""
LOCKS = ".locks"
"""The folder of a sweep folder that holds the locks."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep folder, under which trials are given out and files are changed."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCKS / "study"):
        yield


class Study:
    """The study of a search, as one of its processes sees it."""

    def __init__(self, folder: Path, sweep: Sweep, seed: int) -> None:
        """Open the study of a sweep folder, or make it. `seed`: the seed from which values are
        drawn. Raises UserError when the folder holds a study with other settings."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._sweep, self._seed = folder, sweep, seed
        self._distributions = distributions(sweep)
        self._claims: dict[int, FileLock] = {}
        url = URL.create("sqlite", database=str((folder / STUDY).absolute()))
        with held(folder):
            storage = optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False),
                # Other processes write in between; each of them is done in a moment.
                engine_kwargs={"connect_args": {"timeout": 60}},
            )
            self._study = optuna.create_study(
                storage=storage,
                study_name="search",
                directions=["maximize"] * max(1, len(sweep.objectives)),
                load_if_exists=True,
            )
            self._check_settings()

    def _check_settings(self) -> None:
        now = json.loads(json.dumps(asdict(self._sweep) | {"seed": self._seed}))
        before = self._study.user_attrs.get("settings")
        if before is None:
            self._study.set_user_attr("settings", now)
            return
        free = ("trials", "dry_run")
        differing = [key for key in now if key not in free and now[key] != before.get(key)]
        if differing:
            key = differing[0]
            what = f"the search in this folder has {json.dumps(before.get(key))}"
            where = key if key == "seed" else f"sweep.{key}"
            fix = "type what it was started with, or give another run_dir="
            raise UserError(f"{what}, not {json.dumps(now[key])}", where, fix)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials so far, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> list[FrozenTrial]:
        """The best trial, or with several objectives those of the Pareto set."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            found = self._study.best_trials
        return found if len(self._sweep.objectives) > 1 else found[:1]

    @property
    def chosen(self) -> FrozenTrial:
        """The one of the best trials with the best mean over the objectives."""
        return max(self.best, key=lambda trial: statistics.fmean(trial.values))

    def overrides(self, trial: FrozenTrial) -> list[str]:
        """Return the values of a trial as overrides, in the order of the space."""
        return [override(key, trial.params[key]) for key in self._distributions]

    def take(self, wanted: Callable[[FrozenTrial], bool]) -> FrozenTrial | None:
        """Claim the next trial: one whose process is gone, if it is `wanted`, else a new one. None
        when there are enough."""
        with held(self._folder):
            trials = self.trials
            for trial in trials:
                if trial.state not in FINISHED and wanted(trial) and self._claim(trial.number):
                    return trial
            if len(trials) >= self._sweep.trials:
                return None
            # A resumed search draws what it would have drawn, and no two processes the same.
            self._study.sampler = self._sampler(derived_seed(self._seed, len(trials)) % 2**32)
            number = self._study.ask(self._distributions).number
            self._claim(number)
            return self.trials[number]

    def _sampler(self, seed: int) -> BaseSampler:
        if self._sweep.name == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Trials of other processes count as bad until they end, so that no two are alike.
            return TPESampler(seed=seed, constant_liar=True)

    def _claim(self, number: int) -> bool:
        """Return whether this process has the trial from now on."""
        lock = FileLock(self._folder / LOCKS / f"trial_{number}")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._claims[number] = lock
        return True

    def release(self, number: int) -> None:
        """Give a claimed trial back."""
        self._claims.pop(number).release()

    def end(self, number: int, values: list[float] | None, state: TrialState) -> None:
        """Note the end of a claimed trial, with its values if it is complete."""
        self._study.tell(number, values, state=state)
        self.release(number)

    def same(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return an earlier trial with the same values that is complete; None if there is none."""
        return next(
            (
                each
                for each in self.trials[: trial.number]
                if each.state == TrialState.COMPLETE and each.params == trial.params
            ),
            None,
        )

    def report(self, number: int, step: int, value: float | None) -> str:
        """Note the value of a claimed trial at a step. Return why the trial is to be stopped, or an
        empty text."""
        after = self._sweep.prune_after
        if after is None or value is None or math.isnan(value):
            return ""
        frozen = self.trials[number]
        # The trial of a process that is gone has no public constructor.
        trial = Trial(self._study, frozen._trial_id)
        if step not in frozen.intermediate_values:
            trial.report(value, step)
        self._study.pruner = MedianPruner(n_startup_trials=after)
        if not trial.should_prune():
            return ""
        return "it is below the median of the earlier trials (sweep.prune_after)"

    def under_way(self) -> list[FrozenTrial]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials if trial.state not in FINISHED]


def failed_since(run_dir: Path, since: float) -> bool:
    """Return whether a run has failed after a time, in seconds since the epoch."""
    file = run_dir / "status.json"
    if not file.exists():
        return False
    status: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return status["status"] == "failed" and file.stat().st_mtime >= since
