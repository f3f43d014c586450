"""The verb `mtl train`: check and compose the command line, then carry out one run, or let Hydra
run a sweep."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf, open_dict

from mtlcli import commands
from mtlcli.cli import first_rank, loader
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.composition import HYDRA_ERRORS, VERSION_BASE, explain
from mtlcli.cli.overrides import parsed
from mtlcli.cli.preflight import Plan, preflight
from mtlcli.cli.task_files import is_path
from mtlcli.config import Config
from mtlcli.config.paths import conf_dir
from mtlcli.config.snapshot import config_text, read_config
from mtlcli.distributed.environment import read_launch
from mtlcli.errors import UserError, count_of
from mtlcli.output import outlive_reader
from mtlcli.pulse import Pulse, doing
from mtlcli.report.sweep import LISTED
from mtlcli.rundir.checkpoint import run_of
from mtlcli.rundir.lock import FolderLock

if TYPE_CHECKING:
    from mtlcli.training.run import Watch  # Its module imports torch.

LONGEST_NAME = 80
"""The largest number of characters in the name of a sweep job's folder."""


def train_main(argv: list[str]) -> int:
    """Run `mtl train` and return the exit code."""
    arguments = read_arguments(argv)
    if arguments.help or arguments.hydra_help:
        return run_hydra(argv)
    launch = read_launch()  # Refuse an incomplete launch before anything else is done.
    plan = preflight(arguments)
    notices = plan.notices
    if launch is not None and plan.resumes is None:
        typed = {config.runner.devices for config in plan.configs} - {1, launch.world_size}
        notices = notices + [
            f"note: runner.devices={count} is not used: the launcher has started "
            f"{launch.world_size} ranks"
            for count in typed
        ]
    for notice in notices if first_rank() else []:
        print(notice, file=sys.stderr, flush=True)
    options = _options(arguments)
    if plan.resumes is not None and arguments.cfg:
        print(config_text(plan.configs[0]), end="")
        return 0
    if arguments.cfg or arguments.info:
        return run_hydra([*options, *plan.overrides])
    if plan.resumes is None and plan.configs[0].stages:
        from mtlcli.cli.stages import train_stages

        return train_stages(plan, arguments)
    sweeps = arguments.multirun or "hydra.mode=MULTIRUN" in plan.overrides
    settings = plan.configs[0].sweep
    if not sweeps and plan.resumes is None and (settings.searches or settings.dry_run):
        what = "a search is a sweep" if settings.searches else "has an effect in a sweep only"
        where = "sweep" if settings.searches else "sweep.dry_run"
        raise UserError(what, where, "add -m, or leave it out")
    if sweeps and settings.dry_run:
        from mtlcli.cli.dry_run import dry_run

        return dry_run(plan, arguments)
    if sweeps and settings.searches:
        from mtlcli.cli.search import search

        return search(plan, arguments)
    if sweeps:
        from mtlcli.cli.sweep import sweep

        return sweep(options, plan, arguments)
    if plan.resumes is not None:
        _say_first(plan.configs[0], plan.resumes)
        # A resumed run has its own configuration, to which the overrides were applied, so Hydra has
        # nothing to compose.
        run_job(
            plan.configs[0],
            run_of(plan.resumes),
            ["mtl", "train", *arguments.overrides],
            resumes=plan.resumes,
        )
        return 0
    _run_planned(plan, arguments)
    return 0


