"""The check of a `mtl train` command line: every mistake that can be found before Hydra runs a job
or makes a folder."""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlcli.cli.choices import check_choice, task_notes
from mtlcli.cli.composition import Composition, explain, values_of
from mtlcli.cli.hydras import idle_key, missing_plugin
from mtlcli.cli.loader import store_methods
from mtlcli.cli.overrides import absent, added, apply, doubled, is_task, lines_of, names_in, parsed
from mtlcli.cli.own_files import OwnFiles, bad_header
from mtlcli.cli.space import ends
from mtlcli.cli.typed import (
    joined,
    key_in,
    quoted,
    several,
    unreadable,
    without_value,
)
from mtlcli.cli.undone import undone_choices
from mtlcli.commands import setting
from mtlcli.config import Config
from mtlcli.config.crosscheck.tasks import untyped_code
from mtlcli.config.environment import typed_tokens
from mtlcli.config.idle import idle, unheeded
from mtlcli.config.machine import missing_device
from mtlcli.config.missing import missing_files, missing_model, missing_run
from mtlcli.config.own_code import import_folder, import_for_run
from mtlcli.config.paths import typed_path
from mtlcli.config.schema import is_inside
from mtlcli.config.snapshot import read_config, saved_values
from mtlcli.config.validate import check_key
from mtlcli.errors import Problem, UserError
from mtlcli.rundir.checkpoint import run_of
from mtlcli.rundir.folder import RunFolder

MOST_JOBS = 100
"""The number of jobs of a sweep up to which combinations of values are composed; every single value
is composed in any case."""
MOST_VALUES = 200
"""The number of values of one key of a sweep that are tried; in a longer list, the first ones and
the last."""
CHOSEN_BY = {
    "tasks": "task",
    "sharing": "sharing",
    "weighting": "weighting",
    "sampling": "sampling",
    "augmentation": "augmentation",
    "optim": "optim",
}
"""Sections whose keys depend on the choice in a group, with the group. When the choice is wrong,
their keys cannot be checked."""


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
    searched: list[str] = field(default_factory=list)
    """The keys of `sweep.space`, which are among those with several values: the values of a list,
    the ends of a range."""
    values: list[list[str]] = field(default_factory=list)
    """For each override its texts: one, or in a sweep one for each of its values."""
    composed: DictConfig | None = None
    """The composition of the chosen files with Hydra's own part, on which the first config is
    built; None where a run that is resumed has needed no composition."""


def preflight(arguments: argparse.Namespace, resumes: Path | None = None) -> Plan:
    """Check a command line. Raises UserError with every mistake in it. `resumes`: resume this run,
    whatever the command line says about `resume`."""
    return _Preflight(arguments, resumes).plan()


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


