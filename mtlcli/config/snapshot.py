"""The saved form of a config in a run folder: complete, and readable back to an equal Config.

A value from an environment variable is saved as the text that refers to it, `${oc.env:NAME}`: run
folders are passed on, and such values are often secrets.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError

from mtlcli.config import Config
from mtlcli.config.environment import note
from mtlcli.config.paths import expand_paths
from mtlcli.config.renamed import take_new_names
from mtlcli.config.schema import TRUTHS, dotted, is_inside
from mtlcli.config.section import values_of
from mtlcli.config.validate import check, check_key
from mtlcli.disk import write_whole
from mtlcli.errors import Problem, UserError

RESOLVERS = ("oc.env", "oc.decode", "oc.create", "oc.select")
"""The resolvers that a saved config may use as `${NAME:...}`: environment variables and parts of
their values. No other resolver is run."""
LARGEST = 4 * 2**20
"""The most bytes that a saved config may have; a suite of a hundred tasks has some 100,000."""
MOST_VALUES = 100_000
"""The most values that a saved config may expand to."""
QUESTION_MARKS = """${oc.decode:"'???'"}"""
"""The saved form of the text `???`, which OmegaConf would take for a missing value."""
_ASKS = re.compile(r"(\\*)\$\{\s*([^:${}]*)(.?)", re.DOTALL)

_WHOLE = ("tasks", "sharing", "weighting", "sampling")
"""The sections without which there is no run; every saved config has them."""

Keys = tuple[str | int, ...]


def read_config(composed: DictConfig | dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Return the Config of a composed configuration, or None, and all its problems."""
    problems: list[Problem] = []
    texts: dict[Keys, tuple[str, Any]] = {}
    values: Any = composed if isinstance(composed, dict) else OmegaConf.to_container(composed)
    if _needs_resolving(values):
        values = _resolve(OmegaConf.create(values), (), problems, texts)
    problems += expand_paths(values)
    texts = {place: (text, _at(values, place)) for place, (text, _) in texts.items()}
    config, found = check(values)
    # A value that is missing or could not be resolved may be reported again by the checks, or its
    # section. Report it once.
    known = [problem.where for problem in problems]
    problems += [
        _of_environment(problem, texts)
        for problem in found
        if not any(is_inside(where, problem.where) for where in known)
    ]
    if config is None or problems:
        return None, problems
    config.environment.update(texts)
    return config, []


def _of_environment(problem: Problem, texts: dict[Keys, tuple[str, Any]]) -> Problem:
    """Return the problem with advice that fits a value from an environment variable, which is text
    without any quotes."""
    for place, (text, _) in texts.items():
        if dotted(place) == problem.where and problem.fix.endswith("without quotes"):
            return replace(
                problem, fix=f"an environment variable is text: write ${{oc.decode:{text}}}"
            )
    return problem


def _at(values: Any, place: Keys) -> Any:
    for part in place:
        values = values[part]
    return values


def save_config(config: Config, path: Path) -> None:
    """Write the whole config as YAML, including defaults. Raises OSError; an existing file is
    intact then."""
    write_whole(path, config_text(config))


def config_text(config: Config) -> str:
    """Return the whole config as YAML, including defaults, without `sweep` and `stages`, which no
    run holds."""
    values = _escape(values_of(config))
    del values["sweep"], values["stages"]
    for place, (text, value) in config.environment.items():
        holder = values
        for part in place[:-1]:
            holder = holder[part]
        # Keep the value if the run has since replaced the one from the environment.
        if holder[place[-1]] == _escape(value):
            holder[place[-1]] = text
    return OmegaConf.to_yaml(OmegaConf.create(values))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a saved config and apply `key=value` overrides. Raises UserError with all problems."""
    return _checked(_load(path), overrides, path)


def read_text(text: str, path: Path) -> Config:
    """Return the Config from the text that `config_text` returned. `path`: its file, for
    messages."""
    return _checked(_parsed(text, path), (), path)


def _checked(saved: DictConfig, overrides: Sequence[str], path: Path) -> Config:
    problems = []
    known: Any = OmegaConf.to_container(saved)
    for override in overrides:
        key, equals, value = override.partition("=")
        problem = (
            check_key(key, known)
            if equals
            else Problem(f"cannot read '{override}'", fix="give values as key=value")
        )
        if problem is not None:
            problems.append(problem)
            continue
        # Hydra reads these as text: runner.fast=off means the same here.
        text = f"'{value}'" if value.lower() in TRUTHS else value
        try:
            parsed = OmegaConf.from_dotlist([f"value={text}"])
        except (YAMLError, OmegaConfBaseException) as error:
            problems.append(
                Problem(
                    f"cannot read the value '{value}': {' '.join(str(error).split())}", where=key
                )
            )
            continue
        OmegaConf.update(saved, key, OmegaConf.to_container(parsed)["value"], merge=False)  # type: ignore[call-overload,index]
    config, found = read_config(saved)
    if found and not overrides:
        # The command that wrote the file had accepted all values: somebody has changed it since.
        found = [
            replace(each, where=f"{path}, {each.where}", fix=_bring_back(path)) for each in found
        ]
    if problems or found or config is None:
        raise UserError(problems + found)
    return config


def saved_values(path: Path) -> dict[str, Any]:
    """Return a saved config as plain values, with interpolations as text. Raises UserError if it
    cannot be read."""
    values: Any = OmegaConf.to_container(_load(path))
    return values


def _load(path: Path) -> DictConfig:
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"the file has {size:,} bytes, more than {LARGEST:,}",
                where=str(path),
                fix=_bring_back(path),
            )
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"the file cannot be read: {reason}", where=str(path), fix=_bring_back(path)
        ) from error
    return _parsed(text, path)


def _bring_back(path: Path) -> str:
    """Return the fix for a config that cannot be read: every checkpoint has a copy."""
    copies = sorted(path.parent.glob("checkpoints/step_*/config.yaml"))
    return (
        f"bring it back: {shlex.join(['cp', str(copies[-1]), str(path)])}"
        if copies
        else "give a run folder that is complete"
    )


def _parsed(text: str, path: Path) -> DictConfig:
    try:
        count = _expanded(yaml.compose(text, Loader=yaml.SafeLoader), {})
        if count > MOST_VALUES:
            raise UserError(
                f"the file stands for more than {MOST_VALUES:,} values",
                where=str(path),
                fix=_bring_back(path),
            )
        saved = OmegaConf.create(text)
    except (ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the file cannot be read: {reason}", where=str(path), fix=_bring_back(path)
        ) from error
    if not isinstance(saved, DictConfig):
        raise UserError("the file holds no configuration", where=str(path), fix=_bring_back(path))
    values: Any = OmegaConf.to_container(saved)
    if lacks := [name for name in _WHOLE if not values.get(name)]:
        raise UserError(
            f"the file is damaged: it lacks {', '.join(lacks)}",
            where=str(path),
            fix=_bring_back(path),
        )
    for name in sorted(set(_resolvers(values))):
        raise UserError(
            f"the file asks for the resolver '{name}', which is not run from a saved file",
            where=str(path),
            fix=f"write the value; a saved file may ask for {', '.join(RESOLVERS)}",
        )
    take_new_names(saved)
    return saved


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Return the number of values of a YAML node once its aliases (`*name`) are expanded. A few
    lines can expand to billions."""
    if id(node) not in known:
        # For the time being, so that a node that contains itself ends the recursion.
        known[id(node)] = MOST_VALUES + 1
        inner = (
            [part for pair in node.value for part in pair]
            if isinstance(node, yaml.MappingNode)
            else []
        )
        inner += node.value if isinstance(node, yaml.SequenceNode) else []
        known[id(node)] = 1 + sum(_expanded(part, known) for part in inner)
    return known[id(node)]


