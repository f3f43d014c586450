"""MTL-LoRA and HydraLoRA: their formulas, their gradients, which maps they change, and what they
share."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import join
from mtlcli.errors import UserError
from mtlcli.models.forward_pass import ForwardPass, running
from mtlcli.models.multitask import Trunk
from mtlcli.sharing.hard import HardSharing
from mtlcli.sharing.hydra_lora import HydraLoRASharing
from mtlcli.sharing.hydra_lora.trunk import HydraLoRAMap
from mtlcli.sharing.lora import LoRASharing
from mtlcli.sharing.mtl_lora import MTLLoRASharing
from mtlcli.sharing.mtl_lora.trunk import MTLLoRAMap
from mtlcli.sharing.parts.low_rank import ChangedMap
from mtlcli.sharing.polytropon import PolytroponSharing
from tests.families import FAMILIES, family_batch, family_trunk
from tests.small import small_model

NAMES = ["mtl_lora", "hydra_lora"]
OWNERS = {"one": "one", "other": "other", "borrower": "other"}


def shaken(module: nn.Module) -> None:
    """Nothing that a strategy has added is zero any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for changed in module.modules():
            if isinstance(changed, ChangedMap):
                added = {*changed.parameters()} - {*changed.inner.parameters()}
                for parameter in (each for each in changed.parameters() if each in added):
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def gradients(output: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    output.square().sum().backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transform", ["full", "diagonal"])
def test_a_map_of_mtl_lora_is_that_of_the_authors(transform: Any) -> None:
    """Written as the authors' code has it: A, then Lambda of each example's task, then its mixture
    of B, each as a batched product."""
    torch.manual_seed(0)
    config = MTLLoRASharing(rank=3, alpha=5.0, matrices=4, temperature=0.3, transform=transform)
    mine = MTLLoRAMap(nn.Linear(6, 7), config, ["one", "other"])
    shaken(mine)
    states = torch.randn(5, 2, 6)
    index = torch.tensor([0, 0, 1, 1, 1])

    transforms = []
    for name in ("one", "other"):
        own: Any = mine.own[name]
        given = own.transform
        transforms.append(torch.eye(3) + (given if given.ndim == 2 else torch.diag(given)))
    mixtures = torch.stack([mine.own[name].mixture for name in ("one", "other")])  # type: ignore[misc]
    lambdas = torch.stack(transforms)[index]
    weights = torch.softmax(mixtures / 0.3, -1)
    task_b = (weights @ mine.ups.view(4, -1)).reshape(-1, 7, 3)[index]
    after = torch.bmm(states, mine.down.expand(5, 3, 6).transpose(-2, -1))
    after = torch.bmm(after, lambdas.transpose(-2, -1))
    expected = mine.inner(states) + torch.bmm(after, task_b.transpose(-2, -1)) * 5.0 / 3

    mask = torch.ones(5, 2, dtype=torch.bool)
    with running(ForwardPass([("one", 2), ("other", 3)], mask)):
        found = mine(states)
    torch.testing.assert_close(found, expected)
    agree(gradients(found, mine), gradients(expected, mine))


def test_a_map_of_hydra_lora_is_that_of_the_authors() -> None:
    """Written as the authors' code has it: a sum over the B, each times its share of the token."""
    torch.manual_seed(0)
    mine = HydraLoRAMap(nn.Linear(6, 7), HydraLoRASharing(rank=3, alpha=5.0, matrices=4))
    shaken(mine)
    states = torch.randn(5, 2, 6)
    expected = mine.inner(states)
    shares = torch.softmax(states @ mine.router.T, -1)
    for number in range(4):
        inside = states @ mine.down.T @ mine.ups[number].T
        expected = expected + shares[:, :, number].unsqueeze(-1) * inside * (5.0 / 3)
    found = mine(states)
    torch.testing.assert_close(found, expected)
    agree(gradients(found, mine), gradients(expected, mine))


def test_factors_start_as_the_authors_have_them() -> None:
    torch.manual_seed(0)
    for mine in (
        MTLLoRAMap(nn.Linear(400, 50), MTLLoRASharing(rank=20), ["one"]),
        HydraLoRAMap(nn.Linear(400, 50), HydraLoRASharing(rank=20)),
    ):
        theirs = torch.empty(20, 400)
        nn.init.kaiming_uniform_(theirs, a=math.sqrt(5))
        down: Any = mine.down
        assert down.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
        assert down.abs().max() <= 1 / 20 and not mine.ups.any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_hard_sharing_and_changes_every_map(name: str, family: str) -> None:
    hard, ours = family_trunk(family, HardSharing(), OWNERS), family_trunk(family, name, OWNERS)
    batch = family_batch()
    with torch.no_grad():
        before = hard("one", batch).hidden
        assert torch.equal(ours("one", batch).hidden, before)
        shaken(ours)
        one, other, borrower = (ours(task, batch).hidden for task in OWNERS)
    assert not torch.allclose(one, before) and torch.equal(other, borrower)
    assert torch.equal(one, other) == (name == "hydra_lora")
    maps = sum(
        isinstance(module, nn.Linear | Conv1D)
        for layer in hard.backbone.layers()
        for module in layer.modules()
    )
    assert len(ours.maps) == maps >= 8  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "deberta-v2"])
