"""`mtl train`: check the command line, then let Hydra compose it and run one job or a sweep."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import tempfile
import traceback
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mtlcli import commands
from mtlcli.checkpoint import run_of
from mtlcli.cli import first_rank, loader
from mtlcli.cli.overrides import parsed
from mtlcli.cli.preflight import HYDRA_ERRORS, VERSION_BASE, Plan, explain, preflight, read_arguments
from mtlcli.config import Config
from mtlcli.config.paths import conf_dir, typed_path
from mtlcli.config.snapshot import config_text, read_config
from mtlcli.disk import append, make_numbered, writing
from mtlcli.errors import Interrupted, MtlError, Problem, RunError, UserError, count_of
from mtlcli.output import outlive_reader
from mtlcli.pulse import Pulse, doing
from mtlcli.runner.launched import read_launch
from mtlcli.runner.owner import Owner

JOBS = "jobs.jsonl"
"""The list of a sweep's jobs. Who makes it owns the folder."""
LONGEST_NAME = 80
"""Characters of a sweep job's folder name."""


def train_main(argv: list[str]) -> int:
    """Run `mtl train` and return the exit code."""
    arguments = read_arguments(argv)
    if arguments.help or arguments.hydra_help:
        return _hydra(argv)
    read_launch()  # Half a launch is found before anything else is done.
    plan = preflight(arguments)
    options = _options(arguments)
    if plan.resumes is not None and arguments.cfg:
        print(config_text(plan.configs[0]), end="")
        return 0
    if arguments.cfg or arguments.info:
        return _hydra([*options, *plan.overrides])
    if arguments.multirun or "hydra.mode=MULTIRUN" in plan.overrides:
        return _sweep(options, plan)
    if plan.resumes is not None:
        _say_first(plan.configs[0], plan.resumes)
        # The run's own configuration is what counts, with what is typed on top: there is nothing for Hydra to compose.
        _run(plan.configs[0], run_of(plan.resumes), ["mtl", "train", *arguments.overrides], resumes=plan.resumes)
        return 0
    code = _hydra([*options, *plan.overrides])
    return code or _run_composed()


def _say_first(config: Config, resumes: Path | None = None) -> None:
    """Show a line before anything slow begins."""
    outlive_reader("stdout")
    if first_rank():
        what = "preparing" if resumes is None else f"going on with {run_of(resumes)}:"
        try:
            print(f"mtl train: {what} {count_of(len(config.tasks), 'task')} ({', '.join(config.tasks)})", flush=True)
        except OSError as error:
            reason = f"the output cannot be written: {error.strerror}"
            raise UserError(reason, "standard output", "make room where it goes, or send it elsewhere") from error


def _options(arguments: argparse.Namespace) -> list[str]:
    """The options for Hydra, before the overrides: it cannot read them in any order."""
    options = ["--multirun"] if arguments.multirun else []
    values = {"--cfg": arguments.cfg, "--info": arguments.info, "--package": arguments.package, "--config-dir": arguments.config_dir}
    for option, value in values.items():
        options += [option, value] if value is not None else []
    return options + (["--resolve"] if arguments.resolve else [])


def _hydra(argv: list[str]) -> int:
    """Run Hydra on a command line; its errors become ours."""
    # What Hydra prints through logging for a reader that has gone (`--info | head`) is not worth a traceback a line.
    logging.raiseExceptions = False
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Makes Hydra raise its errors instead of printing them.
    sys.argv = ["mtl train", *argv]
    loader.install()
    try:
        hydra.main(config_path=str(conf_dir()), config_name="train", version_base=VERSION_BASE)(job)()
    except HYDRA_ERRORS as error:
        raise UserError(explain(error)) from error
    except SystemExit as error:
        return 2 if error.code else 0
    return 0


# ------------------------------------------------------------------------------------------------ one job


@dataclass
class Job:
    """A single run as Hydra composed it. It is carried out after Hydra has returned, so that its errors are its own."""

    config: Config
    suite: str
    command: list[str]
    environment: dict[str, str]


_composed: list[Job] = []


