"""A task may have any name: those that torch's containers keep for themselves change nothing but
the names of parameters."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import InputFormat, collate
from mtlcli.models.per_task import PerTask, key_of, task_of
from tests.small import small_data, small_model

NAMES = {"cola": "type", "stsb": "update", "squad": "network"}


def renamed(value: Any) -> Any:
    """What a strategy measures, with the tasks' other names."""
    if isinstance(value, dict):
        return {NAMES.get(key, key): renamed(inner) for key, inner in value.items()}
    return value


def test_every_attribute_of_torchs_containers_may_be_the_name_of_a_task() -> None:
    attributes = sorted({*dir(nn.ModuleDict()), *dir(nn.ParameterDict())})
    names = [
        "mine",
        "network",
        *(name for name in attributes if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name)),
    ]
    assert {"type", "keys", "training", "items", "get"} < set(names)
    each = PerTask({name: nn.Linear(1, 1) for name in names})
    assert list(each) == list(each.keys()) == [name for name, _ in each.items()] == names
    assert (
        all(each[name] is module for name, module in each.items())
        and "type" in each
        and "typ" not in each
    )
    parameters = dict(each.named_parameters())
    assert "mine.weight" in parameters and "task:type.weight" in parameters
    for name in names:
        assert task_of(key_of(name)) == name
        assert each.get_parameter(f"{key_of(name)}.weight") is each[name].weight
    del each["type"]
    assert "type" not in each and len(each) == len(names) - 1


@pytest.mark.parametrize("sharing", list(sharings))
def test_such_names_change_nothing_in_any_strategy(sharing: str) -> None:
    _, _, features, _ = small_data()
    model, other = small_model(sharing)[0].eval(), small_model(sharing, names=NAMES)[0].eval()
    pairs = list(zip(model.named_parameters(), other.named_parameters(), strict=True))
    assert all(torch.equal(parameter, twin) for (_, parameter), (_, twin) in pairs)
    assert list(other.users().values()) == [
        tuple(NAMES[task] for task in tasks) for tasks in model.users().values()
    ]
    infos, others = list(model.parameter_infos.values()), list(other.parameter_infos.values())
    assert [(info.depth, info.lr) for info in infos] == [(info.depth, info.lr) for info in others]
    assert all(
        other.get_parameter(name) is parameter for name, parameter in other.named_parameters()
    )
    other.load_state_dict(other.state_dict())
    for task, name in NAMES.items():
        batch = collate(
            features[task], np.arange(4), input_format=InputFormat(0, True), denominator=4.0
        )
        assert torch.equal(model(task, batch).loss, other(name, batch).loss)
    assert other.trunk.measures() == renamed(model.trunk.measures())
