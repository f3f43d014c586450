"""Hydra's loader, with one rule more: a file of the user is data, so it cannot configure Hydra
itself.

Hydra calls the callbacks, sets the environment and opens the log files that the keys of `hydra.*`
name. A task that somebody has passed on must not be able to do any of that; on the command line,
where the user has typed them, these keys are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from mtlcli.errors import Problem, UserError

FOREIGN = ("command-line", "hydra.searchpath in command-line", "hydra.searchpath in main")
"""How Hydra calls the places of files that are neither its own nor this package's."""


class Loader(ConfigLoaderImpl):
    """Raises UserError when a file that is given with `-cd` or `hydra.searchpath` reaches into
    `hydra.*`, in whatever way."""

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        # By what it contains, wherever headers and defaults lists have put that; and by what it
        # asks other files to do.
        if loaded.provider in FOREIGN:
            _refuse([*_keys(loaded.config), *_asked(loaded)], loaded, str(default.config_path))
        elif (
            default.parent is not None
            and (parent := repo.load_config(default.parent)) is not None
            and parent.provider in FOREIGN
        ):
            _refuse(list(_keys(loaded.config)), parent, default.parent)
        return loaded


def _refuse(keys: list[str], file: ConfigResult, config_path: str) -> None:
    if keys:
        raise UserError(
            Problem(
                f"the file sets {', '.join(dict.fromkeys(keys))}: keys of hydra can start "
                "programs, so they are not taken from files",
                f"{file.path.removeprefix('file://')}/{config_path.removesuffix('.yaml')}.yaml",
                "remove them from the file; if they are meant, type them on the command line",
            )
        )


def _keys(config: Any) -> Iterator[str]:
    """What a config, put where its package says, contains of `hydra`: the keys below it."""
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
    """What a file's defaults list chooses for Hydra in place of what this package has chosen."""
    for entry in file.defaults_list or []:
        if isinstance(entry, GroupDefault) and entry.override:
            place = f"{(entry.group or '').lstrip('/')}@{entry.package or ''}".rstrip("@")
            if "hydra" in (place.split("/")[0], *(entry.package or "").split(".")):
                yield place


def install() -> None:
    """Make `hydra.main` use this loader, in this process and in those of a sweep's launcher."""
    hydra._internal.hydra.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]
