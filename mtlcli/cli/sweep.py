"""A sweep, `mtl train -m`: its jobs run one after another, in a folder in which a killed sweep can
be resumed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtlcli import commands
from mtlcli.cli import first_rank
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.overrides import parsed
from mtlcli.cli.preflight import Plan, preflight
from mtlcli.cli.train import (
    check_unused,
    command_of,
    config_of,
    job_folder,
    own_folders,
    run_hydra,
    run_job,
)
from mtlcli.cli.typed import key_in
from mtlcli.config.changes import harmless
from mtlcli.config.own_code import import_folder
from mtlcli.config.paths import typed_path
from mtlcli.config.section import replaced
from mtlcli.disk import append, make_numbered, write_whole, writing
from mtlcli.errors import Interrupted, MtlError, Problem, RunError, UserError, count_of
from mtlcli.output import outlive_reader
from mtlcli.report.sweep import (
    LISTED,
    SweepJob,
    listed_jobs,
    read_job,
    read_sweep,
    sweep_tables,
    varied,
    write_csv,
)
from mtlcli.rundir import checkpoint

JOBS = "MTL_SWEEP_JOBS"
"""The environment variable with the number of jobs, for jobs that a launcher runs in separate
processes."""
ITS_OWN = ("run_dir", "resume", "allow", "hydra.sweep.dir")
"""Keys about the place of a sweep and the way to run it, not about its jobs."""

_folder_of_first_rank: Path | None = None
"""The sweep's folder on other ranks, where Hydra has another folder."""
_reasons: dict[str, int] = {}
"""The reasons why jobs of this process failed, with the number of the first job that failed for
each reason."""
_failed: set[int] = set()
"""The numbers of all jobs of this process that failed, including those whose folder holds the
status of an earlier end."""


def sweep(options: list[str], plan: Plan, arguments: argparse.Namespace) -> int:
    """Run a sweep, then show and save the table of its jobs, also when jobs have failed."""
    global _folder_of_first_rank
    outlive_reader("stdout")
    if "run_dir" in plan.swept:
        raise UserError(
            "every job of a sweep has its own folder",
            where="run_dir",
            fix="give run_dir=DIR, the folder of the whole sweep",
        )
    keys = [key_in(text) for text in plan.overrides]
    overrides = [
        text
        for key, text in zip(keys, plan.overrides, strict=True)
        if key not in ("run_dir", "hydra.sweep.dir")
    ]
    # The folder of a job is named after the keys in which the jobs differ, so exclude all others.
    same = [
        key for key in dict.fromkeys(keys) if key not in plan.swept and not key.startswith("hydra")
    ]
    overrides.append(f"hydra.job.config.override_dirname.exclude_keys={json.dumps(same)}")
    if not first_rank():
        # Hydra makes folders in every process; those of the other ranks are temporary.
        _folder_of_first_rank = given_folder(plan)
        with tempfile.TemporaryDirectory() as temporary:
            return run_hydra(
                [*options, *overrides, f"hydra.sweep.dir={commands.hydra_value(temporary)}"]
            )
    folder = make_folder(plan)
    again = resume_command(arguments, folder)
    if plan.jobs is not None:
        os.environ[JOBS] = str(plan.jobs)
    try:
        run_hydra([*options, *overrides, f"hydra.sweep.dir={commands.hydra_value(folder)}"])
    except BaseException as error:
        failed = finish(folder, again)
        _remove_unused(folder)
        if isinstance(error.__cause__, Interrupted):
            error.__cause__.go_on_with(again)
            raise error.__cause__ from None
        if not folder.exists() and not isinstance(error, (MtlError, KeyboardInterrupt)):
            launcher = next(
                (text for text in plan.overrides if text.startswith("hydra/launcher=")), ""
            )
            reason = (str(error).strip().splitlines() or [""])[0]
            what = f"no job could be started: {type(error).__name__}: {reason}"
            raise UserError(
                what, where=launcher, fix="check the launcher's settings, or leave it out"
            ) from error
        if not failed or isinstance(error, KeyboardInterrupt):
            raise
        raise RunError(failed) from error
    finally:
        os.environ.pop(JOBS, None)
    failed = finish(folder, again)
    if failed:
        raise RunError(failed)
    return 0


def resume_command(arguments: argparse.Namespace, folder: Path) -> str:
    """Return the command that resumes the sweep."""
    own = ["-cd", arguments.config_dir] if arguments.config_dir is not None else []
    words = [text for text in arguments.overrides if key_in(text) not in ITS_OWN]
    return (
        f"{shlex.join(['mtl', 'train', '-m', *own, *words])} "
        f"{commands.setting('run_dir', folder)} resume=auto"
    )


