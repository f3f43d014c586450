"""The run's tokenizer as one of the transformers library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from mtlcli.data.encoder import TextEncoder

TEXTS = ("a b c d e f", "The first text, in 2 parts.", "a")
"""Texts whose token ids are compared."""


def library_tokenizer(encoder: TextEncoder, longest: int, *, prompts: bool) -> Any:
    """Return the tokenizer with its special tokens and the longest input of a task. `prompts`: a
    text is the beginning of what the model writes, so that nothing stands behind it."""
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json)
    before, after = (
        [str(tokenizer.id_to_token(int(each))) for each in ids]
        for ids in (encoder.before, encoder.after)
    )
    if prompts:
        _end_with_the_text(tokenizer, before)
    special = {
        "pad_token": tokenizer.id_to_token(encoder.pad_id),
        "unk_token": getattr(tokenizer.model, "unk_token", None),
        "cls_token": before[0] if before else None,
        "sep_token": after[-1],
        "eos_token": after[-1],
        "mask_token": None if encoder.mask_id is None else tokenizer.id_to_token(encoder.mask_id),
    }
    if prompts:
        del special["sep_token"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        padding_side="left" if prompts else "right",
        model_input_names=[
            "input_ids",
            *(["token_type_ids"] if encoder.uses_segments else []),
            "attention_mask",
        ],
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in special.items() if token is not None},
    )


def _end_with_the_text(tokenizer: Tokenizer, before: list[str]) -> None:
    """Let a tokenizer put its special tokens before a text and none behind it."""
    old = json.loads(tokenizer.to_str())["post_processor"]
    steps = [] if old is None else old.get("processors", [old])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A"],
        pair=[*before, "$A", "$B"],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in before],
    )
    if any(step["type"] == "ByteLevel" for step in steps):
        tokenizer.post_processor = processors.Sequence(
            [processors.ByteLevel(trim_offsets=True), tokenizer.post_processor]
        )


def differing_text(
    folder: Path, encoder: TextEncoder, longest: int, *, prompts: bool
) -> str | None:
    """Return a text for which the tokenizer of an exported folder gives other token ids than the
    run's; None if there is none."""
    theirs: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    pairs = None if prompts else [*TEXTS[1:], TEXTS[0]]
    for others in (None, pairs) if pairs else (None,):
        features = encoder.encode([*TEXTS], others, longest)
        found = theirs([*TEXTS], others, truncation=True, max_length=longest)
        for row, text in enumerate(TEXTS):
            ids = features.ids[features.offsets[row] : features.offsets[row + 1]].tolist()
            if prompts:
                ids = ids[: len(ids) - len(encoder.after)]
            kept = int(features.segments[row])
            segments = [int(place >= kept) for place in range(len(ids))]
            if found["input_ids"][row] != ids:
                return text
            if encoder.uses_segments and not prompts and found["token_type_ids"][row] != segments:
                return text
    return None
