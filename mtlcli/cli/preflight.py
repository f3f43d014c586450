"""The check of a `mtl train` command line: every mistake that can be found before Hydra runs a job
or makes a folder."""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import KeyValidationError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from mtlcli import commands
from mtlcli.cli.hydras import idle_key, missing_plugin
from mtlcli.cli.loader import Loader
from mtlcli.cli.overrides import added, apply, doubled, is_task, parsed
from mtlcli.cli.typed import (
    broken_yaml,
    config_dir_problems,
    joined,
    quoted,
    several,
    unreadable,
    without_value,
)
from mtlcli.config import Config
from mtlcli.config.crosscheck import missing_files, missing_model, untyped_code
from mtlcli.config.environment import typed_tokens
from mtlcli.config.formats import split_name
from mtlcli.config.idle import idle, unheeded
from mtlcli.config.machine import missing_device
from mtlcli.config.paths import conf_dir, typed_path
from mtlcli.config.renamed import old_name
from mtlcli.config.schema import QUOTE_NULL, is_inside
from mtlcli.config.snapshot import read_config, saved_values
from mtlcli.config.validate import check_key
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest
from mtlcli.rundir.checkpoint import run_of

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
MOST_JOBS = 100
"""The number of jobs of a sweep up to which combinations of values are composed; every single value
is composed in any case."""
MOST_VALUES = 200
"""The number of values of one key of a sweep that are tried; in a longer list, the first ones and
the last."""
VERSION_BASE = "1.3"
CHOSEN_BY = {
    "tasks": "task",
    "sharing": "sharing",
    "weighting": "weighting",
    "sampling": "sampling",
    "optim": "optim",
}
"""Sections whose keys depend on the choice in a group, with the group. When the choice is wrong,
their keys cannot be checked."""
PACKAGE = re.compile(r"\s*#\s*@package\b[ \t]*(.*?)\s*$")
RENAME = (
    "rename the file: a name begins with a letter and has letters, digits, - and _ only, and "
    "is not null, true or false"
)
HEADER = re.compile(r"tasks\.[A-Za-z][A-Za-z0-9_-]*|_global_")


