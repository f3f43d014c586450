"""The runs that a verb carries out one after another: which have finished, the training of the
others, and the methods that they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli.cli.report import read_runs
from mtlcli.cli.typed import key_in
from mtlcli.config import Config
from mtlcli.config.changes import digest
from mtlcli.config.section import replaced
from mtlcli.disk import obstacle
from mtlcli.errors import Interrupted, Problem, count_of
from mtlcli.report.methods import Method
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder

DONE = "has finished"
"""What is said of a run that need not be trained."""


@dataclass
class Planned:
    """A run that is to be there at the end."""

    label: str
    seed: int
    folder: Path
    overrides: list[str]
    """The overrides of the run, without its folder."""
    config: Config
    """What the overrides compose."""
    baseline: bool = False
    """Whether the run is of the baseline."""
    state: str = "trains"
    """`trains`, `goes on` or DONE."""

    @property
    def unseeded(self) -> list[str]:
        """The overrides without the seed, which comes last in the runs of a comparison."""
        return self.overrides[:-1]


def is_of(text: str, keys: Sequence[str]) -> bool:
    """Return whether an override is of one of the keys, or of a key below one."""
    key = key_in(text)
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def composed(overrides: list[str], own: list[str]) -> tuple[Config, str]:
    """Return the config that overrides compose, and a name for its tasks."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.cli.train import suite_of

    plan = preflight(read_arguments([*own, *overrides]))
    assert plan.composed is not None
    config = plan.configs[0]
    return config, suite_of(config, plan.composed.hydra.runtime.choices.get("task"))


def place_in(folder: Path, run: Planned) -> None:
    """Give a run its folder in that of all runs, and find out what is there. The name has the run's
    label, its seed, and a digest of its configuration. By the digest it is found again, whatever
    the run is called elsewhere."""
    mark = digest(run.config, folder)
    label = "".join(c if c.isalnum() or c in "_.+-" else "-" for c in run.label)[:60]
    there = sorted(folder.glob(f"*_{mark}"))
    run.folder = there[0] if there else folder / f"{label}_seed-{run.seed}_{mark}"
    run.state = state_of(run.folder)


def state_of(folder: Path) -> str:
    """Return whether the run of a folder `has finished`, `goes on`, or `trains` from the start."""
    place = RunFolder(folder)
    if not (folder / "config.yaml").is_file():
        return "trains"
    if place.status().get("status") == "finished":
        return DONE
    return "goes on" if checkpoint.folders(place.checkpoints) else "trains"


def folder_problems(folder: Path) -> list[Problem]:
    """Return a problem if a folder cannot be that of all runs."""
    at, fix = f"run_dir={folder}", "give another run_dir="
    if why := obstacle(folder, folder=True):
        return [Problem(f"the folder cannot be written: {why}", at, fix)]
    if (folder / "config.yaml").is_file():
        return [Problem("the folder is that of a single run", at, fix)]
    return []


def other_rows(planned: Sequence[Planned], one_seed: str) -> list[Problem]:
    """Return a problem where runs of several seeds would be scored on different rows. `one_seed`:
    what is typed for a single seed."""
    limited = any(run.config.data.max_eval_rows is not None for run in planned)
    if not limited or len({run.seed for run in planned}) < 2:
        return []
    what = "every seed would be scored on other rows, since they are drawn by the seed"
    fix = f"type data.max_eval_rows=null, or {one_seed}"
    return [Problem(what, "data.max_eval_rows", fix)]


@dataclass
class Runs:
    """Carries out the runs of one command."""

    verb: str
    """The verb, as `mtl compare`, for what is printed."""
    folder: Path
    """The folder of all runs."""
    config_dir: Path | None
    """The folder behind `-cd`."""
    again: str
    """The command that goes on with the runs."""

    @property
    def own(self) -> list[str]:
        """The options of `mtl train` for the user's own files."""
        return [] if self.config_dir is None else ["-cd", str(self.config_dir)]

    def finish(self, planned: Sequence[Planned]) -> None:
        """Say what will be trained and what is there, and train it. Raises UserError where the
        results of a run that has finished cannot be read, before anything is trained."""
        different = list({run.folder: run for run in planned}.values())
        read_runs([run.folder for run in different if run.state == DONE], self.config_dir)
        new = sum(run.state != DONE for run in different)
        count = count_of(len(different), "run")
        print(f"{self.verb}: {count} in {self.folder}, {new} of them to train")
        for run in different:
            print(f"  {run.label}, seed {run.seed}: {run.state} ({run.folder.name})")
        sys.stdout.flush()
        self.train(different)

    def train(self, planned: Sequence[Planned]) -> None:
        """Train the runs that have not finished, one after another. Raises Interrupted, with the
        command to go on with, when a signal comes."""
        from mtlcli.cli.arguments import read_arguments
        from mtlcli.cli.preflight import preflight
        from mtlcli.cli.train import run_job

        waiting = [run for run in planned if run.state != DONE]
        for number, run in enumerate(waiting, start=1):
            print(f"\nrun {number} of {len(waiting)}: {run.label}, seed {run.seed}", flush=True)
            resumes, config = run.folder if run.state == "goes on" else None, run.config
            if resumes is not None:
                config = preflight(read_arguments([*self.own, *run.overrides]), resumes).configs[0]
            else:
                config = replaced(config, {"run_dir": str(run.folder), "resume": "auto"})
            command = ["mtl", "train", *self.own, *run.overrides]
            try:
                run_job(config, run.folder, command, resumes=resumes)
            except Interrupted as error:
                error.go_on_with(self.again)
                raise

    def method(self, label: str, planned: Sequence[Planned]) -> Method:
        """Return the method that some finished runs are: seeds, each in one run or in several that
        share the tasks out."""
        method = Method(label, {})
        finished = read_runs([run.folder for run in planned], self.config_dir)
        for run, each in zip(planned, finished, strict=True):
            method.runs.setdefault(run.seed, []).append(each)
        return method