def job(composed: DictConfig) -> float | None:
    """What Hydra calls for each job, in any process. In a sweep: the average score, which a sweeper can optimise."""
    if _is_sweep():
        return _sweep_job(composed)
    config = _config(composed)
    _composed.append(Job(config, _suite(config), _command(), dict(HydraConfig.get().job.env_set)))
    return None


def _run_composed() -> int:
    each = _composed.pop()
    os.environ.update(each.environment)
    if each.config.run_dir is None:
        _say_first(each.config)
        # The name is nobody's choice: another run of the same second takes the next number.
        _run(each.config, _default_folder(each.config, each.suite), each.command, numbered=True)
        return 0
    run_dir = Path(each.config.run_dir)
    if first_rank() and each.config.resume != "auto":
        _check_unused(run_dir)
    _say_first(each.config)
    _run(each.config, run_dir, each.command)
    return 0


def _run(config: Config, run_dir: Path, command: list[str], *, numbered: bool = False, resumes: Path | None = None) -> float:
    outlive_reader("stdout")
    with Pulse(config.logger.console) if first_rank() else nullcontext():
        doing("loading the program")
        from mtlcli.runner.job import run

        return run(config, run_dir, command=command, numbered=numbered, resumes=resumes)


def _config(composed: DictConfig) -> Config:
    values: Any = OmegaConf.to_container(composed, resolve=False)
    values.pop("task", None)
    config, problems = read_config(OmegaConf.create(values))
    if config is None:
        raise UserError(problems)
    return config


def _suite(config: Config) -> str:
    """What the run's tasks are called together: the name that was chosen, else the tasks."""
    chosen = HydraConfig.get().runtime.choices.get("task")
    if isinstance(chosen, str):
        return chosen.rpartition("/")[2]
    names = "+".join(config.tasks)
    return names if len(names) <= 40 else f"{len(config.tasks)}_tasks"


def _command() -> list[str]:
    """The command line that would run this job again."""
    own = [source.path for source in HydraConfig.get().runtime.config_sources if source.provider == "command-line"]
    overrides = [text.removeprefix("++") for text in HydraConfig.get().overrides.task]
    return ["mtl", "train", *(part for path in own for part in ("-cd", path)), *overrides]


def _default_folder(config: Config, suite: str) -> Path:
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{suite}_{config.sharing.name}_{config.weighting.name}"
    return Path("runs") / name


