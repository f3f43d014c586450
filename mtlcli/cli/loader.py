"""Hydra's loader with three additional rules: a method of another package can be chosen without a
file, a task file by its path, and a file of the user is data, so it cannot configure Hydra itself.

Through the keys of `hydra.*`, Hydra calls callbacks, sets the environment and opens log files. A
task file that somebody has passed on must not be able to do any of that. On the command line these
keys are accepted, because the user has typed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from mtlcli.cli.task_files import PROVIDER, Repository
from mtlcli.config import METHODS
from mtlcli.config.section import defaults
from mtlcli.errors import Problem, UserError

FOREIGN = (
    "command-line",
    "hydra.searchpath in command-line",
    "hydra.searchpath in main",
    PROVIDER,
)
"""Hydra's names for the places of files that are neither its own nor this package's."""


class Loader(ConfigLoaderImpl):
    """A loader that knows the methods of other packages, and raises UserError when a file from
    `-cd`, of `task=PATH.yaml` or of `hydra.searchpath` sets keys of `hydra.*`, in whatever way."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        store_methods()

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        # Check the file's keys, wherever headers and defaults lists have put them, and the choices
        # that the file makes for other files.
        if loaded.provider in FOREIGN:
            _refuse([*_keys(loaded.config), *_asked(loaded)], loaded, str(default.config_path))
        elif (
            default.parent is not None
            and (parent := repo.load_config(default.parent)) is not None
            and parent.provider in FOREIGN
        ):
            _refuse(list(_keys(loaded.config)), parent, default.parent)
        return loaded


def store_methods() -> None:
    """Let the methods of other packages, and of the user's Python files, be chosen by their
    names."""
    for group, registry in METHODS.items():
        for name in registry.names_of_others():
            values = defaults(registry.configs[name])
            ConfigStore.instance().store(name, values, group, provider="mtl")


def _refuse(keys: list[str], file: ConfigResult, config_path: str) -> None:
    if keys:
        raise UserError(
            Problem(
                f"the file sets {', '.join(dict.fromkeys(keys))}: keys of hydra can start "
                "programs, so they are not taken from files",
                file.path
                if file.provider == PROVIDER
                else f"{file.path.removeprefix('file://')}/{config_path.removesuffix('.yaml')}.yaml",
                "remove them from the file; if you need them, type them on the command line",
            )
        )


def _keys(config: Any) -> Iterator[str]:
    """Yield the keys below `hydra` in a config that lies in its package."""
    if isinstance(config, DictConfig) and "hydra" in list(config):
        below = config._get_node("hydra")
        found = (
            list(below)
            if isinstance(below, DictConfig)
            and not below._is_interpolation()
            and not below._is_missing()
            else []
        )
        yield from (f"hydra.{key}" for key in found) if found else ["hydra"]


def _asked(file: ConfigResult) -> Iterator[str]:
    """Yield the choices in a file's defaults list that replace this package's choices for Hydra."""
    for entry in file.defaults_list or []:
        if isinstance(entry, GroupDefault) and entry.override:
            place = f"{(entry.group or '').lstrip('/')}@{entry.package or ''}".rstrip("@")
            if "hydra" in (place.split("/")[0], *(entry.package or "").split(".")):
                yield place


def install() -> None:
    """Make `hydra.main` use this loader, in this process and in the processes of a sweep's
    launcher."""
    hydra._internal.hydra.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]
