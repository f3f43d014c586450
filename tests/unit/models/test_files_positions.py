"""The longest input that a model is said to take is the longest that it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from mtlcli.config.run import Model
from mtlcli.errors import UserError
from mtlcli.models.find import _positions, _without_numbers

SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 50,
}
SIDES = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
BART = {
    "d_model": 8,
    "vocab_size": 50,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 34,
} | SIDES
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "bert": (SIZES | {"max_position_embeddings": 34}, 34),
    "roberta": (SIZES | {"max_position_embeddings": 34}, 32),
    "camembert": (SIZES | {"max_position_embeddings": 34, "pad_token_id": 5}, 28),
    "mpnet": (SIZES | {"max_position_embeddings": 34}, 32),
    "longformer": (SIZES | {"max_position_embeddings": 34, "attention_window": [4]}, 32),
    "esm": (
        SIZES
        | {
            "max_position_embeddings": 34,
            "pad_token_id": 1,
            "mask_token_id": 3,
            "position_embedding_type": "absolute",
        },
        32,
    ),
    "bart": (BART, 34),
    "opt": (SIZES | {"max_position_embeddings": 34, "word_embed_proj_dim": 8, "ffn_dim": 8}, 34),
    "gpt2": ({"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 34, "vocab_size": 50}, 34),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_input_is_exact(family: str) -> None:
    fields, bound = FAMILIES[family]
    config = AutoConfig.for_model(family, **fields)
    assert _positions(config, _without_numbers(config, Model())) == bound
    network = AutoModel.from_config(config).eval()
    network = network.get_encoder() if config.is_encoder_decoder else network
    for length, fits in ((bound, True), (bound + 1, False)):
        ids = torch.full((2, length), 7)
        try:
            network(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (IndexError, RuntimeError):
            assert not fits
        else:
            assert fits


def test_relative_positions_have_no_bound() -> None:
    config = AutoConfig.for_model(
        "t5", d_model=8, d_kv=4, num_heads=2, num_layers=1, d_ff=8, vocab_size=50
    )
    assert _positions(config, _without_numbers(config, Model())) == math.inf


@pytest.mark.parametrize(
    "field", [{"num_attention_heads": 0}, {"hidden_act": "os.system"}, {"num_attention_heads": 3}]
)
def test_an_architecture_that_cannot_be_built_is_named(field: dict[str, Any]) -> None:
    config = AutoConfig.for_model("bert", **SIZES)
    for name, value in field.items():
        config.__dict__[name] = value
    with pytest.raises(
        UserError,
        match=r"(?s)model\.name=x: the architecture in config\.json cannot be built: .*\n.*as the "
        r"model was published",
    ):
        _without_numbers(config, Model(name="x"))
