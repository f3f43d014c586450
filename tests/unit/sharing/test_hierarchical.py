"""Hierarchical sharing: at the last layer it is hard sharing, a low task leaves layers above alone;
mix and penalty by their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.config.validate import check
from mtlcli.errors import UserError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.sharing.hierarchical import HierarchicalSharing
from mtlcli.sharing.hierarchical.trunk import Hierarchical
from mtlcli.sharing.parts.layers import layer_list
from tests.families import FAMILIES, family_backbone, family_batch
from tests.small import small_model
from tests.unit.config.test_crosscheck import PAIR, run, said
from tests.unit.sharing.training import batch_of, trained

LOW = {"cola": 0}


def hierarchical(**options: Any) -> MultiTaskModel:
    return small_model(HierarchicalSharing(**options))[0]


def trunk(family: str, **options: Any) -> Hierarchical:
    """Over a backbone of a family: `low` reads layer 0, `high` the last one."""
    config = HierarchicalSharing(tasks={"low": 0}, **options)
    return Hierarchical(
        config, lambda: family_backbone(family), {"low": "low", "high": "high"}
    ).eval()


def test_at_the_last_layer_it_is_hard_sharing() -> None:
    ours, losses = trained(HierarchicalSharing(tasks={"cola": 1, "stsb": -1}))
    hard, expected = trained("hard")
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), hard.parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_low_task_reads_what_the_network_gives_without_the_layers_above(family: str) -> None:
    whole, cut, ours = family_backbone(family), family_backbone(family), trunk(family)
    del layer_list(cut.network)[1:]
    batch = family_batch()
    with torch.no_grad():
        assert torch.equal(ours("high", batch).hidden, whole(batch).hidden)
        assert torch.equal(ours("low", batch).hidden, cut(batch).hidden)
        assert not torch.equal(cut(batch).hidden, whole(batch).hidden)


def test_layers_above_a_task_get_no_gradient_and_do_not_run() -> None:
    model = hierarchical(tasks=LOW)
    upper = layer_list(model.trunk.backbone.network)[1]  # type: ignore[union-attr, arg-type]
    model("cola", batch_of("cola")).loss.backward()
    assert all(parameter.grad is None for parameter in upper.parameters())
    users = model.users()
    for name, parameter in model.trunk.named_parameters():
        assert (parameter.grad is not None) == ("cola" in users[f"trunk.{name}"])
    assert users["trunk.backbone.network.encoder.layer.1.inner.output.dense.weight"] == (
        "stsb",
        "squad",
    )
    upper.inner.forward = None  # type: ignore[union-attr, assignment]
    model("cola", batch_of("cola"))
    with pytest.raises(TypeError):
        model("stsb", batch_of("stsb"))


def test_layers_that_no_task_reads_are_dropped() -> None:
    model = hierarchical(tasks=dict.fromkeys(("cola", "stsb", "squad"), 0))
    assert model.depth == 1 and not any(".layer.1." in name for name, _ in model.named_parameters())
    name = "trunk.backbone.network.encoder.layer.0.inner.output.dense.weight"
    assert model.parameter_infos[name].depth == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mix_is_a_weighted_mean_of_all_states_below(family: str) -> None:
    ours, plain, batch = trunk(family, mix=True), family_backbone(family), family_batch()
    seen: list[torch.Tensor] = []
    layers = layer_list(plain.network)
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layers[-1].register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    mix = ours.mixes["high"]
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
        mix.scale.fill_(1.7)
        plain(batch)
        shares = torch.tensor([0.3, -1.0, 2.0]).exp() / torch.tensor([0.3, -1.0, 2.0]).exp().sum()
        expected = 1.7 * sum(share * state for share, state in zip(shares, seen, strict=True))
        # What the network does to its last states, it does to the mix.
        layers[-1].register_forward_hook(
            lambda _, __, output: (expected, *output[1:]) if isinstance(output, tuple) else expected
        )
        assert torch.allclose(ours("high", batch).hidden, plain(batch).hidden, atol=1e-5)
    assert ours.measures()["mix"]["high"] == pytest.approx(shares.tolist())
    assert ours.measures()["mix"]["low"] == [0.5, 0.5]


def test_successive_regularisation_holds_the_lower_layers() -> None:
    model = hierarchical(tasks=LOW, successive=0.3, successive_every=2)
    trunk = model.trunk
    start = {name: parameter.detach().clone() for name, parameter in trunk.named_parameters()}
    first = trunk.penalty()
    assert first is not None and first.item() == 0
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    penalty = trunk.penalty()
    assert penalty is not None
    held = {name for name in start if ".layer.1." not in name}
    assert 0 < len(held) < len(start)
    expected = 0.3 * sum(
        float((p - start[n]).detach().square().sum())
        for n, p in trunk.named_parameters()
        if n in held
    )
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    assert trunk.measures()["distance"] == pytest.approx(expected / 0.3, rel=1e-5)
    penalty.backward()
    for name, parameter in trunk.named_parameters():
        if name in held:
            assert torch.allclose(
                parameter.grad, 0.6 * (parameter - start[name]).detach(), atol=1e-6
            )  # type: ignore[arg-type]
        else:
            assert parameter.grad is None
    # Two steps are over: what the layers are now is what they were.
    third = trunk.penalty()
    assert third is not None and third.item() == 0
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.1
    for expect_zero in (False, True, True):
        later = trunk.penalty()
        assert later is not None and (later.item() == 0) == expect_zero
    assert {
        name.rstrip("0123456789") for name, _ in trunk.named_buffers() if "backbone" not in name
    } == {"before", "held_for"}


def test_much_regularisation_keeps_the_lower_layers_where_they_were() -> None:
    """Of plain gradient descent with this rate and factor, every step takes the held layers all the
    way back."""
    options = {"tasks": LOW, "successive_every": 100}
    moved = {}
    for strength in (0.0, 250.0):
        start = dict(hierarchical(**options).trunk.named_parameters())
        model = trained(HierarchicalSharing(**options, successive=strength), steps=8)[0]
        moved[strength] = sum(
            float((p - start[n]).detach().square().sum())
            for n, p in model.trunk.named_parameters()
            if ".layer.0." in n
        )
    assert moved[250.0] < 0.1 * moved[0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": {"cola": 2}}, "there is no layer 2"),
        ({"successive": 0.1}, "every task reads the same layer"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        hierarchical(**options)


def test_frozen_layers_have_nothing_to_hold() -> None:
    with pytest.raises(UserError, match="all of them are frozen"):
        small_model(HierarchicalSharing(tasks=LOW, successive=0.1), frozen_layers=1)


def test_a_layer_for_a_task_that_has_none_is_refused_before_the_run() -> None:
    values = run(PAIR, sharing={"name": "hierarchical", "tasks": {"aa": 0}})
    assert said(values) == [
        "sharing.tasks.aa: task 'aa' is not in the run -> did you mean 'a'? choices: a, b"
    ]
    borrower = {**PAIR, "b": {**PAIR["b"], "head": "a", "labels": None}}
    assert said(run(borrower, sharing={"name": "hierarchical", "tasks": {"b": 0}})) == [
        "sharing.tasks.b: task 'b' uses the head of 'a', and so its layer -> give sharing.tasks.a "
        "instead"
    ]
    assert check(run(PAIR, sharing={"name": "hierarchical", "tasks": {"b": 0}}))[1] == []
