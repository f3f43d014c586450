"""MMoE: one expert is hard sharing, the mixture is the paper's formula, each task has its gate, and
the load is what gates gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.errors import UserError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.sharing.mmoe import MMoESharing
from tests.families import family_trunk
from tests.small import small_data, small_model
from tests.unit.sharing.training import batch_of

FAMILIES = ["bert", "deberta-v2", "modernbert", "t5", "gpt2", "llama"]


def mmoe(**options: Any) -> MultiTaskModel:
    return small_model(MMoESharing(**options), fast=False)[0]


def shaken(model: torch.nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def gradients(model: MultiTaskModel, task: str) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model(task, batch_of(task)).loss
    loss.backward()
    return loss, {
        name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("options", [{"layers": [-1]}, {"layers": "all"}])
def test_one_expert_is_a_hard_layer(options: dict[str, Any]) -> None:
    hard, one = small_model("hard", fast=False)[0], mmoe(experts=1, noise=0.0, **options)
    # To the bit: gates see all tokens.
    one.heads.load_state_dict(hard.heads.state_dict())
    for task in hard.tasks:
        (expected, theirs), (loss, ours) = gradients(hard, task), gradients(one, task)
        assert torch.equal(loss, expected)
        gates = {name: ours.pop(name) for name in list(ours) if ".gates." in name}
        assert gates and all(not gradient.any() for gradient in gates.values())
        named = {
            name.replace(".output.shared.0.", ".").replace("output.output", "output"): value
            for name, value in ours.items()
        }
        assert named.keys() == theirs.keys()
        assert all(torch.equal(named[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_equal_experts_are_the_layer_itself(family: str) -> None:
    batch = batch_of("cola")
    hard, one, four = (
        family_trunk(family, s)
        for s in (
            "hard",
            MMoESharing(experts=1, noise=0, layers="all"),
            MMoESharing(noise=0, layers="all"),
        )
    )
    batch.token_type_ids = batch.token_type_ids if family == "bert" else None
    with torch.no_grad():
        expected, single, mixed = (trunk("cola", batch) for trunk in (hard, one, four))
    assert torch.equal(single.hidden, expected.hidden) and torch.equal(
        single.pooled, expected.pooled
    )
    torch.testing.assert_close(mixed.hidden, expected.hidden)


def test_a_layer_whose_feed_forward_block_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"BartEncoderLayer does not keep[^$]*sharing.layers=top"):
        family_trunk("bart", "mmoe")
    assert family_trunk("bart", MMoESharing(layers="top"))


def test_a_frozen_layer_is_refused_and_experts_on_top_of_one_are_not() -> None:
    with pytest.raises(UserError, match="layer 1 is frozen"):
        family_trunk("bert", "mmoe", frozen=2)
    trunk = family_trunk("bert", MMoESharing(layers="top"), frozen=2)
    assert all(p.requires_grad for name, p in trunk.named_parameters() if name.startswith("top."))


def test_the_mixture_in_a_layer_is_the_formula() -> None:
    model = mmoe(experts=3)
    shaken(model)
    layer = model.trunk.backbone.network.encoder.layer[-1]  # type: ignore[union-attr]
    seen: list[Tensor] = []
    layer.attention.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    weights = {name: tensor.double() for name, tensor in layer.output.state_dict().items()}
    for task in model.tasks:
        hidden = model.trunk(task, batch_of(task)).hidden
        x = seen.pop().double()
        gate = torch.softmax(x @ weights[f"gates.{task}.weight"].T, -1)
        expected = torch.zeros_like(x)
        for i in range(3):
            w = {
                name.removeprefix(f"shared.{i}."): tensor
                for name, tensor in weights.items()
                if name.startswith(f"shared.{i}.")
            }
            inner = gelu(linear(x, w["intermediate.dense.weight"], w["intermediate.dense.bias"]))
            outer = linear(inner, w["output.dense.weight"], w["output.dense.bias"])
            block = layer_norm(
                x + outer,
                x.shape[-1:],
                w["output.LayerNorm.weight"],
                w["output.LayerNorm.bias"],
                eps=1e-12,
            )
            expected += gate[..., i : i + 1] * block
        torch.testing.assert_close(hidden.double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5"])
def test_experts_on_top_are_the_formula_and_what_is_pooled(family: str) -> None:
    hard, trunk = (
        family_trunk(family, "hard"),
        family_trunk(family, MMoESharing(layers="top", experts=2)),
    )
    shaken(trunk.top)  # type: ignore[arg-type]
    batch = batch_of("stsb")
    batch.token_type_ids = None
    network = trunk.backbone.network  # type: ignore[union-attr]
    name = {"bert": "", "modernbert": "final_norm", "t5": "final_layer_norm"}[family]
    norm = getattr(network, name) if name else torch.nn.Identity()
    if name:
        # What `hard` gives are then the states before the network's last norm, which are what the
        # experts see.
        setattr(hard.backbone.network, name, torch.nn.Identity())  # type: ignore[union-attr]
    with torch.no_grad():
        x = hard("stsb", batch).hidden.double()
        w = {name: tensor.double() for name, tensor in trunk.top.state_dict().items()}  # type: ignore[union-attr]
        gate = torch.softmax(x @ w["gates.stsb.weight"].T, -1)
        expected = torch.zeros_like(x)
        for i in range(2):
            scale, shift, up_bias, down_bias = (
                w[f"shared.{name}"].view(2, -1)[i]
                for name in ("norm", "norm_bias", "up_bias", "down_bias")
            )
            inner = gelu(layer_norm(x, x.shape[-1:], scale, shift) @ w["shared.up"][i] + up_bias)
            expected += gate[..., i : i + 1] * (x + inner @ w["shared.down"][i] + down_bias)
        found = trunk("stsb", batch)
        torch.testing.assert_close(found.hidden, norm(expected.float()), atol=2e-5, rtol=1e-4)
        states = found.hidden
        if family == "bert":
            assert torch.equal(found.pooled, network.pooler(states))
        elif family == "modernbert":
            assert torch.equal(found.pooled, states[:, 0])
        else:
            mask = batch.attention_mask.unsqueeze(-1)
            assert torch.equal(found.pooled, (states * mask).sum(1) / mask.sum(1))


def test_a_task_reaches_its_own_gate() -> None:
    model = mmoe()
    _, found = gradients(model, "stsb")
    assert [name.split(".gates.")[1] for name in found if ".gates." in name] == ["stsb.weight"]
    assert found[next(name for name in found if ".gates." in name)].any(), (
        "experts that differ give a gate its gradient"
    )


@pytest.mark.parametrize("layers", [[-1], "top"])
def test_the_load_is_that_of_the_latest_step_over_all_micro_batches(layers: Any) -> None:
    model = mmoe(layers=layers)
    shaken(model)
    trunk = model.trunk
    (place,) = trunk.measures()["load"]
    features = small_data()[2]["squad"]

    def batch(indices: range) -> Batch:
        return collate(
            features, np.array(indices), input_format=InputFormat(0, True), denominator=1.0
        )

    with trunk.training_passes():
        model("squad", batch_of("squad", 30))
    with trunk.training_passes():
        model("squad", batch(range(12)))
    whole = trunk.measures()["load"][place]
    with trunk.training_passes():
        for part in (range(3), range(3, 12)):
            model("squad", batch(part))
    model("squad", batch_of("squad", 30))  # An evaluation or a probe.
    with trunk.training_passes():
        model("cola", batch_of("cola"))
    after = trunk.measures()["load"][place]
    assert list(after) == ["cola", "squad"] and list(whole) == ["squad"]
    assert sum(after["squad"]) == pytest.approx(1, abs=1e-3)
    assert after["squad"] == pytest.approx(whole["squad"], abs=1e-3)
    assert max(after["squad"]) > 0.27, "gates that say nothing would hide a mistake"


def test_the_load_is_part_of_the_checkpoint() -> None:
    one, other = mmoe(), mmoe()
    with one.training_passes():
        one("cola", batch_of("cola"))
    other.load_state_dict(one.state_dict())
    assert one.trunk.measures() == other.trunk.measures() != mmoe().trunk.measures()
