"""Which parameters belong to whom: every parameter once, and gradient reaches what it should and
nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import InputFormat, collate
from tests.small import small_data, small_model


@pytest.mark.parametrize("sharing", list(sharings))
def test_gradient_of_a_task_reaches_exactly_the_parameters_it_uses(sharing: str) -> None:
    _, _, features, _ = small_data()
    model, _ = small_model(sharing)
    users = model.users()
    assert list(users) == [name for name, _ in model.named_parameters()]
    assert all(users.values())
    for task in model.tasks:
        model.zero_grad()
        batch = collate(
            features[task], np.arange(8), input_format=InputFormat(0, True), denominator=8.0
        )
        model(task, batch).loss.backward()
        reached = {
            name for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        assert reached == {name for name, tasks in users.items() if task in tasks}


def test_hard_shares_the_backbone_and_none_shares_nothing() -> None:
    hard, none = (
        small_model("hard")[0].parameter_counts(),
        small_model("none")[0].parameter_counts(),
    )
    assert hard["shared"] + sum(hard["per_task"].values()) == hard["total"]
    assert none["shared"] == 0 and sum(none["per_task"].values()) == none["total"]
    assert none["total"] == hard["total"] + 2 * hard["shared"]


def test_copies_start_equal_and_go_their_own_way() -> None:
    model, _ = small_model("none")
    one, other = model.trunk.backbones["cola"], model.trunk.backbones["squad"]  # type: ignore[index, union-attr]
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)


def test_one_task_is_the_same_under_hard_and_none() -> None:
    """With the same start the two strategies compute the same function of the first task's
    batch."""
    _, _, features, _ = small_data()
    batch = collate(
        features["cola"], np.arange(8), input_format=InputFormat(0, True), denominator=8.0
    )
    hard, none = small_model("hard")[0].eval(), small_model("none")[0].eval()
    assert torch.equal(hard("cola", batch).loss, none("cola", batch).loss)


@pytest.mark.parametrize("sharing", list(sharings))
def test_tasks_are_said_to_have_the_same_states_where_they_have(sharing: str) -> None:
    """Random parameters, since at the start the parts of tasks are often equal."""
    _, _, features, _ = small_data()
    model, _ = small_model(sharing)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    one, other = [*model.tasks][:2]
    batch = collate(features[one], np.arange(4), input_format=InputFormat(0, True), denominator=4.0)
    with torch.no_grad():
        states = [model.encoded(task, batch).hidden for task in (one, other)]
    same = states[0].shape == states[1].shape and torch.equal(*states)
    assert model.trunk.same_for(one, other) == same