def train_once(overrides: list[str], run_dir: str | Path | None, own: str | Path | None) -> Path:
    """Train from Python, in this process, and return the run folder. `own`: the folder behind
    `-cd`."""
    if run_dir is not None:
        overrides = [*overrides, f"run_dir={commands.hydra_value(Path(run_dir).absolute())}"]
    options = [] if own is None else ["-cd", str(own)]
    arguments = read_arguments([*options, *overrides])
    plan = preflight(arguments)
    first = plan.configs[0]
    several = len(plan.configs) != 1 or arguments.multirun or first.sweep.searches or first.stages
    if several or plan.composed is None:
        raise UserError(
            "this is a sweep, a command with stages or a run that goes on",
            "mtlcli.train",
            "type the same words behind `mtl train` in a shell",
        )
    for notice in plan.notices:
        print(notice, file=sys.stderr, flush=True)
    config = plan.configs[0]
    suite = suite_of(config, plan.composed.hydra.runtime.choices.get("task"))
    folder = Path(config.run_dir) if config.run_dir else _default_folder(config, suite)
    count = 1
    while config.run_dir is None and folder.exists():
        count += 1
        folder = _default_folder(config, f"{suite}_{count}")
    if config.run_dir is not None and config.resume != "auto":
        check_unused(folder)
    from mtlcli.runner.job import run

    run(config, folder, command=_command(options, overrides))
    return folder


def _say_first(config: Config, resumes: Path | None = None) -> None:
    """Show a line before anything slow begins."""
    outlive_reader("stdout")
    if first_rank():
        what = "preparing" if resumes is None else f"going on with {run_of(resumes)}:"
        try:
            print(
                f"mtl train: {what} {count_of(len(config.tasks), 'task')} "
                f"({', '.join(config.tasks)})",
                flush=True,
            )
        except OSError as error:
            reason = f"the output cannot be written: {error.strerror}"
            raise UserError(
                reason, "standard output", "make room where it goes, or send it elsewhere"
            ) from error


def _options(arguments: argparse.Namespace) -> list[str]:
    """Return the options for Hydra, in an order that it can read: before the overrides."""
    options = ["--multirun"] if arguments.multirun else []
    values = {
        "--cfg": arguments.cfg,
        "--info": arguments.info,
        "--package": arguments.package,
        "--config-dir": arguments.config_dir,
    }
    for option, value in values.items():
        options += [option, value] if value is not None else []
    return options + (["--resolve"] if arguments.resolve else [])


def run_hydra(argv: list[str]) -> int:
    """Run Hydra on a command line, to show a configuration or to sweep, and return the exit code.
    Hydra's errors are raised as UserError."""
    # When the reader of Hydra's logging has gone (`--info | head`), a traceback for each line would
    # help nobody.
    logging.raiseExceptions = False
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Makes Hydra raise its errors instead of printing them.
    sys.argv = ["mtl train", *argv]
    loader.install()
    from mtlcli.cli.sweep import sweep_job

    try:
        hydra.main(config_path=str(conf_dir()), config_name="train", version_base=VERSION_BASE)(
            sweep_job
        )()
    except HYDRA_ERRORS as error:
        raise UserError(explain(error)) from error
    except SystemExit as error:
        return 2 if error.code else 0
    return 0


# ------------------------------------------------------------------------------------------------
# one job


def _run_planned(plan: Plan, arguments: argparse.Namespace) -> None:
    """Carry out a new run, the only job of a command line."""
    config, composed = plan.configs[0], plan.composed
    assert composed is not None, "a new run is composed"
    with open_dict(composed):
        composed.hydra.runtime.output_dir = str(Path.cwd())
    # What Hydra's own main does before it calls a job: its files of logging name that folder.
    configure_log(composed.hydra.job_logging, composed.hydra.verbose)
    os.environ.update({str(name): str(text) for name, text in composed.hydra.job.env_set.items()})
    own = ["-cd", str(Path(arguments.config_dir).absolute())] if arguments.config_dir else []
    command = _command(own, [text for text in plan.overrides if not _is_hydras(text)])
    if config.run_dir is None:
        _say_first(config)
        # The user has not chosen the name, so another run of the same second takes the next number.
        suite = suite_of(config, composed.hydra.runtime.choices.get("task"))
        run_job(config, _default_folder(config, suite), command, numbered=True)
        return
    run_dir = Path(config.run_dir)
    if first_rank() and config.resume != "auto":
        check_unused(run_dir)
    _say_first(config)
    run_job(config, run_dir, command)


