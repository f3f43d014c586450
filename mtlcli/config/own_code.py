"""The user's own methods in plain Python files, beside the YAML files in the folder of `-cd`.

`my_conf/weighting/mine.py` registers what it has when it is imported, as the modules of this
package do. The folder is a package of its own, `mtl_own`, so that its files may import one another
with a dot (`from ..metrics.mine import ...`), and none of them hides another module of that name.

Such a file is code, and run folders are passed on. A run folder says which files its run has
imported, but it cannot start any by itself: for a saved run, a file is imported only if this user
has imported the same content before, from a folder that was typed behind `-cd`.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mtlcli.config import METHODS, Config, task_types
from mtlcli.config.paths import default_cache
from mtlcli.disk import sha256
from mtlcli.errors import Problem, UserError
from mtlcli.metrics import table

PACKAGE = "mtl_own"
FOLDERS = {
    "task": '@task_types.register("NAME", "Class")',
    "sharing": '@sharings.register("NAME", "Class")',
    "weighting": '@weightings.register("NAME", "Class")',
    "sampling": '@samplings.register("NAME", "Class")',
    "metrics": '@metric("NAME", "TASK TYPE")',
}
"""The folders whose Python files are imported: those of the groups that other packages can add to,
and one for metrics. For each, what such a file must hold."""


@dataclass(frozen=True)
class OwnCode:
    """The Python files of a folder."""

    folder: Path
    """The folder, absolute."""
    files: dict[str, str]
    """Path below the folder -> SHA-256, for every Python file in one of FOLDERS, helpers among
    them."""

    @property
    def trusted(self) -> bool:
        """Whether this user has imported all these files before, from a folder behind `-cd`."""
        try:
            return all((_marks() / digest).is_file() for digest in self.files.values())
        except (OSError, UserError):  # Without a home folder, nothing can be remembered.
            return False

    def trust(self) -> None:
        """Remember that this user imports these files on purpose."""
        try:
            _marks().mkdir(parents=True, exist_ok=True)
            for digest in self.files.values():
                (_marks() / digest).touch()
        except (OSError, UserError):
            # Nothing is lost but a convenience: later commands ask for `-cd` again.
            return


_imported: OwnCode | None = None
"""What this process has imported."""


def _marks() -> Path:
    return default_cache() / "imported"


def own_code(folder: Path) -> OwnCode:
    """Return the Python files of a folder behind `-cd`, or of a run. None of them is imported."""
    paths = [path for name in FOLDERS for path in sorted((folder / name).rglob("*.py"))]
    return OwnCode(
        folder.absolute(), {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    )


def import_folder(folder: Path) -> list[str]:
    """Import the methods in a folder that was typed behind `-cd`, once in a process. Return a line
    for the user that names the files; no line where there are none.

    Raises UserError with every file that cannot be imported.
    """
    code = own_code(folder)
    if not code.files or code == _imported:
        return []
    _import(code)
    code.trust()
    return [f"note: methods are imported from {folder}: {', '.join(_modules(code))}"]


def import_for_run(run: Path, recorded: Any, given: Path | None, command: str) -> list[str]:
    """Import the methods that a saved run needs: those of `given`, the folder behind `-cd`, if it
    holds any, else the files that the run has recorded. Return lines for the user.

    `recorded`: what `record` returned when the run began; it may come from a stranger. `command`:
    the beginning of a command that is proposed, before `-cd`. Raises UserError when recorded files
    are gone, have changed, or were never imported by this user.
    """
    before = _read(recorded)
    if given is not None and (code := own_code(given)).files:
        lines = import_folder(given)
        differing = [
            name
            for name, digest in code.files.items()
            if before is not None and before.files.get(name, digest) != digest
        ]
        return lines + [
            f"warning: {given / name} is not what {run} began with (SHA-256); it is used as -cd "
            "gives it"
            for name in differing
        ]
    if before is None or _imported is not None:
        return []
    now = own_code(before.folder).files
    if differing := [name for name, digest in before.files.items() if now.get(name) != digest]:
        raise UserError(
            f"{run} uses Python files of this folder that are gone or have changed since: "
            f"{', '.join(differing)}",
            str(before.folder),
            f"bring them back, or give the folder to use as it is now: {command} -cd "
            f"{before.folder if now else 'DIR'}",
        )
    if not before.trusted:
        raise UserError(
            f"{run} uses the Python files of this folder, which you have not imported before: "
            f"{', '.join(before.files)}",
            str(before.folder),
            "a run folder alone cannot start code; if you trust the files, type "
            f"{command} -cd {before.folder}",
        )
    _import(before)
    return [f"note: methods are imported from {before.folder}: {', '.join(_modules(before))}"]


def import_if_trusted(folder: Path) -> None:
    """Import the methods in a folder if this user has imported them before. For completion, where
    nothing has been entered yet."""
    code = own_code(folder)
    if code.files and code.trusted:
        _import(code)


def imported_folder() -> Path | None:
    """Return the folder whose methods this process has imported, for the processes of other
    ranks."""
    return None if _imported is None else _imported.folder


def record(config: Config) -> dict[str, Any] | None:
    """Return the folder and the files that this process has imported, as JSON values, if the run
    of `config` uses any of their methods."""
    chosen = [config.sharing, config.weighting, config.sampling, *config.tasks.values()]
    modules = [type(each).__module__ for each in chosen]
    modules += [
        table()[metric].function.__module__
        for task in config.tasks.values()
        for metric in task.metrics
        if metric in table()
    ]
    if _imported is None or not any(name.startswith(f"{PACKAGE}.") for name in modules):
        return None
    return {"folder": str(_imported.folder), "files": _imported.files}


def _read(recorded: Any) -> OwnCode | None:
    """Return what a run has recorded; None where that is nothing, or nothing that `record` could
    have returned."""
    try:
        folder, files = Path(recorded["folder"]), dict(recorded["files"])
    except (TypeError, KeyError, ValueError):
        return None
    texts = all(isinstance(text, str) for pair in files.items() for text in pair)
    return OwnCode(folder, files) if texts and folder.is_absolute() else None


def _modules(code: OwnCode) -> Iterable[str]:
    """Yield the files that are imported by themselves: `my_conf/weighting/mine.py`, or
    `my_conf/sharing/mine/__init__.py`, without helpers, whose names begin with `_`."""
    for name in code.files:
        parts = name.removesuffix("/__init__.py").split("/")
        if len(parts) == 2 and not parts[1].startswith("_"):
            yield name


def _import(code: OwnCode) -> None:
    """Import the files. Raises UserError with every file that cannot be imported."""
    global _imported
    package = ModuleType(PACKAGE, "The user's own methods.")
    package.__path__ = [str(code.folder)]
    sys.modules[PACKAGE] = package
    _registered()  # The built-in methods come first, so that a name is taken from them by nobody.
    importlib.invalidate_caches()
    problems = [problem for name in _modules(code) for problem in _import_file(code, name)]
    if problems:
        raise UserError(problems)
    _imported = code


def _import_file(code: OwnCode, name: str) -> list[Problem]:
    group, file = name.removesuffix("/__init__.py").removesuffix(".py").split("/")
    path, module = code.folder / name, f"{PACKAGE}.{group}.{file}"
    if not file.isidentifier():
        fix = "rename it: letters, digits and _ only, and no digit first"
        return [Problem(f"'{file}' is not a name that Python can import", str(path), fix)]
    if module in sys.modules:
        return []  # Another file has imported it.
    before = _registered()
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (the user's code runs here)
        what = f"cannot be imported: {type(error).__name__}: {error}"
        return [Problem(what, _place(error, code.folder, path), "correct it, or move it away")]
    if _registered() == before:
        fix = f"it needs {FOLDERS[group]}; the name of a helper begins with _"
        return [Problem("the file registers no method", str(path), fix)]
    return []


def _registered() -> int:
    """Return how many methods are known."""
    return sum(len(registry.configs) for registry in (*METHODS.values(), task_types)) + len(table())


def _place(error: BaseException, folder: Path, path: Path) -> str:
    """Return the file and line of an error: the last one that lies in the folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    inside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{inside[-1].filename}, line {inside[-1].lineno}" if inside else str(path)