# ------------------------------------------------------------------------------------------------
# the sweep's folder


def given_folder(plan: Plan) -> Path | None:
    """Return the folder that a sweep's command line names, or None."""
    given = next((config.run_dir for config in plan.configs), None)
    for text in plan.overrides:
        if text.startswith("hydra.sweep.dir="):
            given = str(parsed(text).value())
    return typed_path(given, "run_dir") if given is not None else None


def make_folder(plan: Plan) -> Path:
    """Make the folder of a sweep, with an empty list of its jobs, or use the folder of a sweep that
    is resumed.

    Raises UserError when the folder cannot be made or is in use.
    """
    given = given_folder(plan)
    if (
        given is not None
        and plan.configs[0].resume == "auto"
        and given.is_dir()
        and any(given.iterdir())
    ):
        reopen(given, plan)
        return given
    folder = given or Path("sweeps") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    if given is not None:
        check_unused(folder)
    with writing("the sweep folder", folder, "or give another run_dir=", kind=UserError):
        if given is not None:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = make_numbered(folder)
        try:
            (folder / LISTED).open("x").close()
        except FileExistsError as error:
            raise UserError(
                "another sweep is writing here", where=str(folder), fix="give another run_dir="
            ) from error
    return folder


def reopen(folder: Path, plan: Plan) -> None:
    """Resume the sweep in a folder, if `same_sweep` allows it."""
    same_sweep(folder, plan)
    # Write the list again without a last line that a kill has cut short: the next entry would be
    # added to that line.
    entries = listed_jobs(folder)
    write_whole(folder / LISTED, "".join(json.dumps(entry) + "\n" for entry in entries))


def same_sweep(folder: Path, plan: Plan) -> None:
    """Check that a sweep can be resumed in a folder: the folder must hold a sweep whose jobs differ
    from these only in the swept keys. Raises UserError if not."""
    if not (folder / LISTED).is_file():
        fix = (
            "leave out -m to go on with that run"
            if (folder / "config.yaml").is_file()
            else "give another run_dir="
        )
        raise UserError(
            f"the folder holds no sweep (looked for {LISTED})", f"run_dir={folder}", fix
        )
    for entry in listed_jobs(folder):
        before, now = (
            {canonical(text) for text in texts if _counts(key_in(text), plan)}
            for texts in (entry["overrides"], plan.overrides)
        )
        if before != now:
            began, types = (
                " ".join(sorted(some)) or "nothing" for some in (before - now, now - before)
            )
            what = (
                f"the sweep in this folder was started with other values: {began} there, {types} "
                "here"
            )
            raise UserError(
                what,
                f"run_dir={folder}",
                "type the values that it was started with, or give another run_dir=",
            )


def _counts(key: str, plan: Plan) -> bool:
    """Return whether a key that is not swept affects the jobs of a sweep."""
    return (
        key not in plan.swept
        and key not in ITS_OWN
        and not key.startswith(("hydra", "sweep"))
        and not harmless(key)
    )


def canonical(override: str) -> str:
    """Return an override in one form for all ways to type it, such as `1e-3` and `0.001`."""
    read = parsed(override)
    return f"{read.get_key_element().lstrip('+')}={read.get_value_element_as_str()}"


def _remove_unused(folder: Path) -> None:
    """Remove the files and the folder of a sweep of which no job has begun. Files of others in the
    folder stay."""
    if (folder / LISTED).stat().st_size == 0:
        for name in (LISTED, "multirun.yaml"):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # Other files are in the folder.
            folder.rmdir()


def finish(folder: Path, again: str, ended: frozenset[int] = frozenset()) -> list[Problem]:
    """Show and save the table of a sweep's jobs. Return a problem that names the jobs that did not
    finish. `again`: the command that resumes the sweep. `ended`: the numbers of jobs that count as
    ended, whatever their status is."""
    from mtlcli.screen import screen

    jobs = read_sweep(folder)
    if jobs:
        write_csv(jobs, folder / "sweep.csv")
        for table in sweep_tables(jobs):
            screen().print(table)
        print(f"sweep folder: {folder}", flush=True)
    unfinished = [
        f"job {each.number}{f' ({settings})' if (settings := ' '.join(overrides)) else ''} "
        f"{'failed' if each.number in _failed else each.status}"
        for each, overrides in zip(jobs, varied(jobs), strict=True)
        if each.number not in ended
        and (each.status not in ("finished", "pruned") or each.number in _failed)
    ]
    if not unfinished:
        return []
    what = (
        f"{len(unfinished)} of {count_of(len(jobs), 'job')} did not finish: {'; '.join(unfinished)}"
    )
    return [
        Problem(
            what,
            str(folder),
            f"the reasons are above and in sweep.csv; then go on with: {again}",
        )
    ]


