"""Packed batches in networks of every family: the same states as in padded batches, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModel

from mtlcli.config.section import replaced
from mtlcli.data.batches import InputFormat, join
from mtlcli.data.pack import Layout, Packing, pack
from mtlcli.errors import UserError
from mtlcli.models import packed as module
from mtlcli.models.backbone import Backbone
from mtlcli.models.packed import (
    NAME,
    NotPackable,
    _flash,
    _random_parts,
    attend,
    choose_packing,
    packing_of,
)
from mtlcli.sharing.hard.trunk import Hard
from tests.small import SmallConfig, small_model

CPU = torch.device("cpu")
LONGEST = 60
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
}
ROBERTA = BERT | {"pad_token_id": 1}
LLAMA = BERT | {"num_key_value_heads": 2, "head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80, "vocab_size": 99}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 99,
}
EQUAL: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": BERT | {"embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "vocab_size": 99,
        "max_position_embeddings": 80,
    },
    "albert": BERT | {"embedding_size": 16},
    "modernbert": BERT | {"local_attention": 16, "global_attn_every_n_layers": 2},
    "gpt2": GPT,
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gemma3_text": LLAMA
    | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "opt": BERT | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": BERT,
    "nomic_bert": BERT,
    "jina_embeddings_v3": ROBERTA,
    "ernie": BERT,
    "data2vec-text": ROBERTA,
}
"""Families whose states are the same."""
DIFFERENT: dict[str, dict[str, Any]] = {
    "t5": T5,
    "mt5": T5,
    "deberta-v2": BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "mpnet": ROBERTA,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "vocab_size": 99,
        "max_position_embeddings": 80,
    },
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 99},
    "longformer": ROBERTA | {"attention_window": [8, 8]},
    "big_bird": BERT | {"attention_type": "original_full"},
    "megatron-bert": BERT,
    "rembert": BERT | {"input_embedding_size": 16},
    "mobilebert": BERT
    | {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16},
    "canine": BERT
    | {"num_hash_functions": 2, "num_hash_buckets": 64, "local_transformer_stride": 16},
}
"""Families that the check has to find."""


def trunk_of(
    family: str, options: dict[str, Any], pooling: str = "mean"
) -> tuple[Hard, InputFormat]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **options)
    network = AutoModel.from_config(config)
    if config.is_encoder_decoder:
        network = network.get_encoder()
    with torch.no_grad():  # Larger states, so that a difference cannot hide.
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    trunk = Hard(None, lambda: Backbone(network, pooling), {"a": "a", "b": "b"})
    return trunk.train(), InputFormat(
        config.pad_token_id or 0, getattr(config, "type_vocab_size", 0) > 1
    )


@pytest.mark.parametrize("family", EQUAL)
def test_packed_states_are_those_of_padded_batches(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 2e-6)
    trunk, layout = trunk_of(family, EQUAL[family])
    packing = packing_of(trunk, layout, LONGEST, CPU)
    assert packing.longest == LONGEST and trunk.training
    assert trunk.backbone.network.config._attn_implementation == NAME


@pytest.mark.parametrize("family", DIFFERENT)
def test_families_with_an_attention_of_their_own_are_found(family: str) -> None:
    trunk, layout = trunk_of(family, DIFFERENT[family])
    before = trunk.backbone.network.config._attn_implementation
    with pytest.raises(NotPackable):
        packing_of(trunk, layout, LONGEST, CPU)
    assert trunk.backbone.network.config._attn_implementation == before
    assert AttentionInterface()[NAME] is attend


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean", "last"])
def test_every_pooling_is_that_of_padded_batches(pooling: str) -> None:
    trunk, layout = trunk_of("bert", EQUAL["bert"], pooling)
    packing_of(trunk, layout, LONGEST, CPU)


@pytest.mark.parametrize("family", ["modernbert", "llama"])
def test_gradients_are_those_of_padded_batches(family: str) -> None:
    """Of a function of all states and pooled vectors."""
    trunk, layout = trunk_of(family, EQUAL[family])
    parts = _random_parts(trunk, layout, LONGEST)
    found = []
    for packing in (None, Packing(LONGEST)):
        if packing is not None:
            packing_of(trunk, layout, LONGEST, CPU)
        batch = join(parts) if packing is None else pack(parts, packing)
        trunk.zero_grad()
        encoded = trunk("a", batch)
        states = encoded.hidden[batch.attention_mask]
        (states.square().mean() + encoded.pooled.tanh().sum()).backward()
        found.append([each.grad for each in trunk.parameters()])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_what_fills_a_batch_changes_nothing() -> None:
    trunk, layout = trunk_of("bert", EQUAL["bert"])
    packing = packing_of(trunk, layout, LONGEST, CPU)
    parts = _random_parts(trunk, layout, LONGEST)
    batch = pack(parts, packing)
    filled = ~batch.attention_mask
    assert filled.any()
    trunk.eval()  # Dropout would make a difference.
    found = []
    for word in (1, 98):
        batch.input_ids[filled] = word
        trunk.zero_grad()
        encoded = trunk("a", batch)
        (encoded.pooled.tanh().sum() + encoded.hidden[~filled].mean()).backward()
        found.append([encoded.pooled, *(each.grad for each in trunk.parameters())])
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))


def test_a_full_budget_has_no_filler() -> None:
    trunk, layout = trunk_of("bert", EQUAL["bert"])
    packing = packing_of(trunk, layout, LONGEST, CPU)
    ((_, part), _) = _random_parts(trunk, layout, LONGEST)
    full = part.pick(np.array([1, 1, 0]), LONGEST)
    full.lengths = np.array([LONGEST, LONGEST, 8])
    full.attention_mask = torch.arange(LONGEST) < torch.from_numpy(full.lengths)[:, None]
    batch = pack([("a", full)], packing)
    assert bool(batch.attention_mask.all()) and batch.input_ids.shape == (1, 128)
    trunk.eval()
    alone = pack([("a", full.pick(np.array([1]), LONGEST))], packing)
    torch.testing.assert_close(trunk("a", batch).pooled[1:2], trunk("a", alone).pooled)


def test_dropout_acts_on_attention() -> None:
    trunk, layout = trunk_of("bert", EQUAL["bert"] | {"hidden_dropout_prob": 0.0})
    packing = packing_of(trunk, layout, LONGEST, CPU)
    batch = pack(_random_parts(trunk, layout, LONGEST), packing)
    one, other = (trunk("a", batch).pooled for _ in range(2))
    assert not torch.equal(one, other)
    trunk.eval()
    one, other = (trunk("a", batch).pooled for _ in range(2))
    assert torch.equal(one, other)


def chosen(sharing: str, **values: Any) -> tuple[Any, str | None]:
    """A small model, and why it takes no packed batches. `values`: of keys."""
    model, _ = small_model(sharing, fast=False)
    config: Any = SmallConfig(sharing)
    config.runner = replaced(config.runner, {"packing": values.pop("packing", "on")})
    config.model = replaced(config.model, values)
    return model, choose_packing(config, model, InputFormat(0, True), CPU)


def test_a_cpu_packs_when_it_is_told_to() -> None:
    for wanted, packs in (("auto", False), ("off", False), ("on", True)):
        model, reason = chosen("hard", packing=wanted)
        assert (model.packing is not None, reason) == (packs, None)


@pytest.mark.parametrize(
    ("sharing", "values", "words"),
    [
        ("cross_stitch", {}, "sharing=cross_stitch needs padded batches"),
        ("hard", {"attention": "eager"}, "model.attention=eager is another attention"),
    ],
)
def test_what_cannot_be_packed_is_refused_with_the_reason(
    sharing: str, values: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        chosen(sharing, **values)


def test_the_kernel_of_a_gpu_is_called_as_its_schema_wants() -> None:
    """On torch's device without numbers: shapes and gradients, with fewer heads of keys."""
    places = {
        name: torch.zeros(count, dtype=torch.int64, device="meta")
        for name, count in (("first", 2), ("last", 2), ("sources", 128), ("owners", 128))
    }
    layout = Layout(
        np.array([60, 60, 8]),
        ends=torch.zeros(4, dtype=torch.int32, device="meta"),
        positions=torch.zeros(1, 128, dtype=torch.int64, device="meta"),
        longest=60,
        **places,
    )
    query, key = (torch.randn(128, heads, 8, device="meta", requires_grad=True) for heads in (4, 2))
    output = _flash(layout, [query, key, key], 0.1, 0.3, True, 16)
    assert output.shape == query.shape and output.dtype == torch.get_autocast_dtype("cuda")
    output.float().sum().backward()
    assert query.grad is not None and key.grad is not None
    assert (query.grad.shape, key.grad.shape) == (query.shape, key.shape)
