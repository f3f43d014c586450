"""The runs that a verb carries out one after another: which have finished, and the training of the
others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli.cli.typed import key_in
from mtlcli.config import Config
from mtlcli.config.changes import changes, digest, filled, judge
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
from mtlcli.errors import Interrupted, Problem, count_of
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder


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
    """`trains`, `goes on` or `has finished`."""


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


def folder_of(run: Planned, place: Path) -> Path:
    """Return the folder of a run: its label, its seed, and a digest of its configuration. By the
    digest it is found again, whatever the run is called in another comparison."""
    mark = digest(run.config, place)
    label = "".join(c if c.isalnum() or c in "_.+-" else "-" for c in run.label)[:60]
    return next(iter(sorted(place.glob(f"*_{mark}"))), place / f"{label}_seed-{run.seed}_{mark}")


def state_of(run: Planned) -> list[Problem]:
    """Find out whether a run has finished or goes on. Return a problem where its folder holds a run
    with other settings."""
    place = RunFolder(run.folder)
    saved = run.folder / "config.yaml"
    status = place.status().get("status")
    if not saved.is_file() or not (status == "finished" or checkpoint.folders(place.checkpoints)):
        return []
    before = load_config(saved)
    refused, _ = judge(changes(before, filled(before, run.config)), [], dropout=False)
    if refused:
        what = "; ".join(str(each.change) for each in refused[:3])
        return [
            Problem(
                f"the run there was trained with other settings: {what}",
                str(run.folder),
                "move the folder away, or give another run_dir=",
            )
        ]
    run.state = "has finished" if status == "finished" else "goes on"
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


def announce(verb: str, planned: Sequence[Planned], folder: Path) -> None:
    """Print what will be trained, and what is there."""
    new = sum(run.state != "has finished" for run in planned)
    print(f"{verb}: {count_of(len(planned), 'run')} in {folder}, {new} of them to train")
    for run in planned:
        print(f"  {run.label}, seed {run.seed}: {run.state} ({run.folder.name})")
    sys.stdout.flush()


def train(planned: Sequence[Planned], own: list[str], again: str) -> None:
    """Train the runs that have not finished, one after another. Raises Interrupted, with the
    command to go on with, when a signal comes."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.cli.train import run_job

    waiting = [run for run in planned if run.state != "has finished"]
    for number, run in enumerate(waiting, start=1):
        print(f"\nrun {number} of {len(waiting)}: {run.label}, seed {run.seed}", flush=True)
        resumes, config = run.folder if run.state == "goes on" else None, run.config
        if resumes is not None:
            config = preflight(read_arguments([*own, *run.overrides]), resumes).configs[0]
        else:
            config = replaced(config, {"run_dir": str(run.folder), "resume": "auto"})
        command = ["mtl", "train", *own, *run.overrides]
        try:
            run_job(config, run.folder, command, resumes=resumes)
        except Interrupted as error:
            error.go_on_with(again)
            raise