def _is_hydras(override: str) -> bool:
    return parsed(override).is_hydra_override()


def run_job(
    config: Config,
    run_dir: Path,
    command: list[str],
    *,
    numbered: bool = False,
    resumes: Path | None = None,
    watch: Watch | None = None,
) -> float:
    """Carry out a run and show its activity meanwhile; return its average score. `watch`: see
    `runner/job.py`."""
    outlive_reader("stdout")
    with Pulse(config.logger.console) if first_rank() else nullcontext():
        doing("loading the program")
        from mtlcli.runner.job import run

        return run(
            config, run_dir, command=command, numbered=numbered, resumes=resumes, watch=watch
        )


def suite_of(config: Config, chosen: Any) -> str:
    """Return a name for the run's tasks: the name of the chosen suite or task, else the names of
    the tasks. `chosen`: the choice in the group `task`."""
    if isinstance(chosen, str):
        return (Path(chosen).stem if is_path(chosen) else chosen.rpartition("/")[2])[:LONGEST_NAME]
    names = "+".join(config.tasks)
    return names if len(names) <= 40 else f"{len(config.tasks)}_tasks"


def _command(own: list[str], overrides: list[str]) -> list[str]:
    return ["mtl", "train", *own, *(text.removeprefix("++") for text in overrides)]


def _default_folder(config: Config, suite: str) -> Path:
    name = (
        f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{suite}_{config.sharing.name}_{config.weighting.name}"
    )
    return Path("runs") / name


def check_unused(path: Path) -> None:
    """Raise UserError when a run or sweep folder cannot be made at a path, because something else
    is there."""
    if path.exists() and not path.is_dir():
        raise UserError(
            "the path is a file, not a folder", where=f"run_dir={path}", fix="give another run_dir="
        )
    if path.is_dir() and any(path.iterdir()):
        FolderLock(path).check()
        resume = (
            f"type {commands.setting('resume', path)} to go on with its run, or "
            if (path / "config.yaml").is_file()
            else ""
        )
        # Do not advise the user to delete a folder that no run has written, least of all the
        # current folder.
        ours = any(
            (path / name).is_file() for name in ("config.yaml", LISTED)
        ) and not Path.cwd().is_relative_to(path.resolve())
        fix = f"{resume}give another run_dir=" + (", or delete the folder" if ours else "")
        raise UserError("the folder is not empty", where=f"run_dir={path}", fix=fix)


# ------------------------------------------------------------------------------------------------
# a job of a sweep


def config_of(composed: DictConfig) -> Config:
    """Return the Config that Hydra has composed. Raises UserError with every mistake in it."""
    values: Any = OmegaConf.to_container(composed, resolve=False)
    values.pop("task", None)
    config, problems = read_config(OmegaConf.create(values))
    if config is None:
        raise UserError(problems)
    return config


def command_of() -> list[str]:
    """Return the command line that would run this job again."""
    settings = HydraConfig.get()
    own = [part for folder in own_folders(settings) for part in ("-cd", folder)]
    return _command(own, settings.overrides.task)


def own_folders(settings: Any) -> list[str]:
    """Return the folder behind `-cd`, if there is one. `settings`: Hydra's, of a job."""
    sources = settings.runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


def job_folder(number: int, overrides: str) -> str:
    """Return the name of a sweep job's folder: its number, then the last part of the key and the
    value of each override. `overrides` are separated by |."""
    parts = []
    for override in overrides.split("|") if overrides else []:
        key, _, value = override.lstrip("+~").partition("=")
        parts.append(
            f"{key.rpartition('.')[2]}-{re.sub(r'[^A-Za-z0-9_.+-]+', '-', value).strip('-')}"
        )
    return "_".join([str(number), *parts])[:LONGEST_NAME]


# Register at import, because another launcher names the folders in separate processes.
OmegaConf.register_new_resolver("mtl.job_folder", job_folder, replace=True)
