"""The user's own files in the folder of `-cd`: their names, headers and encoding."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from hydra.errors import HydraException

from mtlcli.cli.overrides import parsed
from mtlcli.cli.typed import quoted
from mtlcli.config.paths import conf_dir
from mtlcli.errors import Problem

PACKAGE = re.compile(r"\s*#\s*@package\b[ \t]*(.*?)\s*$")
RENAME = (
    "rename the file: a name begins with a letter and has letters, digits, - and _ only, and "
    "is not null, true or false"
)
HEADER = re.compile(r"tasks\.[A-Za-z][A-Za-z0-9_-]*|_global_")


class OwnFiles:
    """The YAML files in a folder of the user, by group. `folder`: the folder that was typed behind
    `-cd`, or None."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def of_group(self, group: str, name: str = "*") -> list[Path]:
        """Return the files of a group whose names match a pattern."""
        return sorted((self.folder / group).glob(f"{name}.yaml")) if self.folder else []

    def built_in(self, groups: list[str]) -> list[Problem]:
        """Return a problem for each file with the name of a built-in one, because Hydra would never
        read it."""
        return [
            Problem(
                f"{group}={path.stem} is built in, so this file would never be read",
                str(path),
                "rename the file",
            )
            for group in groups
            for path in self.of_group(group)
            if (conf_dir() / group / path.name).exists()
        ]

    def not_utf8(self) -> list[Problem]:
        """Return problems with the user's files whose encoding is not UTF-8, which YAML
        requires."""
        paths = sorted(self.folder.glob("*/**/*.yaml")) if self.folder else []
        return [problem for path in paths for problem in not_utf8(path)]

    def without_header(self) -> list[Problem]:
        """Return problems with task files whose values landed outside of `tasks`, because their
        first lines do not name the task."""
        what = (
            "the file does not start with the header that names its task, so its values belong to "
            "no task"
        )
        lacking = [path for path in self.of_group("task") if package_of(path) is None]
        return [
            Problem(what, str(path), f"make this its first line: # @package tasks.{path.stem}")
            for path in lacking
        ]


def not_utf8(path: Path) -> list[Problem]:
    """Return a problem if a file is not in UTF-8."""
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        return [Problem(what, f"{path}, line {line}", "save the file as UTF-8")]
    return []


def package_of(path: Path) -> str | None:
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


def bad_header(path: Path) -> list[Problem]:
    """Return a problem if the header of a task file does not name a task."""
    package = package_of(path)
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
    return bad_header(path) if group == "task" else []


def _proposal(package: str) -> str:
    """Return a proposal for a task's header, with other characters for those that a name cannot
    have."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"^tasks?\.", "", package)).strip("_")
    return f"tasks.{name}" if re.match("[A-Za-z]", name) else f"tasks.task_{name}".rstrip("_")
