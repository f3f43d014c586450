"""Adapters, and what PALs, LoRA and AdapterFusion have in common with them: the backbone's output
is unchanged at the start, and they train what they claim to train."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.config.section import replaced
from mtlcli.config.sharing import sharings
from mtlcli.config.validate import check
from mtlcli.errors import UserError
from mtlcli.models.build import build_model
from mtlcli.models.files import BackboneFiles
from mtlcli.models.multitask import MultiTaskModel, Trunk
from mtlcli.sharing.adapters import AdapterSharing
from mtlcli.sharing.lora import LoRASharing
from mtlcli.tasks.base import build_tasks
from tests.families import FAMILIES, family_backbone, family_batch
from tests.small import SmallConfig, small_configs, small_model
from tests.unit.config.test_crosscheck import PAIR, run, said
from tests.unit.sharing.training import batch_of, trained

SMALL: dict[str, dict[str, Any]] = {
    "adapters": {"size": 8},
    "pal": {"size": 8, "heads": 2},
    "lora": {"rank": 2, "modules": "all-linear"},
    "adapter_fusion": {"size": 8, "keys": 4},
}
VARIANTS = [
    *(sharings.configs[name](**options) for name, options in SMALL.items()),
    *(sharings.configs[name](**options, frozen=True) for name, options in SMALL.items()),
    AdapterSharing(shared=True, layers=[-1]),
    LoRASharing(shared=True, frozen=True),
]


def trunk(name: str, family: str) -> Trunk:
    """Over a backbone of a family, with the tasks `one` and `other`."""
    made: Trunk = sharings.implementation(name)(
        sharings.configs[name](**SMALL[name]),
        lambda: family_backbone(family),
        {"one": "one", "other": "other"},
    )
    return made.eval()


def own(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What a strategy has added to the backbone, by name."""
    marks = (
        ".adapters.",
        ".shared.",
        ".attentions.",
        "encoders.",
        "decoders.",
        ".fusions.",
        ".lora_",
    )
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if any(mark in name for mark in marks)
    }