def _resolvers(value: Any) -> Iterator[str]:
    """Yield the names of the resolvers that interpolations in a value use and that are not
    allowed."""
    if isinstance(value, (dict, list)):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _resolvers(inner)
    elif isinstance(value, str):
        for backslashes, name, end in _ASKS.findall(value):
            # An odd number of backslashes makes it plain text. A name that is itself an
            # interpolation could become any name.
            if len(backslashes) % 2 == 0 and (
                end == "$" or (end == ":" and name.strip() not in RESOLVERS)
            ):
                yield name.strip() or "${...}"


def _needs_resolving(value: Any) -> bool:
    """Return whether a value is, or contains, a missing value or an interpolation."""
    if isinstance(value, (dict, list)):
        return any(map(_needs_resolving, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and ("${" in value or value == "???")


def _resolve(
    node: Any, path: Keys, problems: list[Problem], texts: dict[Keys, tuple[str, Any]]
) -> Any:
    """Return the plain values of a node. Values that are missing or cannot be resolved are left
    out, with a problem for each."""
    if not isinstance(node, (DictConfig, ListConfig)):
        return node
    values: Any = {} if isinstance(node, DictConfig) else []
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        place = (*path, key if isinstance(key, int) else str(key))
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
        if OmegaConf.is_missing(node, key):
            problems.append(Problem("must be given", where, f"add {where}=..."))
            continue
        if OmegaConf.is_interpolation(node, key):
            with _environment() as read:
                try:
                    value = _resolve(node[key], place, problems, texts)
                except OmegaConfBaseException as error:
                    problems.append(_unresolved(error, where, node, key))
                    # The text stands for the value, so that what holds it is not incomplete too.
                    value, read = _raw(node, key), []
            if read:
                texts[place] = _raw(node, key), value
        else:
            value = _resolve(node[key], place, problems, texts)
        if isinstance(values, dict):
            values[str(key)] = value
        else:
            values.append(value)
    return values


def _raw(node: Any, key: Any) -> str:
    return str(OmegaConf.to_container(node, resolve=False)[key])  # type: ignore[index]


def _unresolved(error: OmegaConfBaseException, where: str, node: Any, key: Any) -> Problem:
    reason = (
        str(getattr(error, "msg", None) or error)
        .splitlines()[0]
        .rpartition("raised while resolving interpolation: ")[2]
        .strip('"')
    )
    fix = (
        "set it"
        if reason.startswith("Environment variable")
        else "write the value, or ${KEY} with a key of this configuration"
    )
    return Problem(f"{_raw(node, key)} cannot be resolved: {reason}", where, fix)


@contextmanager
def _environment() -> Iterator[list[str]]:
    """Yield a list that collects the names of the environment variables read inside."""
    read: list[str] = []

    def env(name: str, *default: Any) -> Any:
        read.append(name)
        note(name)
        return oc.env(name, *default)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield read
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _escape(value: Any) -> Any:
    """Escape text that OmegaConf would take for an interpolation or for a missing value."""
    if isinstance(value, dict):
        return {key: _escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape(inner) for inner in value]
    if value == "???":  # A class of a data set may have this name.
        return QUESTION_MARKS
    # Double the backslashes before it too: otherwise each pair of them would become one, and the
    # interpolation would be active.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