class _Preflight:
    def __init__(self, arguments: argparse.Namespace, resumes: Path | None) -> None:
        self.own = OwnFiles(Path(arguments.config_dir) if arguments.config_dir else None)
        self.notices = import_folder(self.own.folder) if self.own.folder is not None else []
        self.files = Composition(self.own)
        self.loader, self.groups = self.files.loader, self.files.groups
        self.problems: dict[Problem, None] = {}
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

    def plan(self) -> Plan:
        if self.resumes is not None:
            run = run_of(self.resumes)
            methods = RunFolder(run).methods()
            command = f"mtl train {setting('resume', run)}"
            self.notices += import_for_run(run, methods, self.own.folder, command)
            store_methods()
            self.saved = saved_values(run / "config.yaml")
        for problem in self.own.built_in(self.groups):
            self._add(problem)
        self.overrides = self._heeded(filter(self._does_something, self.overrides))
        searched = self._parse(self._space()) if self.sweep else []
        keys = [override.key_or_group for override in searched]
        for override in self.overrides if searched else []:
            key = override.key_or_group
            if key in keys or override.is_sweep_override():
                what = f"'{override.input_line}' stands beside a search, which chooses the values"
                self._add(Problem(what, key, "put its values into sweep.space, or take it out"))
            elif key in ("hydra/launcher", "hydra/sweeper"):
                what = "a search runs its trials in its own process"
                fix = "leave it out; to run trials at once, type the command in several processes"
                self._add(Problem(what, key, fix))
        self.overrides += searched
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
        self._note_default_task()
        composed = None
        if self.saved is None:
            composed, _ = self.files.compose(lines_of(self._chosen(jobs[0])))
        return Plan(
            [self._rewritten(override) for override in self.overrides],
            swept,
            configs,
            self.resumes,
            self._count(values),
            self.notices,
            keys,
            [values[id(override)] for override in self.overrides],
            composed,
        )

    def _space(self) -> list[str]:
        """Return the entries of `sweep.space` as overrides of several values; none where nothing is
        searched, or the choices cannot be composed."""
        chosen = [each for each in self._chosen(self.overrides) if not each.is_sweep_override()]
        composed, _ = self.files.compose(lines_of(chosen))
        if composed is None:
            return []
        values = {"sweep": values_of(composed).get("sweep")}
        for override in self.overrides:
            if override.key_or_group.startswith("sweep."):
                try:
                    apply(override, values)
                except OmegaConfBaseException:
                    return []  # Reported with the jobs.
        sweep = values["sweep"] or {}
        return ends(sweep.get("space")) if sweep.get("name") != "grid" else []

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

    def _heeded(self, overrides: Iterable[Override]) -> list[Override]:
        """Return the overrides without those that later ones of the same key replace, with a note
        about each: the values of a sweep would make jobs that are all the same."""
        every = list(overrides)
        last = {override.key_or_group: override for override in every}
        heeded = []
        for override in every:
            later = last[override.key_or_group]
            if override is later or override.is_delete() or isinstance(override.value(), dict):
                heeded.append(override)
            else:
                what = f"{override.input_line} is not used: {later.input_line} comes after it"
                self.notices.append(f"note: {what}")
        return heeded

    def _note_default_task(self) -> None:
        """Add a note where the default task is trained, and the user may have meant another."""
        own = [path.stem for path in self.own.of_group("task")]
        typed = {override.key_or_group for override in self.overrides}
        if own and self.resumes is None and not {"task", "experiment"} & typed:
            # The default task takes hours, while the user may have meant a file of their own.
            what = (
                "no task is chosen, so task=glue_multi is trained, and nothing of "
                f"{self.own.folder}/task"
            )
            self.notices.append(f"note: {what}; it holds {', '.join(own[:10])}")

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
                raise UserError("a sweep is resumed in its own folder", "resume", fix)
            if "run_dir" not in given and "hydra.sweep.dir" not in given:
                raise UserError(
                    "which sweep do you mean?",
                    "resume=auto",
                    "give run_dir=DIR: the sweep is resumed there, or started there",
                )
            return None
        if resume != "auto":
            return typed_path(resume, "resume")
        run_dir = _text(given["run_dir"]) if "run_dir" in given else None
        if run_dir is None:
            raise UserError(
                "which run do you mean?",
                "resume=auto",
                "give run_dir=DIR: the run is resumed there, or started there",
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
                    self.unclear.append(key_in(before))
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
                self.unclear.append(key_in(text))
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
            self._add(Problem("glob() must stand alone, not in a list of values", key, fix))
            self.bad_groups.add(key)
            return []
        values = [f"{key}={value}" for value in override.sweep_string_iterator()]
        if not values:
            self._add(Problem(f"'{override.input_line}' gives no value at all", key))
        for first, second in doubled(values):
            what = (
                f"the value {first} is given twice"
                if first == second
                else f"{first} and {second} are the same value"
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

    def _check_choices(self, override: Override, texts: list[str]) -> None:
        """Check the names in an override of a group. `texts`: one for each value of a sweep."""
        for text in [] if override.is_delete() else texts:
            problems, bad = check_choice(text, override.key_or_group, self.files)
            for problem in problems:
                self._add(problem)
            if bad:
                self.bad_groups.add(override.key_or_group)
            if override.key_or_group == "task":
                self.notices += task_notes(text, self.files)

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
            for name in map(str, names_in(override))
        ]
        if bad_headers := [
            problem
            for name in named
            for path in self.own.of_group("task", name)
            for problem in bad_header(path)
        ]:
            return None, bad_headers
        if self.saved is not None and not chosen:
            # A run that is resumed has its configuration, so there is nothing to compose.
            problems: list[Problem] = []
            values = copy.deepcopy(self.saved)
        else:
            composed, problems = self.files.compose(lines_of(chosen))
            if composed is None:
                return None, problems
            values = values_of(composed)
            if self.saved is not None:
                values = self._changed(values, chosen)
            else:
                undone, notes = undone_choices(chosen, values, self.files)
                self.notices += [note for note in notes if note not in self.notices]
                if undone:
                    return None, undone
        # Values of a task file without its header land here, outside of `tasks`.
        headless = self.own.without_header() if values.pop("task", None) else []
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
            elif problem := (
                None
                if is_task(override)
                else check_key(key, values)
                or (absent(key, values) if override.is_delete() else None)
            ):
                problems.append(problem)
            else:
                try:
                    apply(override, values)
                except OmegaConfBaseException as error:
                    problems.append(replace(explain(error), where=key))
        typed = (
            values if self.saved is None else {each.key_or_group: each.value() for each in given}
        )
        if tokens := typed_tokens(typed):
            return None, tokens  # Other problems might quote the tokens.
        config, found = read_config(values)
        if config is not None:
            found = [*missing_files(config), *missing_device(config)]
            # A run that is resumed has its backbone and its weights in its folder.
            if self.saved is None:
                found += [*missing_model(config), *missing_run(config)]
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

    def _rewritten(self, override: Override) -> str:
        text = override.input_line or ""
        return (
            text if self._is_group(override) or self._is_hydras(override) else added(override, text)
        )

    def _add(self, problem: Problem) -> None:
        self.problems[problem] = None
