"""Backbones that are built from scratch: their architecture, and a tokenizer that is trained on the
tasks' texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mtlcli.config.run import Model
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import UserError
from mtlcli.models.files import BackboneFiles

SCRATCH_LENGTH = 512
"""The longest input, in tokens, of a model that is built from scratch."""


def scratch(model: Model, texts: Iterable[str]) -> BackboneFiles:
    """Return a backbone of the architecture that the config asks for, with a tokenizer trained on
    `texts`. Raises UserError when the heads do not divide the width."""
    if model.hidden % model.heads:
        raise UserError(
            f"model.hidden={model.hidden} is not a multiple of model.heads={model.heads}",
            where="model.heads",
        )
    tokenizer = build_tokenizer(texts, model.vocabulary)
    segments = model.architecture == "encoder"
    encoder = TextEncoder(tokenizer, uses_segments=segments, model_max_length=SCRATCH_LENGTH)
    build = {
        "encoder": _encoder,
        "decoder": _decoder,
        "encoder-decoder": _encoder_decoder,
    }[model.architecture]
    return BackboneFiles(
        location=None,
        architecture=json.loads(build(model, encoder).to_json_string(use_diff=False)),
        tokenizer=tokenizer,
        uses_segments=segments,
        model_max_length=SCRATCH_LENGTH,
        end_token=None,
    )


def _encoder(model: Model, encoder: TextEncoder) -> Any:
    from transformers import BertConfig

    dropout = model.dropout or 0.0
    return BertConfig(
        vocab_size=encoder.vocabulary_size,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=4 * model.hidden,
        initializer_range=model.initializer_range,
        pad_token_id=encoder.pad_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def _decoder(model: Model, encoder: TextEncoder) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=encoder.vocabulary_size,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        # Three matrices instead of two: as many parameters as with 4 times the width.
        intermediate_size=8 * model.hidden // 3,
        initializer_range=model.initializer_range,
        pad_token_id=encoder.pad_id,
        bos_token_id=None,
        eos_token_id=None,
        attention_dropout=model.dropout or 0.0,
        max_position_embeddings=SCRATCH_LENGTH,
        # Where only answers have a loss, a common output layer moves the embeddings of all other
        # words into one direction, and the model learns to compare texts later.
        tie_word_embeddings=False,
    )


def _encoder_decoder(model: Model, encoder: TextEncoder) -> Any:
    from transformers import T5Config

    config: Any = T5Config(
        vocab_size=encoder.vocabulary_size,
        d_model=model.hidden,
        d_kv=model.hidden // model.heads,
        d_ff=4 * model.hidden,
        num_layers=model.layers,
        num_decoder_layers=model.layers,
        num_heads=model.heads,
        dropout_rate=model.dropout or 0.0,
        # T5's word embeddings begin with the standard deviation 1.
        initializer_factor=1.0,
        pad_token_id=encoder.pad_id,
        eos_token_id=encoder.end_id,
    )
    config.decoder_start_token_id = encoder.pad_id
    return config
