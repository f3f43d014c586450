"""Composition of the chosen files with Hydra's loader, and its errors in plain words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import KeyValidationError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from mtlcli.cli.loader import Loader
from mtlcli.cli.own_files import OwnFiles, bad_header, unusable
from mtlcli.cli.typed import broken_yaml
from mtlcli.config.paths import conf_dir
from mtlcli.config.renamed import old_name
from mtlcli.config.schema import QUOTE_NULL
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
VERSION_BASE = "1.3"


class Composition:
    """What can be composed: this package's files and the user's own."""

    def __init__(self, own: OwnFiles) -> None:
        self.own = own
        self.loader = _loader(own.folder)
        self.groups = [group for group in self.loader.list_groups("") if group != "hydra"]
        self._composed: dict[tuple[str, ...], tuple[DictConfig | None, list[Problem]]] = {}

    def options(self, group: str, folder: str = "") -> list[str]:
        """Return the names that can be chosen in a group, or in a folder of the group if it
        exists."""
        unfit = {path.stem for path in self.own.of_group(group) if unusable(group, path)}
        there = self.loader.get_group_options(f"{group}/{folder}") if folder else []
        return there or [name for name in self.loader.get_group_options(group) if name not in unfit]

    def compose(self, choices: tuple[str, ...]) -> tuple[DictConfig | None, list[Problem]]:
        """Return the composition that overrides of groups and of Hydra's keys make, None if there
        is none, and the problems. Composing takes long, so it is done once for each set."""
        if choices not in self._composed:
            self._composed[choices] = self._try(choices)
        composed, problems = self._composed[choices]
        return composed, list(problems)

    def _try(self, choices: tuple[str, ...]) -> tuple[DictConfig | None, list[Problem]]:
        try:
            return self.loader.load_configuration("train", list(choices), RunMode.RUN), []
        except HYDRA_ERRORS as error:
            return None, [explain(error)]
        except UserError as error:
            return None, error.problems
        except UnicodeDecodeError:
            return None, self.own.not_utf8()
        except ValueError as error:
            # Hydra raises ValueError for a header of more or fewer words than two.
            bad = [each for path in self.own.of_group("task") for each in bad_header(path)]
            return None, bad or [explain(error)]


def values_of(composed: DictConfig) -> dict[str, Any]:
    """Return a composition as plain values, without Hydra's own part."""
    values: Any = OmegaConf.to_container(composed)
    values.pop("hydra")
    return values


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