@dataclass
class Plan:
    """A command line without mistakes."""

    overrides: list[str]
    """The overrides for Hydra, in a form that adds keys of the schema that no file contains."""
    swept: list[str]
    """The keys with several values."""
    configs: list[Config]
    """The configs that were composed; for a long sweep the first ones."""
    resumes: Path | None
    """The run folder, or the checkpoint, from which the run is resumed."""
    jobs: int | None
    """The number of jobs of a sweep; None where it is not known beforehand."""
    notices: list[str] = field(default_factory=list)
    """Notes for the user that are not about mistakes."""
    composed: DictConfig | None = None
    """The composition of the chosen files with Hydra's own part, on which the first config is
    built; None where a run that is resumed has needed no composition."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        what = f"unknown option '{unknown.split()[0]}'" if unknown != message else message
        raise UserError(
            what,
            fix="values are given as key=value, for example task=rte; mtl train --help tells the "
            "options",
        )


def read_arguments(argv: list[str]) -> argparse.Namespace:
    """Read Hydra's own options and overrides, in any order. Raises UserError for an unknown
    option."""
    hydras = get_args_parser()
    hydras.__class__ = _Parser
    arguments = hydras.parse_intermixed_args(argv)
    instead = "use -cd DIR and key=value"
    refused = {
        "--config-path": (arguments.config_path, instead),
        "--config-name": (arguments.config_name, instead),
        "--experimental-rerun": (arguments.experimental_rerun, instead),
        "--shell-completion": (
            arguments.shell_completion or None,
            "mtl completion bash, zsh or fish prints mtl's own",
        ),
    }
    problems = [
        Problem("the option is not supported", option, fix)
        for option, (value, fix) in refused.items()
        if value is not None
    ]
    commands = [
        option
        for option, given in {
            "--multirun": arguments.multirun,
            "--cfg": arguments.cfg,
            "--info": arguments.info,
            "--run": arguments.run,
        }.items()
        if given
    ]
    if len(commands) > 1:
        problems.append(
            Problem(f"{' and '.join(commands)} cannot be combined", fix="give one of them")
        )
    if arguments.resolve and not (arguments.cfg or arguments.help):
        problems.append(Problem("the option shows nothing by itself", "--resolve", "add --cfg job"))
    if arguments.config_dir is not None:
        arguments.config_dir = str(typed_path(arguments.config_dir, "-cd"))
        problems += config_dir_problems(Path(arguments.config_dir))
    if problems:
        raise UserError(problems)
    return arguments


def preflight(arguments: argparse.Namespace, resumes: Path | None = None) -> Plan:
    """Check a command line. Raises UserError with every mistake in it. `resumes`: resume this run,
    whatever the command line says about `resume`."""
    return _Preflight(arguments, resumes).plan()


def explain(error: BaseException) -> Problem:
    """Return an error of Hydra, OmegaConf or YAML as a problem in plain words."""
    cause = error
    while not str(cause) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
        group, _, name = cause.missing_cfg_file.rpartition("/")
        asked = re.search(r"In '([^']+)'", str(cause))
        own = conf_dir() / group
        options = list(cause.options or sorted(path.stem for path in own.glob("*.yaml")))
        where = asked.group(1) if asked else group
        return old_name(group, name, f"{group}={name}") or Problem(
            f"there is no file '{cause.missing_cfg_file}.yaml'", where, suggest(name, options)
        )
    if isinstance(cause, YAMLError):
        return broken_yaml(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    lines = [
        line
        for line in lines
        if not line.startswith(
            ("full_key:", "object_type=", "See https", "Config search path", "provider=")
        )
    ]
    key = re.search(r"full_key: (\S+)", str(cause))
    where = key.group(1) if key else ""
    if isinstance(cause, KeyValidationError) and "'NoneType'" in str(cause):
        return Problem("one of its keys is null", where, QUOTE_NULL)
    return Problem(" ".join(lines) or type(cause).__name__, where)


def _package(path: Path) -> str | None:
    """Return the package in the header of a task file, to which its values belong; None where there
    is no such header.

    Hydra reads headers, `# @KEY VALUE`, only from the lines before the first line that is neither a
    header nor empty.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    headers = itertools.takewhile(
        lambda line: re.match(r"\s*#\s*@", line), filter(str.strip, lines)
    )
    return next((found[1] for line in headers if (found := PACKAGE.match(line))), None)


def _bad_header(path: Path) -> list[Problem]:
    """Return a problem if the header of a task file does not name a task."""
    package = _package(path)
    if package is None or HEADER.fullmatch(package):
        return []
    fix = (
        "a task's name begins with a letter and has letters, digits, - and _ only; for example "
        f"# @package {_proposal(package)}"
    )
    return [Problem(f"the header '# @package {package}' does not name a task", str(path), fix)]


def unusable(group: str, path: Path) -> list[Problem]:
    """Return problems if a file of the user cannot be chosen by its name."""
    name = path.stem
    try:
        readable = str(parsed(f"{group}={name}").value()) == name
    except (HydraException, ValueError):
        # The command line puts a plain text that Hydra cannot read into quotes.
        readable = quoted(f"{group}={name}") is not None
    if not readable:
        return [
            Problem(
                f"{group}={name} is not read as the name of this file, so it cannot be chosen",
                str(path),
                RENAME,
            )
        ]
    return _bad_header(path) if group == "task" else []


def _names(override: Override) -> list[str]:
    """Return the choices that an override of a group names."""
    value = override.value()
    return [str(each) for each in (value if isinstance(value, list) else [value])]