# ------------------------------------------------------------------------------------------------
# one job


def sweep_job(composed: DictConfig) -> float:
    """Run one job of a sweep and return its average score. The status of a failed job is in its
    folder, and the other jobs continue.

    A job that has finished is not run again.
    """
    from mtlcli.rundir.folder import RunFolder

    settings = HydraConfig.get()
    # A launcher may run the jobs in processes of their own.
    for folder in own_folders(settings):
        import_folder(Path(folder))
    place = Path(settings.sweep.dir)
    config = config_of(composed)
    entry, listed = _entry(_folder_of_first_rank or place, settings)
    run_dir = place / entry["folder"]
    before = (
        read_job(entry, _folder_of_first_rank or place)
        if listed and config.resume == "auto"
        else None
    )
    if first_rank():
        _take_back(place / str(settings.sweep.subdir), run_dir)
        _announce(entry, settings, before)
        if not listed:
            append(place / LISTED, json.dumps(entry) + "\n")
    if before is not None and before.status == "finished":
        return float("nan") if before.average is None else before.average
    try:
        config = replaced(config, {"run_dir": str(run_dir)})
        if checkpoint.folders(run_dir / "checkpoints") and config.resume == "auto":
            command = command_of()
            arguments = read_arguments(
                [text for text in command[2:] if key_in(text) not in ("resume", "run_dir")]
            )
            return run_job(
                preflight(arguments, run_dir).configs[0], run_dir, command, resumes=run_dir
            )
        return run_job(config, run_dir, command_of())
    except Interrupted as error:
        # Hydra would take an Exception for the failure of one job, and start the next job.
        raise KeyboardInterrupt from error
    except Exception as error:
        reason = str(error) if isinstance(error, MtlError) else f"{type(error).__name__}: {error}"
        _failed.add(entry["number"])
        if first_rank():
            first = _reasons.setdefault(reason, entry["number"])
            if not isinstance(error, MtlError) and first == entry["number"]:
                traceback.print_exc()
            shown = reason if first == entry["number"] else f"for the same reason as job {first}"
            print(f"job {entry['number']} failed: {shown}", file=sys.stderr, flush=True)
            if not (run_dir / "status.json").exists():
                run_dir.mkdir(exist_ok=True)
                RunFolder(run_dir).write_status("failed", reason=reason)
        if str(settings.sweeper._target_).endswith(".BasicSweeper"):
            # The basic sweeper optimises nothing, and the failure has been shown: Hydra would show
            # it again.
            return float("nan")
        raise


def _entry(folder: Path, settings: Any) -> tuple[dict[str, Any], bool]:
    """Return this job's entry in the list of jobs, and whether the entry is in the list already."""
    overrides = [
        text.removeprefix("++") for text in settings.overrides.task if key_in(text) != "resume"
    ]
    same = [*settings.job.config.override_dirname.exclude_keys]

    def differing(texts: list[str]) -> list[str]:
        return sorted(canonical(text) for text in texts if key_in(text) not in same)

    entries = listed_jobs(folder)
    for entry in entries:
        if differing(entry["overrides"]) == differing(overrides):
            return entry, True
    number = int(settings.job.num)
    if any(entry["number"] == number for entry in entries):
        # The resumed sweep has more values than before, so Hydra's number belongs to another job.
        number = max(entry["number"] for entry in entries) + 1
    name = job_folder(number, settings.job.override_dirname)
    return {"number": number, "folder": name, "overrides": overrides}, False


def _take_back(made: Path, used: Path) -> None:
    """Remove the empty folder that Hydra has made for a job that uses another folder."""
    if made != used and made.is_dir() and not any(made.iterdir()):
        made.rmdir()


def _announce(entry: dict[str, Any], settings: Any, before: SweepJob | None) -> None:
    """Print the first line about a job."""
    total = f" ({settings.job.num + 1} of {os.environ[JOBS]})" if JOBS in os.environ else ""
    what = settings.job.override_dirname.replace("|", " ").replace("++", "")
    state = ""
    if before is not None:
        state = (
            ": has already finished"
            if before.status == "finished"
            else f": resumes (it was {before.status})"
        )
    print(f"\njob {entry['number']}{total}: {what}{state}", flush=True)