def test_inputs_of_a_mixed_batch_have_their_own_changes(family: str) -> None:
    ours, batch = family_trunk(family, "mtl_lora", OWNERS), family_batch()
    shaken(ours)
    mixed = replace(join([("one", batch), ("other", batch)]), parts=(("one", 3), ("other", 3)))
    with torch.no_grad():
        found = ours("one", mixed)
        for name, pooled in zip(("one", "other"), found.pooled.split(3), strict=True):
            torch.testing.assert_close(pooled, ours(name, batch).pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize(
    "config",
    [
        MTLLoRASharing(transform="diagonal"),
        PolytroponSharing(splits=2),
        LoRASharing(shared=True, modules="all-linear"),
    ],
    ids=lambda config: config.name,
)
def test_merged_weights_alone_give_the_states_of_a_task(config: Any, family: str) -> None:
    ours: Any = family_trunk(family, config, OWNERS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    before, batch = {name: each.clone() for name, each in ours.state_dict().items()}, family_batch()
    kinds = [type(module) for module in family_trunk(family, HardSharing()).backbone.modules()]
    for task in OWNERS:
        merged = ours.merged(task)
        assert [type(module) for module in merged.modules()] == kinds
        with torch.no_grad():
            hidden, expected = merged(batch).hidden, ours(task, batch).hidden
        largest = expected.abs().max().item()
        torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-6 * max(1.0, largest))
    assert all(torch.equal(each, before[name]) for name, each in ours.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter(name: str) -> None:
    ours, batch = family_trunk("bert", name, OWNERS), family_batch()
    shaken(ours)
    with torch.no_grad():
        before = ours("one", batch).hidden
        batch.input_ids[1, 5:] = 9
        assert torch.allclose(ours("one", batch).hidden[1, :5], before[1, :5], atol=1e-6)


def test_distances_of_deberta_keep_its_batches_apart() -> None:
    """They go through the same linear maps as the states of tokens."""
    assert [family_trunk(each, "mtl_lora").joint for each in ("bert", "deberta-v2")] == [
        True,
        False,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_only_chosen_modules_change(name: str) -> None:
    config = sharings.configs[name](modules=["query", "output.dense"])
    trunk: Trunk = small_model(config)[0].trunk
    changed = {
        name.split(".layer.")[1][2:]
        for name, module in trunk.named_modules()
        if isinstance(module, ChangedMap)
    }
    assert changed == {"attention.self.query", "attention.output.dense", "output.dense"}
    with pytest.raises(UserError, match=r"ends with 'uery'") as caught:
        small_model(sharings.configs[name](modules=["query", "uery"]))
    assert caught.value.problems[0].where == "sharing.modules"


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_backbone_is_not_trained_and_the_rest_is_shared(name: str) -> None:
    model, _ = small_model(sharings.configs[name](frozen=True))
    users = model.users()
    trained = {n for n, p in model.trunk.named_parameters() if p.requires_grad}
    assert {each.split(".")[-1] for each in trained} == {
        "mtl_lora": {"down", "ups", "transform", "mixture"},
        "hydra_lora": {"down", "ups", "router"},
    }[name]
    for each in trained:
        owner = each.split(".own.")[1].split(".")[0] if ".own." in each else None
        assert users[f"trunk.{each}"] == ((owner,) if owner else tuple(model.tasks))


def test_statistics_say_how_alike_the_tasks_mix() -> None:
    trunk: Any = small_model("mtl_lora")[0].trunk
    with torch.no_grad():
        for each in trunk.maps:
            for name, mixture in (("cola", [9, 0, 0]), ("stsb", [0, 9, 0]), ("squad", [9, 9, 0])):
                each.own[name].mixture.copy_(torch.tensor(mixture, dtype=torch.float32))
    half = pytest.approx(0.7071, abs=1e-4)
    assert trunk.measures() == {"cosines": [[1, 0, half], [0, 1, half], [half, half, 1]]}