def _proposal(package: str) -> str:
    """Return a proposal for a task's header, with other characters for those that a name cannot
    have."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"^tasks?\.", "", package)).strip("_")
    return f"tasks.{name}" if re.match("[A-Za-z]", name) else f"tasks.task_{name}".rstrip("_")


def _loader(own: Path | None) -> ConfigLoader:
    """Return our loader, with the search path that `hydra.main` makes from the arguments."""
    version.setbase(VERSION_BASE)
    setup_globals()
    path = create_config_search_path(str(conf_dir()))
    if own is not None:
        path.prepend(
            provider="command-line",
            path=f"file://{own.absolute()}",
            anchor=SearchPathQuery(provider="schema"),
        )
    return Loader(config_search_path=path)


def _text(override: Override) -> str | None:
    """Return the text of an override before the configuration is composed; None for null. Raises
    UserError for `${KEY}`."""
    try:
        value = OmegaConf.create({"value": override.value()})["value"]
    except OmegaConfBaseException as error:
        fix = "write the value; only ${oc.env:NAME} can stand for it here"
        raise UserError(
            f"'{override.value()}' cannot be resolved before the run is known",
            override.key_or_group,
            fix,
        ) from error
    return None if value is None else str(value)


def _choices(chosen: list[Override]) -> tuple[str, ...]:
    return tuple(override.input_line or "" for override in chosen)


class _Preflight:
    def __init__(self, arguments: argparse.Namespace, resumes: Path | None) -> None:
        self.own = Path(arguments.config_dir) if arguments.config_dir is not None else None
        self.loader = _loader(self.own)
        self.groups = [group for group in self.loader.list_groups("") if group != "hydra"]
        self.problems: dict[Problem, None] = {}
        self.notices: list[str] = []
        self.unclear: list[str] = []
        # train.yaml contains `experiment=null`, but Hydra does not accept it on the command line.
        self.overrides = self._parse(
            [text for text in arguments.overrides if text != "experiment=null"]
        )
        modes = [
            str(override.value())
            for override in self.overrides
            if override.key_or_group == "hydra.mode"
        ]
        self.sweep = bool(arguments.multirun) or "MULTIRUN" in modes
        self.bad_groups: set[str] = set()
        self.resumes = resumes or self._resumed()
        self.saved: dict[str, Any] | None = None
        self.composed: dict[tuple[str, ...], tuple[DictConfig | None, list[Problem]]] = {}

    def plan(self) -> Plan:
        if self.resumes is not None:
            self.saved = saved_values(run_of(self.resumes) / "config.yaml")
        self._check_own_files()
        self.overrides = [override for override in self.overrides if self._does_something(override)]
        values = {id(override): self._values(override) for override in self.overrides}
        for override in self.overrides:
            if self._is_group(override):
                self._check_choices(override, values[id(override)])
        if self.bad_groups & {"experiment"}:
            raise UserError(self.problems)
        configs = []
        swept = [
            override.key_or_group for override in self.overrides if override.is_sweep_override()
        ]
        found: dict[Problem, list[str]] = {}
        jobs = list(self._jobs(values))
        for job in jobs:
            config, problems = self._check_job(job)
            for problem in dict.fromkeys(problems):
                line = " ".join(
                    override.input_line or "" for override in job if override.key_or_group in swept
                )
                found.setdefault(problem, []).append(line)
            if config is not None:
                configs.append(config)
        typed = [override.input_line or "" for override in self.overrides]
        for problem in (problem for config in configs for problem in untyped_code(config, typed)):
            self._add(problem)
        typed_keys = [
            override.key_or_group for override in self.overrides if not override.is_delete()
        ]
        self.notices += dict.fromkeys(
            line for config in configs for line in unheeded(config, typed_keys)
        )
        idle_in = [idle(config, typed_keys) for config in configs]
        # In a sweep, refuse only keys that have no effect in any of the jobs.
        for problem in idle_in[0] if idle_in and not self.problems else []:
            if all(problem in others for others in idle_in):
                self._add(problem)
        for problem, where in found.items():
            # Skip a problem with a value that could not be read: it only follows from that.
            if any(is_inside(problem.where, key) for key in self.unclear):
                continue
            of_the_value = any(problem.where == key for key in swept)
            some = len(where) < len(jobs) and not of_the_value
            self._add(
                replace(problem, what=f"{problem.what} (in the job {where[0]})")
                if some
                else problem
            )
        if self.problems:
            raise UserError(self.problems)
        return Plan(
            [self._rewritten(override) for override in self.overrides],
            swept,
            configs,
            self.resumes,
            self._count(values),
            self._notices(),
            self.composed.get(_choices(self._chosen(jobs[0])), (None, []))[0],
        )

    def _chosen(self, job: list[Override]) -> list[Override]:
        """Return the overrides that Hydra composes; the others are applied to its composition."""
        return [each for each in job if self._is_group(each) or self._is_hydras(each)]

    def _does_something(self, override: Override) -> bool:
        """Return whether an override of Hydra's own keys has an effect; if not, add the problem."""
        key, value = override.key_or_group, override.value()
        problem = idle_key(override, sweep=self.sweep, resumed=self.resumes is not None)
        if problem is None and isinstance(value, str):
            problem = missing_plugin(
                key, value, self.loader.get_group_options(key) if key.startswith("hydra/") else []
            )
        if problem is not None:
            self._add(problem)
        return problem is None

    def _notices(self) -> list[str]:
        """Return notes about overrides that later ones replace, and about a chosen default that the
        user may not want."""
        last = {override.key_or_group: override for override in self.overrides}
        own = [path.stem for path in self._own_files("task")]
        if own and self.resumes is None and not {"task", "experiment"} & last.keys():
            # The default task takes hours, while the user may have meant a file of their own.
            what = (
                f"no task is chosen, so task=glue_multi is trained, and nothing of {self.own}/task"
            )
            self.notices.append(f"note: {what}; it holds {', '.join(own[:10])}")
        return self.notices + [
            f"note: {override.input_line} is not used: {last[override.key_or_group].input_line} "
            "comes after it"
            for override in self.overrides
            if override is not last[override.key_or_group]
            and not override.is_delete()
            and not isinstance(override.value(), dict)
        ]

    def _resumed(self) -> Path | None:
        """Return the path of `resume=PATH`; for `resume=auto`, the run folder if it holds a
        checkpoint."""
        given = {override.key_or_group: override for override in self.overrides}
        resume = _text(given["resume"]) if "resume" in given else None
        if resume is None:
            return None
        if self.sweep or given["resume"].is_sweep_override():
            if resume != "auto":
                fix = (
                    "type run_dir=SWEEP resume=auto with the sweep's own command, or go on with "
                    "one job: mtl train resume=SWEEP/JOB"
                )
                raise UserError("a sweep goes on in its folder", "resume", fix)
            if "run_dir" not in given and "hydra.sweep.dir" not in given:
                raise UserError(
                    "which sweep is meant?",
                    "resume=auto",
                    "give run_dir=DIR: the sweep goes on there, or is started there",
                )
            return None
        if resume != "auto":
            return typed_path(resume, "resume")
        run_dir = _text(given["run_dir"]) if "run_dir" in given else None
        if run_dir is None:
            raise UserError(
                "which run is meant?",
                "resume=auto",
                "give run_dir=DIR: the run goes on there, or is started there",
            )
        folder = typed_path(run_dir, "run_dir")
        return folder if any((folder / "checkpoints").glob("step_*")) else None

    def _count(self, values: dict[int, list[str]]) -> int | None:
        """Return the number of jobs of a sweep, where Hydra's own sweeper makes one of every
        combination. None when `hydra/sweeper` is given, or a value is an interval."""
        swept = [override for override in self.overrides if override.is_sweep_override()]
        if any(override.key_or_group == "hydra/sweeper" for override in self.overrides):
            return None
        return (
            math.prod(len(values[id(override)]) for override in swept)
            if all(each.is_discrete_sweep() for each in swept)
            else None
        )

    def _parse(self, texts: list[str]) -> list[Override]:
        parser = OverridesParser.create(config_loader=self.loader)
        parsed = []
        texts, problems = joined(texts)
        for problem in problems:
            self._add(problem)
        for before, text in zip([None, *texts], texts, strict=False):
            if "=" not in text and not text.startswith("~") and re.fullmatch(r"[^\s=]+", text):
                homes = [
                    group for group in self.groups if text in self.loader.get_group_options(group)
                ]
                self._add(without_value(text, before, homes))
                if before is not None and not homes:
                    self.unclear.append(before.partition("=")[0].lstrip("+~"))
                continue
            # A text that lacks only Hydra's quotes is read as the text that it is, for instance
            # `data.root=~/data`.
            for attempt in filter(None, (text, quoted(text))):
                try:
                    parsed += parser.parse_overrides([attempt])
                    break
                # ValueError comes from a number with thousands of digits.
                except (OverrideParseException, HydraException, ValueError):
                    continue
            else:
                self._add(unreadable(text))
                self.unclear.append(text.partition("=")[0].lstrip("+~"))
        return parsed

    def _is_group(self, override: Override) -> bool:
        return override.key_or_group in self.groups and not isinstance(override.value(), dict)

    def _is_hydras(self, override: Override) -> bool:
        return override.is_hydra_override() or override.package is not None

    def _values(self, override: Override) -> list[str]:
        """Return the texts of an override: one, or one for each value of a sweep."""
        if not override.is_sweep_override():
            return [override.input_line or ""]
        key = override.get_key_element()
        if not self.sweep:
            self._add(
                several(key, (override.input_line or "").partition("=")[2], key in self.groups)
            )
            if key not in self.groups:
                self.unclear.append(key)
                return []
            return (
                [f"{key}={next(iter(override.sweep_string_iterator()))}"]
                if override.is_discrete_sweep()
                else []
            )
        if not override.is_discrete_sweep():
            sweep: Any = override.value()
            return [f"{key}={sweep.start}", f"{key}={sweep.end}"]
        swept: Any = override.value()
        if isinstance(swept, ChoiceSweep) and any(isinstance(value, Glob) for value in swept.list):
            fix = (
                f"type {key}=glob(PATTERN) or the names; to leave some out: "
                f"{key}=glob(*,exclude=NAME)"
            )
            self._add(Problem("glob() stands alone, not in a list of values", key, fix))
            self.bad_groups.add(key)
            return []
        values = [f"{key}={value}" for value in override.sweep_string_iterator()]
        if not values:
            self._add(Problem(f"'{override.input_line}' stands for no value at all", key))
        for first, again in doubled(values):
            what = (
                f"the value {first} is given twice"
                if first == again
                else f"{first} and {again} are the same value"
            )
            self._add(
                Problem(
                    what,
                    key,
                    "give every value once; to run one configuration several times, sweep over "
                    "seed: seed=0,1,2",
                )
            )
        return values

    def _check_own_files(self) -> None:
        """Add a problem for each file of the user with the name of a built-in one, because Hydra
        would never read it."""
        for group in self.groups:
            for path in self._own_files(group):
                if (conf_dir() / group / path.name).exists():
                    self._add(
                        Problem(
                            f"{group}={path.stem} is built in, so this file would never be read",
                            str(path),
                            "rename the file",
                        )
                    )

    def _check_choices(self, override: Override, texts: list[str]) -> None:
        group = override.key_or_group
        if override.is_delete():
            return
        for text in texts:
            chosen = parsed(text).value()
            names = chosen if isinstance(chosen, list) else [chosen]
            for name in dict.fromkeys(name for name in names if names.count(name) > 1):
                self._add(
                    Problem(
                        f"{group} '{name}' is listed twice",
                        f"{group}={text.partition('=')[2]}",
                        "name it once",
                    )
                )
            self._check_task_names(names if group == "task" else [])
            self._check_suites(names if group == "task" else [], text)
            for name in names:
                if name is None and group == "experiment":
                    continue
                folder, _, last = str(name).rpartition("/")
                if name is not None and last in self.loader.get_group_options(
                    f"{group}/{folder}".rstrip("/")
                ):
                    continue
                self.bad_groups.add(group)
                # `task=true` is read as a bool and `task=null` as None, so look for files of these
                # names by their text.
                typed_name = "null" if name is None else str(name).lower()
                meant = [path for path in self._own_files(group) if path.stem.lower() == typed_name]
                if meant and (problems := unusable(group, meant[0])):
                    for problem in problems:
                        self._add(problem)
                elif name is None:
                    self._add(
                        Problem(
                            f"a {group} must be chosen",
                            f"{group}=null",
                            suggest("", self._options(group)),
                        )
                    )
                elif old := old_name(group, name, f"{group}={name}"):
                    self._add(old)
                else:
                    fix = (
                        self._of_path(group, str(name))
                        or self._forgotten(group, str(name))
                        or suggest(last, self._options(group, folder))
                    )
                    self._add(Problem(f"unknown {group} '{name}'", f"{group}={name}", fix))

    def _own_files(self, group: str) -> list[Path]:
        """Return the user's files of a group."""
        return sorted((self.own / group).glob("*.yaml")) if self.own else []

    def _options(self, group: str, folder: str = "") -> list[str]:
        """Return the names that can be chosen in a group, or in a folder of the group if it
        exists."""
        unfit = {path.stem for path in self._own_files(group) if unusable(group, path)}
        there = self.loader.get_group_options(f"{group}/{folder}") if folder else []
        return there or [name for name in self.loader.get_group_options(group) if name not in unfit]

    def _of_path(self, group: str, name: str) -> str | None:
        """Return the advice for a choice that was typed as a path or with the ending of its file;
        None for any other choice."""
        if group == "model" and "/" in name and not name.endswith((".yaml", ".yml")):
            return (
                "a folder, or a name on the hub, is given with model=pretrained: "
                f"{commands.setting('model.name', name)}"
            )
        if group == "task" and split_name(Path(name)) is not None:
            return (
                "a file of rows needs a task file, which names its columns: see Your own task "
                "in the README"
            )
        stem = re.sub(r"\.ya?ml$", "", name)
        if stem == name and "/" not in name:
            return None
        file, choice = Path(f"{stem}.yaml"), stem.rpartition("/")[2]
        folder = file.parent.parent
        # Use os.path, for which a name that is too long is no error.
        if not os.path.isfile(file) or (self.own and folder.resolve() == self.own.resolve()):  # noqa: PTH113
            known = choice in self._options(group)
            return (
                f"a choice is a name, without folder and ending: type {group}={choice}"
                if known
                else self._forgotten(group, choice)
            )
        if file.parent.name == group:
            return f"the folder is typed by itself: -cd {shlex.quote(str(folder))} {group}={choice}"
        return (
            f"move the file to my_conf/{group}/{file.name}, and type -cd my_conf {group}={choice}"
        )

    def _check_suites(self, names: list[Any], text: str) -> None:
        """Add a note about tasks of a list that are also in a suite of the list, or in two
        suites."""
        given: dict[str, str] = {}
        chosen = list(dict.fromkeys(map(str, names)))
        files = [
            path
            for name in chosen
            for path in (*self._own_tasks(name), conf_dir() / "task" / f"{name}.yaml")
            if path.is_file()
        ]
        if len(chosen) < 2 or not any(
            "defaults:" in path.read_text(encoding="utf-8", errors="replace") for path in files
        ):
            return  # Without a suite there is nothing to compose.
        found: dict[str, list[str]] = {}
        for name in chosen:
            base, _ = self._compose((f"task={commands.hydra_value(name)}",))
            tasks = list((base or {}).get("tasks") or {})
            for task in tasks:
                if task in given:
                    suite = f"{given[task] if tasks == [task] else name} already"
                    if task != given[task] and tasks != [task]:
                        suite = f"{given[task]} and in {name}"
                    found.setdefault(suite, []).append(task)
            given = dict.fromkeys(tasks, name) | given
        for suite, again in found.items():
            are, each = ("is", "the task") if len(again) == 1 else ("are", "each task")
            self.notices.append(
                f"note: {text}: {', '.join(again)} {are} in {suite}; {each} is trained once"
            )

    def _forgotten(self, group: str, name: str) -> str | None:
        """Return the advice to type -cd, where a folder in the current one has a file of this name
        and the user has not typed -cd."""
        if self.own:
            return None
        # Use glob and os.path, for which an unreadable folder and a name that is too long are no
        # errors.
        found = [
            folder
            for folder in sorted(glob("*"))  # noqa: PTH207
            if os.path.isfile(f"{folder}/{group}/{name}.yaml")  # noqa: PTH113
        ]
        return (
            f"add -cd {shlex.quote(found[0])}, which holds {group}/{name}.yaml" if found else None
        )

    def _check_task_names(self, files: list[Any]) -> None:
        """Add a problem if two chosen files define the same task, because Hydra would merge one
        into the other."""
        given: dict[str, str] = {}
        for name in dict.fromkeys(map(str, files)):
            package = (
                next((_package(path) for path in self._own_tasks(name)), f"tasks.{name}") or ""
            )
            if package in given and package.startswith("tasks."):
                task, other = package.removeprefix("tasks."), given[package]
                fix = (
                    "give the tasks different names in the first lines of their files: # "
                    f"@package tasks.{name}"
                )
                self._add(
                    Problem(
                        f"the files of '{other}' and '{name}' both name the task '{task}'",
                        "task",
                        fix,
                    )
                )
            given[package] = name
            if package not in (f"tasks.{name}", "_global_", ""):
                self.notices.append(
                    f"note: the file {name}.yaml names its task '{package.removeprefix('tasks.')}'"
                )

    def _jobs(self, values: dict[int, list[str]]) -> Iterator[list[Override]]:
        """Yield the overrides of the jobs of a sweep that are checked: every value of every key
        once, then further combinations up to MOST_JOBS jobs."""
        lists = [
            [parsed(text) for text in texts]
            for override in self.overrides
            if (texts := values[id(override)])
            and not (self._is_group(override) and override.key_or_group in self.bad_groups)
        ]
        first = [choices[0] for choices in lists]
        yield first
        count = 1
        for index, choices in enumerate(lists):
            tried = (
                choices[1:]
                if len(choices) <= MOST_VALUES
                else [*choices[1 : MOST_VALUES - 1], choices[-1]]
            )
            for choice in tried:
                yield [*first[:index], choice, *first[index + 1 :]]
                count += 1
        for job in itertools.product(*lists):
            if count >= MOST_JOBS:
                return
            if sum(choice is not usual for choice, usual in zip(job, first, strict=True)) > 1:
                yield list(job)
                count += 1

    def _check_job(self, job: list[Override]) -> tuple[Config | None, list[Problem]]:
        """Compose one job. Return its config, None if it cannot be read, and the problems with
        it."""
        chosen = self._chosen(job)
        named = [
            name
            for override in chosen
            if override.key_or_group == "task"
            for name in _names(override)
        ]
        if bad_headers := [
            problem
            for name in named
            for path in self._own_tasks(name)
            for problem in _bad_header(path)
        ]:
            return None, bad_headers
        if self.saved is not None and not chosen:
            # A run that is resumed has its configuration, so there is nothing to compose.
            problems: list[Problem] = []
            values = copy.deepcopy(self.saved)
        else:
            base, problems = self._compose(_choices(chosen))
            if base is None:
                return None, problems
            values = base if self.saved is None else self._changed(base, chosen)
        headless = self._without_header(values.pop("task", None))
        problems = problems + headless
        values.setdefault("tasks", {})
        given = [
            override
            for override in job
            if not (self._is_group(override) or self._is_hydras(override))
        ]
        # Apply whole tasks first, because other overrides may set single values of theirs.
        for override in sorted(given, key=lambda override: not is_task(override)):
            key, section = override.key_or_group, override.key_or_group.partition(".")[0]
            if CHOSEN_BY.get(section) in self.bad_groups or (headless and section == "tasks"):
                continue
            if key in self.groups and key not in values:
                options = self.loader.get_group_options(key)
                problems.append(
                    Problem(
                        "the group is chosen by name, not by value",
                        key,
                        f"for example {key}={options[0]}",
                    )
                )
            elif not is_task(override) and (problem := check_key(key, values)) is not None:
                problems.append(problem)
            else:
                apply(override, values)
        typed = (
            values if self.saved is None else {each.key_or_group: each.value() for each in given}
        )
        if tokens := typed_tokens(typed):
            return None, tokens  # Other problems might quote the tokens.
        config, found = read_config(values)
        if config is not None:
            found = [*missing_files(config), *missing_device(config)]
            # A run that is resumed has its backbone in its folder.
            found += missing_model(config) if self.saved is None else []
        return config, problems + [
            problem for problem in found if not (headless and problem.where.startswith("task"))
        ]

    def _changed(self, composed: dict[str, Any], chosen: list[Override]) -> dict[str, Any]:
        """Return the configuration of the run that is resumed, with the groups that the user has
        chosen anew."""
        groups = [override.key_or_group for override in chosen if self._is_group(override)]
        if "experiment" in groups:
            return composed
        values = copy.deepcopy(self.saved or {})
        for group in groups:
            section = "tasks" if group == "task" else group
            values[section] = composed[section]
        return values

    def _compose(self, overrides: tuple[str, ...]) -> tuple[dict[str, Any] | None, list[Problem]]:
        """Return the values that these choices make, without Hydra's own part, and the problems.
        Composing takes long, so it is done once for each set of choices."""
        if overrides not in self.composed:
            try:
                composed = self.loader.load_configuration("train", list(overrides), RunMode.RUN)
            except HYDRA_ERRORS as error:
                self.composed[overrides] = None, [explain(error)]
            except UserError as error:
                self.composed[overrides] = None, error.problems
            except UnicodeDecodeError:
                self.composed[overrides] = None, self._not_utf8()
            except ValueError as error:
                # Hydra raises ValueError for a header of more or fewer words than two.
                self.composed[overrides] = (
                    None,
                    [problem for path in self._own_tasks("*") for problem in _bad_header(path)]
                    or [explain(error)],
                )
            else:
                self.composed[overrides] = composed, []
        base, problems = self.composed[overrides]
        if base is None:
            return None, list(problems)
        values: Any = OmegaConf.to_container(base)
        values.pop("hydra")
        return values, list(problems)

    def _not_utf8(self) -> list[Problem]:
        """Return problems with the user's files whose encoding is not UTF-8, which YAML
        requires."""
        problems = []
        for path in sorted((self.own or Path()).glob("*/**/*.yaml")):
            data = path.read_bytes()
            try:
                data.decode()
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                what = f"byte 0x{data[error.start]:02x} is not UTF-8"
                problems.append(Problem(what, f"{path}, line {line}", "save the file as UTF-8"))
        return problems

    def _without_header(self, stray: Any) -> list[Problem]:
        """Return problems with task files whose values landed outside of `tasks`, because their
        first lines do not name the task."""
        if not stray:
            return []
        what = (
            "the file does not start with the header that names its task, so its values belong "
            "nowhere"
        )
        files = sorted((self.own or Path()).joinpath("task").glob("*.yaml"))
        lacking = [path for path in files if _package(path) is None]
        return [
            Problem(what, str(path), f"make this its first line: # @package tasks.{path.stem}")
            for path in lacking
        ]

    def _own_tasks(self, name: str) -> list[Path]:
        """Return the user's task files of this name or pattern."""
        return sorted((self.own or Path()).joinpath("task").glob(f"{name}.yaml"))

    def _rewritten(self, override: Override) -> str:
        text = override.input_line or ""
        return (
            text if self._is_group(override) or self._is_hydras(override) else added(override, text)
        )

    def _add(self, problem: Problem) -> None:
        self.problems[problem] = None
