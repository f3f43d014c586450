"""The check of the names that are chosen in groups, such as `task=[cola,rte]`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from mtlcli import commands
from mtlcli.cli.composition import Composition, values_of
from mtlcli.cli.overrides import names_in, parsed
from mtlcli.cli.own_files import package_of, unusable
from mtlcli.cli.task_files import is_path, package, task_path, unusable_file
from mtlcli.config.formats import split_name
from mtlcli.config.missing import nearest_path
from mtlcli.config.paths import conf_dir
from mtlcli.config.renamed import old_name
from mtlcli.errors import Problem
from mtlcli.registry import suggest


def check_choice(text: str, group: str, files: Composition) -> tuple[list[Problem], bool]:
    """Return the problems with an override of a group, and whether a name in it cannot be
    chosen."""
    names = names_in(parsed(text))
    problems = [
        Problem(
            f"{group} '{name}' is listed twice",
            f"{group}={text.partition('=')[2]}",
            "name it once",
        )
        for name in dict.fromkeys(name for name in names if names.count(name) > 1)
    ]
    if group == "task":
        problems += _same_task(names, files)
        paths = [path for path in map(task_path, filter(is_path, names)) if path.is_file()]
        problems += (found := [problem for path in paths for problem in unusable_file(path)])
        if found:
            return problems, True
    unknown = [name for name in names if not _can_be_chosen(name, group, files)]
    for name in unknown:
        problems += _unknown(name, group, files)
    return problems, bool(unknown)


def task_notes(text: str, files: Composition) -> Iterator[str]:
    """Yield notes about an override of `task`: tasks of the list that are also in a suite of the
    list, or in two suites, and tasks that their files name otherwise."""
    names = list(dict.fromkeys(map(str, names_in(parsed(text)))))
    for name in names:
        place = _package(name, files)
        usual = f"tasks.{Path(name).stem}" if is_path(name) else f"tasks.{name}"
        if place not in (usual, "_global_", ""):
            file = name if is_path(name) else f"{name}.yaml"
            yield f"note: the file {file} names its task '{place.removeprefix('tasks.')}'"
    yield from _overlaps(names, text, files)


def _can_be_chosen(name: Any, group: str, files: Composition) -> bool:
    if name is None:
        return group == "experiment"
    # Use os.path, for which a name that is too long is no error.
    if group == "task" and is_path(name) and os.path.isfile(task_path(name)):  # noqa: PTH113
        return True
    folder, _, last = str(name).rpartition("/")
    return last in files.loader.get_group_options(f"{group}/{folder}".rstrip("/"))


def _unknown(name: Any, group: str, files: Composition) -> list[Problem]:
    """Return the problems with a name that cannot be chosen."""
    # `task=true` is read as a bool and `task=null` as None, so look for files of these names by
    # their text.
    typed_name = "null" if name is None else str(name).lower()
    meant = [path for path in files.own.of_group(group) if path.stem.lower() == typed_name]
    if meant and (problems := unusable(group, meant[0])):
        return problems
    if name is None:
        fix = suggest("", files.options(group))
        return [Problem(f"a {group} must be chosen", f"{group}=null", fix)]
    if old := old_name(group, name, f"{group}={name}"):
        return [old]
    folder, _, last = str(name).rpartition("/")
    fix = (
        _of_path(group, str(name), files)
        or _forgotten(group, str(name), files)
        or suggest(last, files.options(group, folder))
    )
    return [Problem(f"unknown {group} '{name}'", f"{group}={name}", fix)]


def _of_path(group: str, name: str, files: Composition) -> str | None:
    """Return the advice for a choice that was typed as a path or with the ending of its file; None
    for any other choice."""
    if group == "model" and "/" in name and not name.endswith((".yaml", ".yml")):
        return (
            "a folder, or a name on the hub, is given with model=pretrained: "
            f"{commands.setting('model.name', name)}"
        )
    if group == "task" and split_name(Path(name)) is not None:
        return (
            "a file of rows needs a task file, which names its columns; this writes one: mtl new "
            f"task {shlex.quote(name)}"
        )
    stem = re.sub(r"\.ya?ml$", "", name)
    if stem == name and "/" not in name:
        return None
    file, choice = Path(f"{stem}.yaml"), stem.rpartition("/")[2]
    # Use os.path, for which a name that is too long is no error.
    there = os.path.isfile(file)  # noqa: PTH113
    if group == "task" and there:
        return f"type the path of the file: {commands.setting('task', file)}"
    if choice in files.options(group):
        return f"a choice is a name without folder or ending: type {group}={choice}"
    if not there:
        return _forgotten(group, choice, files) or (
            nearest_path(Path(name)) if group == "task" and is_path(name) else None
        )
    if file.parent.name == group:
        folder = shlex.quote(str(file.parent.parent))
        return f"type the folder separately: -cd {folder} {group}={choice}"
    return f"move the file to my_conf/{group}/{file.name}, and type -cd my_conf {group}={choice}"


def _forgotten(group: str, name: str, files: Composition) -> str | None:
    """Return the advice to type -cd, where a folder in the current one has a YAML or Python file of
    this name and the user has not typed -cd."""
    if files.own.folder:
        return None
    # Use glob and os.path, for which an unreadable folder and a name that is too long are no
    # errors.
    found = [
        (folder, f"{group}/{name}{ending}")
        for folder in sorted(glob("*"))  # noqa: PTH207
        for ending in (".yaml", ".py")
        if os.path.isfile(f"{folder}/{group}/{name}{ending}")  # noqa: PTH113
    ]
    return f"add -cd {shlex.quote(found[0][0])}, which holds {found[0][1]}" if found else None


def _package(name: str, files: Composition) -> str:
    """Return the place in the configuration to which the values of a task file belong."""
    if is_path(name) and task_path(name).is_file():
        return package(task_path(name))
    packages = (package_of(path) or "" for path in files.own.of_group("task", name))
    return next(packages, f"tasks.{name}")


def _same_task(names: list[Any], files: Composition) -> Iterator[Problem]:
    """Yield a problem if two chosen files define the same task, because Hydra would merge one into
    the other."""
    defined_by: dict[str, str] = {}
    for name in dict.fromkeys(map(str, names)):
        place = _package(name, files)
        if place in defined_by and place.startswith("tasks."):
            task, other = place.removeprefix("tasks."), defined_by[place]
            yield Problem(
                f"the files of '{other}' and '{name}' both name the task '{task}'",
                "task",
                "give the tasks different names in the first lines of their files: # @package "
                f"tasks.{name}",
            )
        defined_by[place] = name


def _overlaps(names: list[str], text: str, files: Composition) -> Iterator[str]:
    """Yield a note for tasks of a list that are also in a suite of the list, or in two suites."""
    suites = [
        path
        for name in names
        for path in (
            *files.own.of_group("task", name),
            conf_dir() / "task" / f"{name}.yaml",
            *([task_path(name)] if is_path(name) else []),
        )
        if path.is_file() and "defaults:" in path.read_text(encoding="utf-8", errors="replace")
    ]
    if len(names) < 2 or not suites:
        return  # Without a suite there is nothing to compose.
    defined_by: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for name in names:
        composed, _ = files.compose((f"task={commands.hydra_value(name)}",))
        tasks = list(values_of(composed).get("tasks") or {}) if composed is not None else []
        for task in tasks:
            if task in defined_by:
                suite = f"{defined_by[task] if tasks == [task] else name} already"
                if task != defined_by[task] and tasks != [task]:
                    suite = f"{defined_by[task]} and in {name}"
                found.setdefault(suite, []).append(task)
        defined_by = dict.fromkeys(tasks, name) | defined_by
    for suite, repeated in found.items():
        are, each = ("is", "the task") if len(repeated) == 1 else ("are", "each task")
        yield f"note: {text}: {', '.join(repeated)} {are} in {suite}; {each} is trained once"
