"""Config dataclasses: their decorator, copies of them with other values, and the type of a field
that holds the config of one of several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from keyword import iskeyword
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from typing_extensions import dataclass_transform

from mtlcli.registry import Registry

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass with keyword arguments only, which pydantic fills strictly: an
    unknown key in YAML is an error. A key that is a keyword of Python (`from`) has a field with an
    underscore behind it (`from_`)."""
    cls.__pydantic_config__ = {  # type: ignore[attr-defined]
        "extra": "forbid",
        "alias_generator": key_of,
    }
    return dataclass(kw_only=True, frozen=True)(cls)


def key_of(field: str) -> str:
    """Return the key that a field of a section holds."""
    key = field.removesuffix("_")
    return key if iskeyword(key) else field


def values_of(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain values by their keys."""
    return asdict(
        config, dict_factory=lambda pairs: {key_of(field): value for field, value in pairs}
    )


def replaced(config: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a config dataclass with other values. `changes`: dotted key path -> value,
    for example `{"optim.lr": 1e-3}`."""
    for key, value in changes.items():
        config = _with(config, key.split("."), value)
    return config


def _with(holder: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    if iskeyword(name):
        name += "_"
    if isinstance(holder, dict):
        return holder | {name: _with(holder[name], rest, value) if rest else value}
    changed = replace(
        holder, **{name: _with(getattr(holder, name), rest, value) if rest else value}
    )
    # Keep attributes that are not fields, such as `Config.environment`.
    vars(changed).update(
        {key: each for key, each in vars(holder).items() if key not in vars(changed)}
    )
    return changed


@dataclass(frozen=True)
class OneOf:
    """A mark on the type of a field, as in `Annotated[Base, OneOf(registry)]`: the field holds one
    of the registry's configs, told apart by the literal field `key`.

    The registry is read when the schema is needed, not when the field is declared, so that the
    methods in it may import this package.
    """

    registry: Registry
    key: str = "name"

    @property
    def union(self) -> Any:
        """The union of the registry's configs."""
        # Called by name: ruff would turn Union[tuple(...)] into a plain tuple.
        return Union.__getitem__(tuple(self.registry.configs.values()))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        # Shell completion reads the schema without pydantic.
        from pydantic import Discriminator

        return handler.generate_schema(Annotated[self.union, Discriminator(self.key)])


def defaults(section: Any) -> dict[str, Any]:
    """Key -> default of a config dataclass; `???`, as in YAML, for a field that has none."""
    values = {}
    for field in fields(section):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        values[key_of(field.name)] = "???" if value is MISSING else value
    return values


def hints(section: Any) -> dict[str, Any]:
    """Return key -> type of a config dataclass, with a union instead of each `OneOf`."""
    return _hints(section)


@cache
def _hints(section: Any) -> dict[str, Any]:
    """Return what `hints` returns, and keep it: Python compiles the text of each type, which the
    check of a config asks for a hundred times."""
    found = get_type_hints(section, include_extras=True)
    return {key_of(field.name): _written_out(found[field.name]) for field in fields(section)}


def _written_out(hint: Any) -> Any:
    """Return a type with a union instead of each `OneOf`."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        union = next((mark.union for mark in marks if isinstance(mark, OneOf)), None)
        return union or Annotated[(_written_out(inner), *marks)]
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return dict.__class_getitem__((key, _written_out(value)))
    return hint
