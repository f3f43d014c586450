"""Task files that are chosen by their path: `task=my.yaml` beside `task=rte`.

A name in the group `task` that ends in `.yaml` or `.yml` is a path, which starts from the current
folder. Such a file needs no header: its task is named after the file. Paths of rows in it start
from the folder of the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from mtlcli.cli.own_files import HEADER, bad_header, not_utf8, package_of
from mtlcli.config.formats import TASK_FILES
from mtlcli.errors import Problem

PROVIDER = "task file"
"""Hydra's name for the place of these files."""


def is_path(name: object) -> bool:
    """Return whether a name in the group `task` is the path of a file."""
    return str(name).endswith(TASK_FILES)


def task_path(name: object) -> Path:
    """Return the path that a name in the group `task` stands for."""
    return Path(str(name)).expanduser()


def package(path: Path) -> str:
    """Return the place in the configuration to which the values of a task file belong, for a file
    that is chosen by its path."""
    return package_of(path) or f"tasks.{path.stem}"


def unusable_file(path: Path) -> list[Problem]:
    """Return problems if an existing task file cannot be chosen by its path."""
    if problems := [*not_utf8(path), *bad_header(path)]:
        return problems
    if package_of(path) is None and not HEADER.fullmatch(package(path)):
        what = f"the file's name, '{path.stem}', cannot be the name of a task"
        fix = "rename the file: a task's name begins with a letter and has letters, digits, - and _"
        return [
            Problem(what, str(path), f"{fix}; or name it in the first line: # @package tasks.NAME")
        ]
    return []


class TaskFiles(ConfigSource):
    """The files that are chosen by their path, as a place where Hydra looks for them."""

    def __init__(self) -> None:
        super().__init__(PROVIDER, f"{self.scheme()}://")

    @staticmethod
    def scheme() -> str:
        """Return the beginning of the address of this place."""
        return "mtl-task"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the values of a task file, which belong to the task that is named after the file
        unless a header says otherwise."""
        path = _file(config_path)
        if path is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        text = path.read_text(encoding="utf-8")
        # OmegaConf names the file in its errors only where it reads the file itself.
        config: Any = OmegaConf.load(path)
        header = self._get_header_dict(text[:512])
        if header.get("package") is None:
            suite = isinstance(config, DictConfig) and "defaults" in config
            header["package"] = "_global_" if suite else f"tasks.{path.stem}"
        if isinstance(config, DictConfig):
            _from_folder(config, path.parent)
        return ConfigResult(config=config, path=str(path), provider=self.provider, header=header)

    def is_group(self, config_path: str) -> bool:
        """Return false: there are only files."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Return whether there is such a task file."""
        return _file(config_path) is not None

    def available(self) -> bool:
        """Return true: paths can always be typed."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing: the choices of the group are names, not paths."""
        return []


class Repository(ConfigRepository):
    """Hydra's places of files, with TaskFiles before them."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Set the places in which Hydra looks for files."""
        super().initialize_sources(config_search_path)
        self.sources.insert(0, TaskFiles())


def _file(config_path: str) -> Path | None:
    """Return the file that Hydra's path of a configuration stands for, `task/PATH.yaml`; None for
    other configurations. Hydra takes the group and a leading / off paths in a list."""
    if not is_path(config_path):
        return None
    rest = config_path.removeprefix("task/")
    # Use os.path, for which a name that is too long is no error.
    found = [each for each in (rest, f"/{rest}") if os.path.isfile(task_path(each))]  # noqa: PTH113
    return task_path(found[0]) if found else None


def _from_folder(config: DictConfig, folder: Path) -> None:
    """Let the relative paths of a task file's own rows start from the folder of the file."""
    values: Any = OmegaConf.to_container(config)
    source = values.get("source")
    files = source.get("files") if isinstance(source, dict) else None
    for split, file in files.items() if isinstance(files, dict) else ():
        if isinstance(file, str) and file.strip() and not file.startswith(("~", "${")):
            config.source.files[split] = os.path.normpath(folder / file)
