"""Strategies over tiny backbones of several architectures, and a batch for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedTokenizerFast

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import Batch
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk

TEXTS = [
    "the cat sat on the mat",
    "a dog ran over the hill",
    "birds sing in the old green tree",
    "who lives in paris ?",
    "anna likes rain",
]
FAMILIES = ["bert", "deberta-v2", "modernbert", "t5", "bart", "gpt2", "llama"]
"""Layers that return a tensor or a tuple, take positions or hand them on, look both ways or back
only."""
VOCABULARY = 400
TASKS = ("cola", "stsb", "squad")
POOLING = {"bert": "pooler", "t5": "mean", "gpt2": "last", "llama": "last"}


def family_config(family: str, vocabulary: int):  # type: ignore[no-untyped-def]
    """A configuration small enough to build in milliseconds."""
    common = {"vocab_size": vocabulary, "pad_token_id": 0}
    bert = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    return {
        "bert": lambda: transformers.BertConfig(**common, **bert),
        "roberta": lambda: transformers.RobertaConfig(**common, **bert, type_vocab_size=1),
        "deberta-v2": lambda: transformers.DebertaV2Config(
            **common,
            **bert,
            relative_attention=True,
            position_buckets=16,
            pos_att_type=["p2c", "c2p"],
        ),
        "modernbert": lambda: transformers.ModernBertConfig(
            **common, **bert, global_attn_every_n_layers=2, local_attention=8
        ),
        "t5": lambda: transformers.T5Config(
            **common, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
        ),
        "bart": lambda: transformers.BartConfig(
            **common,
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
        ),
        "gpt2": lambda: transformers.GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3
        ),
        "llama": lambda: transformers.LlamaConfig(**common, **bert, num_key_value_heads=2),
    }[family]()


def save_family(family: str, folder: Path, kind: Any = AutoModel) -> None:
    """Write config, weights and tokenizer of a tiny model, in the hub's layout. `kind`: the class
    that builds it."""
    tokenizer = Tokenizer.from_str(build_tokenizer(TEXTS, 200))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    model = kind.from_config(family_config(family, tokenizer.get_vocab_size()))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def family_backbone(family: str, pooling: str = "mean") -> Backbone:
    """Two layers of width 32 in evaluation mode, the same weights every time."""
    torch.manual_seed(0)
    network = AutoModel.from_config(family_config(family, VOCABULARY))
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    # Biases and gains of a fresh network are 0 and 1, and would hide what is done to them.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return Backbone(network, pooling).eval()


def family_batch() -> Batch:
    """Three inputs of 7, 5 and 4 tokens."""
    ids = torch.randint(5, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 5, 4])
    mask = torch.arange(7) < lengths[:, None]
    return Batch(ids * mask, mask, None, {}, lengths.numpy(), np.arange(3), 3.0, 0)


def family_trunk(
    family: str, sharing: Any, owners: Mapping[str, str] | None = None, *, frozen: int | None = None
) -> Trunk:
    """A strategy (its name or its config) over TASKS or `owners`, in evaluation mode."""

    def make_backbone() -> Backbone:
        backbone = family_backbone(family, POOLING.get(family, "cls"))
        if frozen is not None:
            backbone.freeze(frozen)
        return backbone

    config = sharings.configs[sharing]() if isinstance(sharing, str) else sharing
    trunk: Trunk = sharings.implementation(config.name)(
        config, make_backbone, dict(owners or {task: task for task in TASKS})
    )
    return trunk.eval()
