"""Prefixes: peft's own in the library's cache, the formula where the library has no cache, and
which networks take them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from mtlcli.data.batches import join
from mtlcli.errors import UserError
from mtlcli.sharing.prefix import PrefixSharing
from tests.families import family_backbone, family_batch, family_trunk
from tests.small import small_model
from tests.unit.config.test_crosscheck import PAIR, run, said

OWNERS = {"one": "one", "other": "other", "borrower": "other"}
LENGTH = 5


def prefix_trunk(family: str, **options: Any) -> Any:
    """Two tasks with prefixes that matter, and one that borrows a head."""
    trunk: Any = family_trunk(family, PrefixSharing(length=LENGTH, **options), OWNERS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if ".prefixes." in name:
                parameter += torch.randn(parameter.shape, generator=generator)
    return trunk


def prefixes_of(trunk: Any, task: str) -> list[Any]:
    """The prefixes of a task, lowest layer first."""
    return [module.prefixes[task] for module in trunk.modules() if hasattr(module, "prefixes")]


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_states_are_those_with_pefts_prefix(family: str) -> None:
    """peft's prompt encoder in the library's cache, with the positions that the input has by
    itself."""
    trunk, batch = prefix_trunk(family), family_batch()
    network: Any = family_backbone(family).network
    settings = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH)
    theirs: Any = peft.get_peft_model(network, settings)
    encoder = theirs.prompt_encoder["default"]
    first = 1 if family == "roberta" else 0  # It leaves out the position of the padding.
    for task in ("one", "other"):
        flat = [each for own in prefixes_of(trunk, task) for each in (own.keys, own.values)]
        with torch.no_grad():
            encoder.embedding.weight.copy_(torch.cat(flat, 1))
            expected = network(
                input_ids=batch.input_ids,
                attention_mask=torch.cat([torch.ones(3, LENGTH), batch.attention_mask], 1).long(),
                position_ids=torch.arange(first, first + 7).expand(3, -1),
                past_key_values=theirs.get_prompt(3),
            ).last_hidden_state
            encoded = trunk(task, batch)
        mask = batch.attention_mask
        torch.testing.assert_close(encoded.hidden[mask], expected[mask], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trunk("one", batch).hidden, trunk("other", batch).hidden)
    assert torch.equal(trunk("other", batch).hidden, trunk("borrower", batch).hidden)


@pytest.mark.parametrize("family", ["t5", "bart", "modernbert"])
def test_states_are_those_of_the_formula(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library keeps no cache: its plain attention, written with two softmax sums."""
    trunk, batch = prefix_trunk(family), family_batch()
    network: Any = family_backbone(family).network
    network.set_attn_implementation("eager")
    left: list[Any] = []

    def plain(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **more: Any
    ) -> tuple[Tensor, None]:
        own = left.pop(0)
        keys, values = (
            each.view(LENGTH, query.shape[1], -1).transpose(0, 1) for each in (own.keys, own.values)
        )
        scores = query @ key.mT * more["scaling"] + mask
        if more.get("position_bias") is not None:
            scores = scores + more["position_bias"]
        front = (query @ keys.mT * more["scaling"]).exp()
        inside = scores.exp()
        total = front.sum(-1, keepdim=True) + inside.sum(-1, keepdim=True)
        return ((front @ values + inside @ value) / total).transpose(1, 2), None

    monkeypatch.setattr(sys.modules[type(network).__module__], "eager_attention_forward", plain)
    mask = batch.attention_mask
    for task in ("one", "other"):
        left = prefixes_of(trunk, task)
        with torch.no_grad():
            inputs = {"input_ids": batch.input_ids, "attention_mask": mask.long()}
            expected = network(**inputs).last_hidden_state
            found = trunk(task, batch).hidden
        assert not left
        torch.testing.assert_close(found[mask], expected[mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_inputs_of_a_mixed_batch_have_their_own_prefixes(family: str) -> None:
    trunk, batch = prefix_trunk(family), family_batch()
    mixed = replace(join([("one", batch), ("other", batch)]), parts=(("one", 3), ("other", 3)))
    with torch.no_grad():
        found = trunk("one", mixed)
        for name, pooled in zip(("one", "other"), found.pooled.split(3), strict=True):
            torch.testing.assert_close(pooled, trunk(name, batch).pooled, rtol=1e-4, atol=1e-5)


def test_only_chosen_layers_have_prefixes() -> None:
    trunk, batch = prefix_trunk("gpt2", layers=[-1]), family_batch()
    states: list[Tensor] = []
    for backbone in (trunk.backbone, family_backbone("gpt2")):
        backbone.network.h[0].register_forward_hook(lambda _m, _i, given: states.append(given))
    with torch.no_grad():
        found, plain = trunk("one", batch).hidden, backbone(batch).hidden
    assert len(prefixes_of(trunk, "one")) == 1 and not torch.allclose(found, plain)
    torch.testing.assert_close(*states)


def test_who_uses_what_and_how_fast_it_learns() -> None:
    model, _ = small_model(PrefixSharing(frozen=True, lr=0.3, layers=[1]))
    names = [name for name in model.parameter_infos if ".prefixes." in name]
    assert len(names) == 2 * len(model.tasks)
    for name, info in model.parameter_infos.items():
        trained = model.get_parameter(name).requires_grad
        if name in names:
            task = name.split(".prefixes.")[1].split(".")[0]
            assert (info.users, info.lr, info.depth) == ((task,), 0.3, 1) and trained
        else:
            assert trained == name.startswith("heads.")


def test_a_network_with_its_own_attention_is_refused() -> None:
    with pytest.raises(UserError, match="deberta-v2 has an attention of its own"):
        family_trunk("deberta-v2", "prefix")


def test_plain_products_are_refused_before_the_run() -> None:
    eager = run(PAIR, sharing={"name": "prefix"}, model={"attention": "eager"})
    assert said(eager) == [
        "model.attention: sharing=prefix computes attention with torch's kernel -> leave it out"
    ]
