"""The last layer for the first token alone gives what the whole layer gives for it, and everything
above and below learns the same; attention with cheap dropout is the library's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.models.bert.modeling_bert import BertSelfAttention

from mtlcli.config import sharings
from mtlcli.fast.attention import PLAIN, switch_attention
from mtlcli.fast.dropout import CheapDropout, cheapen
from mtlcli.fast.first_token import FirstToken, read_first_token
from mtlcli.fast.mixin import put_on
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, checkpoint_contexts, running
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.tasks.base import Encoded
from tests.families import FAMILIES, family_backbone, family_batch
from tests.small import small_model
from tests.unit.sharing.training import batch_of

LIKE_BERT = ["bert", "roberta", "xlm-roberta", "camembert", "electra"]
MINDS = {
    *("hard", "none", "soft", "hierarchical", "adapters", "task_embedding"),
    *("lora", "mtl_lora", "hydra_lora", "polytropon"),
}


def like_bert(
    family: str, pooling: str, attention: str, *, checkpointing: bool = False
) -> Backbone:
    """Two layers of width 32, the same weights every time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=99,
    )
    network = AutoModel.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    if checkpointing:
        network.activation_checkpointing_enable(
            {"use_reentrant": False, "context_fn": checkpoint_contexts}
        )
    cheapen(network)
    return Backbone(network, pooling)


def first_token_only(backbone: Backbone) -> Backbone:
    """The backbone, whose last layer computes the first token alone for the task `cola`."""
    last: Any = backbone.network.encoder.layer[-1]  # type: ignore[index, union-attr]
    put_on(FirstToken, last, first_token_heads={"cola"})
    return backbone


def encoded_by(backbone: Backbone) -> Encoded:
    """What the backbone gives for a batch of `cola`."""
    batch = family_batch()
    batch.input_ids %= 99
    with running(ForwardPass([("cola", len(batch))], batch.attention_mask)):
        encoded: Encoded = backbone(batch)
    return encoded


def passed(backbone: Backbone) -> tuple[tuple[int, ...], Tensor, dict[str, Tensor]]:
    """Shape of the token states, pooled vectors, and gradients of a function of these."""
    encoded = encoded_by(backbone)
    encoded.pooled.square().sum().backward()
    gradients = {
        name: each.grad.to_dense()
        for name, each in backbone.named_parameters()
        if each.grad is not None
    }
    return tuple(encoded.hidden.shape), encoded.pooled.detach(), gradients


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pooling", ["cls", "pooler"])
@pytest.mark.parametrize("family", LIKE_BERT)
def test_pooled_vectors_and_gradients_are_those_of_the_whole_layer(
    family: str, pooling: str, attention: str
) -> None:
    if (family, pooling) == ("electra", "pooler"):
        pytest.skip("it has none")
    for checkpointing in (False, True):
        one, whole = (
            like_bert(family, pooling, attention, checkpointing=checkpointing) for _ in range(2)
        )
        # With checkpointing in training, where it happens; without dropout, so that nothing is
        # drawn.
        for backbone in (one, whole):
            backbone.train(checkpointing)
            for module in backbone.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        shape, pooled, gradients = passed(first_token_only(one))
        shape_of_all, expected, theirs = passed(whole)
        assert (shape, shape_of_all) == ((3, 1, 32), (3, 7, 32))
        torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)
        agree(gradients, theirs)
        assert list(one.state_dict()) == list(whole.state_dict())


def test_dropout_is_drawn_in_training_alone() -> None:
    backbone = first_token_only(like_bert("bert", "cls", "eager"))
    with torch.no_grad():
        backbone.eval()
        assert torch.equal(encoded_by(backbone).pooled, encoded_by(backbone).pooled)
        backbone.train()
        assert not torch.equal(encoded_by(backbone).pooled, encoded_by(backbone).pooled)


def test_keys_and_values_that_are_not_made_act_as_those_that_are() -> None:
    """In training, where the weights that dropout leaves do not add up to 1."""

    class Other(torch.nn.Linear):
        """Something that only gives keys or values, as LoRA's modules do."""

    short, long = (first_token_only(like_bert("bert", "cls", "sdpa")).train() for _ in range(2))
    for module in long.modules():
        if isinstance(module, BertSelfAttention):
            module.key.__class__ = module.value.__class__ = Other
    results = []
    for backbone in (short, long):
        torch.manual_seed(1)
        results.append(passed(backbone))
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    agree(results[0][2], results[1][2])


@pytest.mark.parametrize("family", LIKE_BERT)
def test_attention_in_training_is_that_of_the_library_with_other_draws(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (like_bert(family, "mean", how) for how in ("sdpa", "eager"))
    switch_attention(ours, "fp32")
    ours.train(), theirs.train()
    assert (
        ours.network.config._attn_implementation,
        theirs.network.config._attn_implementation,
    ) == (PLAIN, "eager")
    drawn: list[Tensor] = []

    def dropout(input: Tensor, p: float, training: bool) -> Tensor:
        assert training and p == 0.1
        drawn.append(input)
        return CheapDropout(p)(input)

    monkeypatch.setattr(torch.nn.functional, "dropout", dropout)
    results = []
    for backbone in (ours, theirs):
        torch.manual_seed(1)
        results.append(passed(backbone))
    assert len(drawn) == 2, "the library's, in each of its layers"
    assert torch.equal(results[0][1], results[1][1])
    assert all(
        torch.equal(gradient, results[1][2][name]) for name, gradient in results[0][2].items()
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_other_layers_and_other_pooling_give_all_tokens(family: str, pooling: str) -> None:
    model, _ = small_model("hard", fast=False)
    backbone, model.pooling = family_backbone(family, pooling), pooling
    read_first_token(model, [backbone])
    with torch.no_grad():
        hidden = encoded_by(backbone).hidden
    assert hidden.shape[1] == (1 if (family, pooling) == ("bert", "cls") else 7)


@pytest.mark.parametrize("name", sharings.configs)
def test_every_strategy_learns_the_same(name: str) -> None:
    def learned(*, first_token: bool) -> tuple[dict[str, int], dict[str, Tensor], MultiTaskModel]:
        model, _ = small_model(name, fast=first_token)
        model.eval()
        widths, found = {}, {}
        for task in model.tasks:
            batch = batch_of(task)
            handle = model.trunk.register_forward_hook(
                lambda _m, _i, given, task=task: widths.update({task: given.hidden.shape[1]})
            )
            loss = model(task, batch).loss
            handle.remove()
            loss.backward()
            found[task] = loss.detach()
            widths[task] -= batch.input_ids.shape[1]
        gradients = {
            key: each.grad.to_dense()
            for key, each in model.named_parameters()
            if each.grad is not None
        }
        return widths, found | gradients, model

    widths, ours, model = learned(first_token=True)
    assert model.trunk.first_token == (name in MINDS)
    assert [task for task, width in widths.items() if width] == (
        ["cola", "stsb"] if name in MINDS else []
    )
    _, theirs, _ = learned(first_token=False)
    agree(ours, theirs)


def test_with_a_task_that_reads_all_tokens_in_the_batch_all_are_there() -> None:
    model, _ = small_model("hard")
    squad, cola = batch_of("squad"), batch_of("cola")
    length = max(squad.input_ids.shape[1], cola.input_ids.shape[1])
    parts = [
        (name, batch.pick(torch.arange(len(batch)).numpy(), length))
        for name, batch in (("cola", cola), ("squad", squad))
    ]
    model.eval()
    together = model.together(parts)
    for (name, batch), output in zip(parts, together, strict=True):
        torch.testing.assert_close(output.loss, model(name, batch).loss)
