"""Experts of every strategy: who depends on what, where they lie, and DSelect-k gates inside of
them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.config.optim import AdamWOptim
from mtlcli.sharing.cgc import CGCSharing
from mtlcli.sharing.mmoe import MMoESharing
from mtlcli.sharing.ple import PLESharing
from mtlcli.training.optim import build_optimizer
from tests.small import small_model
from tests.unit.sharing.test_mmoe import gradients


@pytest.mark.parametrize(
    "config",
    [
        PLESharing(levels=1),
        PLESharing(levels=3),
        CGCSharing(layers="top"),
        PLESharing(gate="dselect_k"),
    ],
)
def test_a_loss_reaches_exactly_the_parameters_that_users_names(config: Any) -> None:
    model = small_model(config)[0]
    users = model.users()
    for task in model.tasks:
        model.zero_grad()
        assert gradients(model, task)[1].keys() == {
            name for name, tasks in users.items() if task in tasks
        }
    if config.name == "ple" and config.levels == 3:
        assert users["trunk.levels.level1.gates.cola.weight"] == tuple(model.tasks)
        assert users["trunk.levels.level2.gates.cola.weight"] == ("cola",)


def test_dselect_gates_have_their_own_learning_rate_and_their_penalty_is_in_the_loss() -> None:
    model, weighting = small_model(CGCSharing(gate="dselect_k", entropy=0.1))
    groups = build_optimizer(AdamWOptim(lr=1e-3), model, weighting).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    (own,) = [
        [names[p] for p in group["params"]]
        for group in groups
        if group["lr"] == 0.01 and group["weight_decay"] == 0
    ]
    assert own == [name for name in names.values() if ".gates." in name] and len(own) == 6
    penalty = model.penalty()
    assert penalty is not None
    # Three tasks with two selectors among three experts each: a quarter of each is nobody's.
    assert penalty.item() == pytest.approx(
        6 * (0.1 * 3 / 4 * torch.log(torch.tensor(4.0)).item() + 4 / 3), rel=1e-2
    )
    penalty.backward()
    assert all(
        parameter.grad is not None
        for name, parameter in model.named_parameters()
        if name.endswith(".z")
    )


def test_experts_lie_where_their_layer_does_or_above_all_layers() -> None:
    """Layer-wise decay and the last layers of gradient balancing depend on it."""
    for config in ("mmoe", "cgc", "ple", MMoESharing(layers="top")):
        model = small_model(config)[0]
        for name, info in model.parameter_infos.items():
            assert info.depth == 1 or ".gates." not in name or ".network." not in name, name
            if ".network." not in name and name.startswith("trunk."):
                assert info.depth == 0, name
