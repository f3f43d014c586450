"""What `mtl train -m sweep.dry_run=true` shows: the jobs that a sweep would run, or how a search
would go on. Nothing is started, and no folder is made."""

from __future__ import annotations

import argparse
import itertools
import shlex
from pathlib import Path
from typing import Any

from mtlcli.cli.overrides import parsed
from mtlcli.cli.preflight import Plan
from mtlcli.cli.sweep import canonical, given_folder, resume_command, same_sweep
from mtlcli.cli.typed import key_in
from mtlcli.config import Sweep
from mtlcli.errors import count_of
from mtlcli.report.sweep import LISTED, listed_jobs, read_job


def dry_run(plan: Plan, arguments: argparse.Namespace) -> int:
    """Print what the command would do without `sweep.dry_run`, and return 0."""
    folder = given_folder(plan)
    begun = folder is not None and (folder / LISTED).is_file() and plan.configs[0].resume == "auto"
    place = "sweeps/<date>_<time>" if folder is None else str(folder)
    sweep = plan.configs[0].sweep
    if sweep.searches:
        _show_search(sweep, arguments, folder if begun else None, place)
        return 0
    if folder is not None and begun:
        same_sweep(folder, plan)
    launcher = next(
        (text for text in plan.overrides if text.startswith("hydra/launcher=")),
        "hydra/launcher=basic (one after another, in this process)",
    )
    own = ["-cd", arguments.config_dir] if arguments.config_dir is not None else []
    jobs = [
        [text for text in texts if not parsed(text).is_hydra_override() and key_in(text) not in OWN]
        for texts in map(list, itertools.product(*plan.values))
    ]
    missing = 0
    for number, texts in enumerate(jobs):
        entry = _listed(folder, texts, plan.swept) if folder is not None and begun else None
        status = "new" if entry is None else read_job(entry, folder or Path()).status
        missing += status != "finished"
        print(f"job {number} ({status}): {shlex.join(['mtl', 'train', *own, *texts])}")
    what = f"{count_of(missing, 'job')} of {len(jobs)} would run in {place} with {launcher}"
    print(f"{what}; nothing was started (sweep.dry_run)", flush=True)
    return 0


OWN = ("run_dir", "resume", "sweep", "sweep.dry_run")
"""Keys that belong to the sweep, not to its jobs."""


def _listed(folder: Path, texts: list[str], swept: list[str]) -> dict[str, Any] | None:
    """Return the entry of the job with these overrides in the list of a sweep's jobs, None if there
    is none."""

    def differing(texts: list[str]) -> list[str]:
        return sorted(canonical(text) for text in texts if key_in(text) in swept)

    for entry in listed_jobs(folder):
        if differing(entry["overrides"]) == differing(texts):
            return entry
    return None


def _show_search(
    sweep: Sweep, arguments: argparse.Namespace, begun: Path | None, place: str
) -> None:
    """Print what a search would do. `begun`: its folder, if it has begun."""
    trials = {entry["trial"] for entry in listed_jobs(begun)} if begun is not None else set()
    runs = count_of(sweep.folds, "run") if sweep.folds is not None else "1 run"
    words = [text for text in arguments.overrides if key_in(text) != "sweep.dry_run"]
    arguments = argparse.Namespace(config_dir=arguments.config_dir, overrides=words)
    for key, choice in sweep.space.items():
        print(f"  {key}: {choice}")
    print(
        f"{sweep.trials} trials of {runs} each by sweep={sweep.name}, {len(trials)} of them begun, "
        f"in {place}; nothing was started (sweep.dry_run)"
    )
    worker = resume_command(arguments, Path(place))
    print(f"one of several processes that share the trials: {worker}")
    print(f"on SLURM, for example 8: sbatch --array=0-7 --wrap {shlex.quote(worker)}", flush=True)