def _check_unused(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError("is a file, not a folder", where=f"run_dir={path}", fix="give another run_dir=")
    if path.is_dir() and any(path.iterdir()):
        Owner(path).check()
        resume = f"type {commands.setting('resume', path)} to go on with its run, or " if (path / "config.yaml").is_file() else ""
        raise UserError("the folder is not empty", where=f"run_dir={path}", fix=f"{resume}give another run_dir=, or delete the folder")


# ------------------------------------------------------------------------------------------------ a sweep


def _is_sweep() -> bool:
    return str(HydraConfig.get().mode).endswith("MULTIRUN")


def job_folder(number: int, overrides: str) -> str:
    """Name of a sweep job's folder: its number, then for each override, separated by |, the last part of the key and the value."""
    parts = []
    for override in overrides.split("|") if overrides else []:
        key, _, value = override.lstrip("+~").partition("=")
        parts.append(f"{key.rpartition('.')[2]}-{re.sub(r'[^A-Za-z0-9_.+-]+', '-', value).strip('-')}")
    return "_".join([str(number), *parts])[:LONGEST_NAME]


def _sweep(options: list[str], plan: Plan) -> int:
    """Run a sweep, then show and save the table of its jobs, whatever became of them."""
    outlive_reader("stdout")
    if "run_dir" in plan.swept:
        raise UserError("every job of a sweep has its own folder", where="run_dir", fix="give run_dir=DIR, the folder of the whole sweep")
    keys = [text.lstrip("+~").partition("=")[0] for text in plan.overrides]
    overrides = [text for key, text in zip(keys, plan.overrides, strict=True) if key not in ("run_dir", "hydra.sweep.dir")]
    if not first_rank():
        # Hydra makes folders in every process; those of the other ranks go away again.
        with tempfile.TemporaryDirectory() as temporary:
            return _hydra([*options, *overrides, f"hydra.sweep.dir={commands.hydra_value(temporary)}"])
    folder = _make_sweep_folder(plan)
    # Folders of jobs are named by what differs between them.
    same = [key for key in dict.fromkeys(keys) if key not in plan.swept and not key.startswith("hydra")]
    settings = [f"hydra.sweep.dir={commands.hydra_value(folder)}", f"hydra.job.config.override_dirname.exclude_keys={json.dumps(same)}"]
    try:
        _hydra([*options, *overrides, *settings])
    except BaseException as error:
        failed = _finish_sweep(folder)
        _remove_unused(folder)
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        if not failed or isinstance(error, KeyboardInterrupt):
            raise
        raise RunError(failed) from error
    failed = _finish_sweep(folder)
    if failed:
        raise RunError(failed)
    return 0


def _make_sweep_folder(plan: Plan) -> Path:
    """Make the folder of a sweep, with an empty list of its jobs. Raises UserError when it cannot be made or is used."""
    given = next((config.run_dir for config in plan.configs), None)
    for text in plan.overrides:
        if text.startswith("hydra.sweep.dir="):
            given = str(parsed(text).value())
    folder = typed_path(given, "run_dir") if given else Path("sweeps") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    if given:
        _check_unused(folder)
    with writing("the sweep folder", folder, "or give another run_dir=", kind=UserError):
        if given:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = make_numbered(folder)
        try:
            (folder / JOBS).open("x").close()
        except FileExistsError as error:
            raise UserError("another sweep is writing here", where=str(folder), fix="give another run_dir=") from error
    return folder


def _remove_unused(folder: Path) -> None:
    """Take back what was made for a sweep of which no job began. What others have put into the folder stays."""
    if (folder / JOBS).stat().st_size == 0:
        for name in (JOBS, "multirun.yaml"):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # It is not empty, or was there before.
            folder.rmdir()


def _finish_sweep(folder: Path) -> list[Problem]:
    """Show and save the table of a sweep's jobs; what went wrong in which of them."""
    from mtlcli.report.sweep import read_sweep, sweep_tables, varied, write_csv
    from mtlcli.screen import screen

    jobs = read_sweep(folder)
    if jobs:
        write_csv(jobs, folder / "sweep.csv")
        for table in sweep_tables(jobs):
            screen().print(table)
        print(f"sweep folder: {folder}", flush=True)
    return [
        Problem(each.reason or each.status, f"job {each.number} {' '.join(overrides)}".rstrip(), f"its folder: {each.folder}")
        for each, overrides in zip(jobs, varied(jobs), strict=True)
        if each.status != "finished"
    ]


def _sweep_job(composed: DictConfig) -> float:
    """One job of a sweep. When it fails its folder says so, and the other jobs go on."""
    from mtlcli.runner.folder import RunFolder

    settings = HydraConfig.get()
    sweep_dir, subdir = Path(settings.sweep.dir), str(settings.sweep.subdir)
    run_dir = sweep_dir / subdir
    overrides = [text.removeprefix("++") for text in settings.overrides.task]
    if first_rank():
        line = {"number": settings.job.num, "folder": subdir, "overrides": overrides}
        append(sweep_dir / JOBS, json.dumps(line) + "\n")
        print(f"\njob {settings.job.num}: {settings.job.override_dirname.replace('|', ' ').replace('++', '')}", flush=True)
    try:
        config = _config(composed)
        config.run_dir = str(run_dir)
        return _run(config, run_dir, _command())
    except Interrupted as error:
        # Hydra takes an Exception for one job's failure and starts the next job.
        raise KeyboardInterrupt from error
    except Exception as error:
        reason = str(error) if isinstance(error, MtlError) else f"{type(error).__name__}: {error}"
        if first_rank():
            if not isinstance(error, MtlError):
                traceback.print_exc()
            print(f"job {settings.job.num} failed: {reason}", file=sys.stderr, flush=True)
            if not (run_dir / "status.json").exists():
                RunFolder(run_dir).write_status("failed", reason=reason)
        raise


# At import, because another launcher names the folders in processes of its own.
OmegaConf.register_new_resolver("mtl.job_folder", job_folder, replace=True)
