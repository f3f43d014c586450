"""What a configuration leaves open is filled once, and nothing changes it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config import Config, Resolved, optims, samplings, sharings, task_types, weightings
from mtlcli.config.changes import SETTLED
from mtlcli.config.section import hints, replaced
from mtlcli.config.snapshot import load_config
from mtlcli.prepare.prepare import prepare
from mtlcli.runner import rank
from mtlcli.runner.resolve import Machine, resolve
from tests.small_run import SMALL, start

OPEN = ["tasks.cola.labels=null", "tasks.rte.labels=null"]
MACHINE = Machine(devices=2, precision="bf16", pooling="mean", packing="on", max_tokens=96)


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested dicts by their dotted keys."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(f"{key}.{name}" if key else name, inner)
    else:
        yield key, value


def values_of(config: Config, pattern: str) -> dict[str, Any]:
    """The values of the keys that fit a pattern."""
    return {key: value for key, value in leaves("", asdict(config)) if fnmatchcase(key, pattern)}


@pytest.fixture(scope="module")
def asked_and_resolved() -> tuple[Config, Resolved]:
    """A config that leaves open all that can be, and what it becomes."""
    config = preflight(read_arguments([*SMALL, *OPEN])).configs[0]
    prepared = prepare(config)
    asked = replaced(config, {key: open for key, open in SETTLED.items() if "*" not in key})
    return asked, resolve(asked, prepared, MACHINE)


@pytest.mark.parametrize("key", SETTLED)
def test_nothing_is_left_open(asked_and_resolved: tuple[Config, Resolved], key: str) -> None:
    asked, resolved = asked_and_resolved
    before, after = values_of(asked, key), values_of(resolved, key)
    assert before and set(before.values()) == {SETTLED[key]}
    assert SETTLED[key] not in after.values(), after


def test_what_was_asked_stays_as_it_was(asked_and_resolved: tuple[Config, Resolved]) -> None:
    asked, resolved = asked_and_resolved
    changed = {
        key
        for (key, before), (_, after) in zip(
            leaves("", asdict(asked)), leaves("", asdict(resolved)), strict=True
        )
        if before != after
    }
    known = [*SETTLED, "runner.devices"]
    assert {key for key in changed if not any(fnmatchcase(key, each) for each in known)} == set()


def dataclasses_in(value: Any) -> Iterator[Any]:
    """A config and every config in it."""
    if is_dataclass(value):
        yield value
        for field in fields(value):
            yield from dataclasses_in(getattr(value, field.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from dataclasses_in(inner)


def test_the_result_cannot_be_changed(asked_and_resolved: tuple[Config, Resolved]) -> None:
    _, resolved = asked_and_resolved
    found = list(dataclasses_in(resolved))
    assert len(found) > 10
    for each in found:
        for field in fields(each):
            with pytest.raises(FrozenInstanceError):
                setattr(each, field.name, getattr(each, field.name))


def classes_in(hint: Any) -> Iterator[type]:
    """The dataclasses that a type mentions, and those that their fields mention in turn."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
        for inner in hints(hint).values():
            yield from classes_in(inner)
    for inner in get_args(hint):
        yield from classes_in(inner)


def test_every_class_of_the_configuration_is_frozen() -> None:
    reached = set(classes_in(Config)) | {Resolved}
    for registry in (sharings, weightings, samplings, optims, task_types):
        assert registry.configs and set(registry.configs.values()) <= reached
    params = {each.__qualname__: vars(each)["__dataclass_params__"] for each in reached}
    assert [name for name, param in params.items() if not param.frozen] == []


def test_config_yaml_of_a_finished_run_is_what_was_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Resolved] = []

    def recording(*arguments: Any) -> Resolved:
        seen.append(resolve(*arguments))
        return seen[-1]

    monkeypatch.setattr(rank, "resolve", recording)
    folder = start(tmp_path / "run", *OPEN, "runner.steps=2")
    loaded = load_config(folder / "config.yaml")
    assert len(seen) == 1
    assert [(each.name, getattr(loaded, each.name)) for each in fields(loaded)] == [
        (each.name, getattr(seen[0], each.name)) for each in fields(seen[0])
    ]