def shaken(module: torch.nn.Module, share: float = 0.3) -> None:
    """Nothing that a strategy has added is zero any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in own(module).values():
            parameter += share * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SMALL)
def test_the_backbones_output_is_unchanged_at_the_start(name: str, family: str) -> None:
    plain, ours, batch = family_backbone(family), trunk(name, family), family_batch()
    with torch.no_grad():
        before = plain(batch).hidden
        assert torch.equal(ours("one", batch).hidden, before) and torch.equal(
            ours("other", batch).hidden, before
        )
        shaken(ours)
        one, other = ours("one", batch).hidden, ours("other", batch).hidden
    assert not torch.equal(one, before) and not torch.equal(one, other)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("name", SMALL)
def test_no_token_sees_padding_and_none_of_a_decoder_sees_what_follows(
    name: str, family: str
) -> None:
    ours, batch = trunk(name, family), family_batch()
    shaken(ours)
    with torch.no_grad():
        before = ours("one", batch).hidden
        batch.input_ids[1, 5:] = 9
        assert torch.allclose(ours("one", batch).hidden[1, :5], before[1, :5], atol=1e-6)
        batch.input_ids[0, 4] = 4 + (batch.input_ids[0, 4] == 4)
        changed = (ours("one", batch).hidden[0] - before[0]).abs().amax(1) > 1e-6
    assert changed[4:].all() and changed[:4].any() == (family == "bert")


@pytest.mark.parametrize("config", VARIANTS, ids=repr)
def test_a_task_trains_what_it_claims_and_nothing_else(config: Any) -> None:
    model, _ = small_model(config)
    shaken(model)
    users = model.users()
    added = set(own(model))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (
            not config.frozen or name in added or name.startswith("heads.")
        )
    for task in model.tasks:
        model.zero_grad()
        model(task, batch_of(task)).loss.backward()
        reached = {
            name for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        assert reached == {
            name for name, p in model.named_parameters() if task in users[name] and p.requires_grad
        }
        # Theirs alone but for what all share.
        assert {name for name in added & reached if len(users[name]) == 1} == {
            name for name in added if users[name] == (task,)
        }
    shared = {
        name
        for name in users
        if len(users[name]) > 1 and dict(model.named_parameters())[name].requires_grad
    }
    assert bool(shared) == config.shares


@pytest.mark.parametrize("name", SMALL)
def test_a_frozen_backbone_keeps_its_weights_to_the_bit(name: str) -> None:
    config = sharings.configs[name](**SMALL[name], frozen=True)
    start = {
        name: parameter.detach().clone()
        for name, parameter in small_model(config)[0].named_parameters()
    }
    model, losses = trained(config, steps=2)
    added = set(own(model))
    for parameter_name, parameter in model.named_parameters():
        if parameter_name in added or parameter_name.startswith("heads."):
            continue
        assert torch.equal(parameter, start[parameter_name]), parameter_name
    assert any(not torch.equal(parameter, start[key]) for key, parameter in own(model).items())
    assert model.state_dict().keys() >= start.keys()


def minilm(sharing: Any) -> MultiTaskModel:
    """Of the shape of all-MiniLM-L6-v2, without numbers, with eight tasks."""
    from transformers import BertConfig

    shape = BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    files = BackboneFiles(None, shape.to_dict(), "", True, 512, None)
    cola = small_configs()["cola"]
    tasks = build_tasks({f"task{letter}": cola for letter in "abcdefgh"})
    config = SmallConfig(sharing)
    # As of the model itself, whose pooler is trained; without one every head would have a dense
    # layer in its place.
    config.model = replaced(config.model, {"pooling": "pooler"})
    with torch.device("meta"):
        return build_model(config, tasks, files)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SMALL)
def test_eight_tasks_need_at_most_1_15_times_the_parameters_of_one_backbone(name: str) -> None:
    backbone = sum(parameter.numel() for parameter in minilm("hard").trunk.parameters())
    counts = minilm(name).parameter_counts()
    assert 1 < counts["total"] / backbone <= 1.15
    assert counts["shared"] == backbone


def test_an_adapter_adds_its_formula() -> None:
    ours, plain, batch = trunk("adapters", "bert"), family_backbone("bert"), family_batch()
    shaken(ours)
    layers = [module for module in ours.modules() if hasattr(module, "adapters")]
    assert len(layers) == 2
    for layer, place in zip(plain.network.encoder.layer, layers, strict=True):
        adapter = place.adapters["other"]  # type: ignore[index, union-attr]

        def add(
            module: Any, inputs: Any, output: torch.Tensor, adapter: Any = adapter
        ) -> torch.Tensor:
            inside = torch.nn.functional.gelu(output @ adapter.down.weight.T + adapter.down.bias)
            return output + inside @ adapter.up.weight.T + adapter.up.bias

        layer.register_forward_hook(add)
    with torch.no_grad():
        assert torch.allclose(ours("other", batch).hidden, plain(batch).hidden, atol=1e-5)


def test_adapters_of_all_stand_beside_those_of_one() -> None:
    model, _ = small_model(AdapterSharing(shared=True, layers=[-1], frozen=True))
    users = model.users()
    names = own(model)
    assert names and all(".layer.1." in name for name in names)
    assert {users[name] for name in names if ".shared." in name} == {tuple(model.tasks)}
    assert model.parameter_infos[next(iter(names))].depth == 1


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="there is no layer 5"):
        small_model(AdapterSharing(layers=[5]))
    with pytest.raises(UserError, match="peft cannot change .*nowhere.* of bert"):
        small_model(LoRASharing(modules=["nowhere"]))
    assert said(run(PAIR, sharing={"name": "pal", "size": 10, "heads": 4})) == [
        "sharing.heads: sharing.size=10 is not a multiple of 4 -> change one of them"
    ]
    for name in SMALL:
        frozen = run(PAIR, sharing={"name": name, "frozen": True}, weighting={"name": "mgda"})
        assert [problem.where for problem in check(frozen)[1]] == ["sharing"]
        assert check(run(PAIR, sharing={"name": name}, weighting={"name": "mgda"}))[1] == []
