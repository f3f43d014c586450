"""The files in the groups of the configuration: those of conf/ and those of the user. `mtl tasks`
and completion read them here; this module imports neither torch nor Hydra."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from mtlcli.config.paths import conf_dir
from mtlcli.errors import Problem

# The C parser is several times faster, but a few builds of PyYAML lack it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class GroupFile:
    """A YAML file of a configuration group."""

    path: Path
    about: str
    """The first comment line that is not a header."""
    values: dict[str, Any]
    problem: Problem | None = None
    """The problem with a file that cannot be used; None for a good file."""

    @property
    def suite(self) -> list[str]:
        """The names in a suite; empty for a task."""
        defaults = self.values.get("defaults")
        return (
            [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]
            if isinstance(defaults, list)
            else []
        )

    def section(self, key: str) -> dict[str, Any]:
        """Return the values below a key; empty when there are none."""
        values = self.values.get(key)
        return values if isinstance(values, dict) else {}


def groups(own: Path | None = None) -> list[str]:
    """Return the groups in the order of train.yaml, then the user's own groups."""
    names = [
        name
        for entry in read_file(conf_dir() / "train.yaml").values["defaults"]
        if isinstance(entry, dict)
        for name in entry
        if not name.startswith("override ")
    ]
    extra = (
        [path.name for path in sorted(own.iterdir()) if path.is_dir() and path.name != "metrics"]
        if own is not None and own.is_dir()
        else []
    )
    return list(dict.fromkeys([*names, *extra]))


def paths_of(group: str, own: Path | None = None) -> dict[str, Path]:
    """Return the files of a group by name: those of conf/, then the user's."""
    folders = [conf_dir(), *([own] if own is not None else [])]
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted((folder / group).glob("*.yaml"))):
        found.setdefault(path.stem, path)
    return found


def read_group(group: str, own: Path | None = None) -> dict[str, GroupFile]:
    """Return the files of a group by name. A file that cannot be read does not hide the others."""
    return {name: read_file(path) for name, path in paths_of(group, own).items()}


def read_file(path: Path) -> GroupFile:
    """Read a YAML file. The result has a `problem` when the file cannot be read."""
    problem, text, values = None, "", None
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, _LOADER)
    except UnicodeDecodeError:
        problem = Problem("the file is not UTF-8", str(path), "save the file as UTF-8")
    except yaml.YAMLError as error:
        from mtlcli.cli.typed import broken_yaml

        problem = broken_yaml(error, path)
    except OSError as error:
        problem = Problem(f"the file cannot be read: {error.strerror}", str(path))
    comments = [
        line.lstrip("# ") for line in text.splitlines() if re.match(r"#(?!\s*@package)", line)
    ]
    about = comments[0] if comments else ""
    return GroupFile(path, about, values if isinstance(values, dict) else {}, problem)


def members(name: str, files: dict[str, GroupFile]) -> list[str]:
    """Return the tasks of a suite, including those of the suites in it."""
    found: list[str] = []
    seen, waiting = {name}, list(files[name].suite)
    while waiting:
        member = waiting.pop(0)
        if member in seen:
            continue
        seen.add(member)
        if member in files and files[member].suite:
            waiting = files[member].suite + waiting
        else:
            found.append(member)
    return found
