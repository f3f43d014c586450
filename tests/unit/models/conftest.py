"""Tiny models of each architecture family, saved in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtlcli.data.encoder import build_tokenizer

TEXTS = [
    "the cat sat on the mat",
    "a dog ran over the hill",
    "birds sing in the old green tree",
    "who lives in paris ?",
    "anna likes rain",
]


def family_config(family: str, vocabulary: int):  # type: ignore[no-untyped-def]
    """A configuration small enough to build in milliseconds."""
    import transformers as t

    common = {"vocab_size": vocabulary, "pad_token_id": 0}
    bert = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    return {
        "bert": lambda: t.BertConfig(**common, **bert),
        "roberta": lambda: t.RobertaConfig(**common, **bert, type_vocab_size=1),
        "deberta-v2": lambda: t.DebertaV2Config(
            **common,
            **bert,
            relative_attention=True,
            position_buckets=16,
            pos_att_type=["p2c", "c2p"],
        ),
        "modernbert": lambda: t.ModernBertConfig(
            **common, **bert, global_attn_every_n_layers=2, local_attention=8
        ),
        "t5": lambda: t.T5Config(**common, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
        "bart": lambda: t.BartConfig(
            **common,
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
        ),
        "gpt2": lambda: t.GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3
        ),
        "llama": lambda: t.LlamaConfig(**common, **bert, num_key_value_heads=2),
    }[family]()


@pytest.fixture
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with config, weights and tokenizer of the family given as parameter."""
    from tokenizers import Tokenizer
    from transformers import AutoModel, PreTrainedTokenizerFast

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
    model = AutoModel.from_config(family_config(request.param, tokenizer.get_vocab_size()))
    model.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    return tmp_path
