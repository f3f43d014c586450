"""Choices in groups that an experiment undoes: its values come last, and it may have a whole
section, as the best configuration of a search does."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from mtlcli.cli.composition import Composition, values_of
from mtlcli.cli.overrides import lines_of, names_in
from mtlcli.config import METHODS
from mtlcli.config.paths import conf_dir
from mtlcli.errors import Problem


def undone_choices(
    chosen: list[Override], values: dict[str, Any], files: Composition
) -> tuple[list[Problem], list[str]]:
    """Return a problem for each choice that the chosen experiment undoes, and notes about tasks
    that it has beside those that are chosen. `values`: what the choices compose."""
    experiment = next((each for each in chosen if each.key_or_group == "experiment"), None)
    if experiment is None:
        return [], []
    has = _sections_in(experiment, files)
    problems: list[Problem] = []
    notes: list[str] = []
    for each in chosen:
        group = each.key_or_group
        section = "tasks" if group == "task" else group
        chooses = group in files.groups and not isinstance(each.value(), dict)
        if section not in has or not chooses or each.is_delete():
            continue
        rest = [other for other in chosen if other not in (each, experiment)]
        plain = _composed([*rest, each], files)
        if group == "task":
            if more := values["tasks"].keys() - plain.get("tasks", {}).keys():
                what = f"{experiment.input_line} has tasks of its own, which are trained, too"
                notes.append(f"note: {what}: {', '.join(sorted(more))}")
            continue
        if group not in plain:
            continue
        # A method is its name; of other sections, something of the choice has to be left.
        usual = _composed(rest, files).get(group, {})
        makes = (
            {"name"}
            if group in METHODS
            else {key for key, value in plain[group].items() if value != usual.get(key)}
        )
        if makes and all(values[group].get(key) != plain[group][key] for key in makes):
            what = f"has no effect: {experiment.input_line} has {group} of its own"
            fix = (
                f"leave it out, type single values ({group}.KEY=VALUE), or take {group} out of "
                "the experiment's file"
            )
            problems.append(Problem(what, each.input_line or group, fix))
    return problems, notes


def _sections_in(experiment: Override, files: Composition) -> set[str]:
    """Return the sections that the file of an experiment has values of."""
    found = set()
    for name in map(str, names_in(experiment)):
        built_in = conf_dir() / "experiment" / f"{name}.yaml"
        for path in (*files.own.of_group("experiment", name), built_in):
            if path.is_file():
                found |= {str(key) for key in OmegaConf.load(path)}
    return found


def _composed(chosen: list[Override], files: Composition) -> dict[str, Any]:
    """Return what choices compose, empty if they compose nothing."""
    composed, _ = files.compose(lines_of(chosen))
    return {} if composed is None else values_of(composed)
