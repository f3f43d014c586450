"""A task's way through the model as one torch module, and inputs with which an exported model is
compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.data.encoder import TextEncoder
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import CannotMerge, Merges, Trunk
from mtlcli.tasks.base import Encoded
from mtlcli.tasks.decoder import DecoderHead
from mtlcli.tasks.heads import PooledHead, SpanHead, TokenHead

LENGTHS = (3, 17, 9, 24, 6)
"""The numbers of tokens between the special ones of the inputs that are compared."""
TARGETS = 7
"""The number of tokens of the texts that a decoder is given."""
KINDS = {
    "SequenceClassification": (PooledHead, ("logits",)),
    "MultipleChoice": (PooledHead, ("logits",)),
    "TokenClassification": (TokenHead, ("logits",)),
    "QuestionAnswering": (SpanHead, ("start", "end")),
}
"""The kinds of models that give numbers and no texts: the head that they stand for, and its
outputs."""
PER_TOKEN = ("TokenClassification", "QuestionAnswering", "CausalLM")
"""The kinds of models with outputs for each token."""


def merged(trunk: Trunk, task: str) -> Backbone | str:
    """Return a backbone as the library has built it, whose weights alone give the states of a task,
    or why there is none, as a clause."""
    if not isinstance(trunk, Merges):
        return trunk.unmergeable
    try:
        return trunk.merged(task).eval()
    except CannotMerge as reason:
        return str(reason)


def batch_of(ids: Tensor, mask: Tensor, segments: Tensor | None, pad_id: int) -> Batch:
    """Return the batch of token ids (batch, length), of which `mask` (batch, length) says which are
    no padding. It has no targets."""
    # What is only for the loss and for the places of table rows is left as it would be for one
    # input, since the number of inputs is not known while a graph is traced.
    return Batch(
        ids, mask.bool(), segments, {}, np.ones(1, np.int64), np.zeros(1, np.int64), 1, pad_id
    )


class TaskNetwork(nn.Module):
    """The trunk and the head of a task, from token ids to numbers."""

    def __init__(self, body: Trunk | Backbone, head: nn.Module, task: str, pad_id: int) -> None:
        """`body`: the trunk of all tasks, or a backbone that is enough for the task."""
        super().__init__()
        self.body, self.head = body, head
        self._task, self._pad_id = task, pad_id

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the outputs of the head, in its order: (batch, outputs) or (batch, length, ...).
        The arguments are (batch, length) int64."""
        outputs: dict[str, Tensor] = self.head(
            self.encoded(input_ids, attention_mask, token_type_ids)
        )
        return tuple(outputs.values())

    def encoded(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Encoded:
        """Return the states that the head reads."""
        batch = batch_of(input_ids, attention_mask, token_type_ids, self._pad_id)
        found: Encoded = (
            self.body(batch) if isinstance(self.body, Backbone) else self.body(self._task, batch)
        )
        return found


@dataclass
class Probe:
    """Inputs of random tokens, in two batches of different shapes."""

    batches: list[dict[str, Tensor]]
    """`input_ids`, `attention_mask` and, for models with segments, `token_type_ids`: (batch,
    length) int64."""

    @classmethod
    def of(cls, encoder: TextEncoder, longest: int) -> Probe:
        """Return inputs with the special tokens of the tokenizer, no longer than `longest`."""
        generator = torch.Generator().manual_seed(0)
        words = torch.tensor(
            sorted({*range(encoder.vocabulary_size)} - {*encoder.special_ids.tolist()})
        )
        before, after = (
            torch.from_numpy(each.astype(np.int64)) for each in (encoder.before, encoder.after)
        )
        room = longest - len(before) - len(after)

        def one(length: int) -> Tensor:
            drawn = torch.randint(len(words), (min(length, room),), generator=generator)
            return torch.cat([before, words[drawn], after])

        return cls(
            [
                _padded([one(length) for length in lengths], encoder)
                for lengths in (LENGTHS[:2], LENGTHS[2:])
            ]
        )


def _padded(rows: Sequence[Tensor], encoder: TextEncoder) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence(list(rows), True, float(encoder.pad_id))
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if encoder.uses_segments:
        # The second half of the last input is in segment 1, as the second text of a pair is.
        segments = torch.zeros_like(ids)
        segments[-1, len(rows[-1]) // 2 :] = 1
        inputs["token_type_ids"] = segments * mask
    return inputs


@torch.no_grad()
def expected(network: TaskNetwork, kind: str, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return what this program's own model gives for a batch of a probe, in the order of a model of
    the transformers library. Logits of tokens are 0 in the padding."""
    mask = inputs["attention_mask"]
    if kind in KINDS:
        return [_visible(each, kind, mask) for each in network(**inputs)]
    encoded = network.encoded(**inputs)
    if kind == "CausalLM":
        assert encoded.language is not None
        return [_visible(encoded.language(encoded.hidden), kind, mask)]
    decoder: Any = network.head if isinstance(network.head, DecoderHead) else encoded.decoder
    return [decoder(encoded, inputs["input_ids"][:, :TARGETS])]


@torch.no_grad()
def given(
    model: Any, kind: str, inputs: dict[str, Tensor], decoder: DecoderHead | None
) -> list[Tensor]:
    """Return what a model of the transformers library gives for a batch of a probe, as `expected`
    does. `decoder`: says from which token a text is written."""
    mask = inputs["attention_mask"]
    if kind == "Seq2SeqLM":
        assert decoder is not None
        before = inputs["input_ids"][:, :TARGETS].roll(1, 1)
        before[:, 0] = decoder.start_id
        rest = {name: each for name, each in inputs.items() if name != "token_type_ids"}
        return [model(**rest, decoder_input_ids=before).logits]
    if kind == "MultipleChoice":
        inputs = {name: each.unsqueeze(1) for name, each in inputs.items()}
    output = model(**inputs)
    if kind == "QuestionAnswering":
        return [_visible(each, kind, mask) for each in (output.start_logits, output.end_logits)]
    return [_visible(output.logits, kind, mask)]


def _visible(outputs: Tensor, kind: str, mask: Tensor) -> Tensor:
    """Return outputs with 0 in the padding, where they are those of tokens: (batch, length) or
    (batch, length, ...)."""
    if kind not in PER_TOKEN:
        return outputs
    return outputs * (mask if outputs.ndim == 2 else mask.unsqueeze(-1))


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest absolute difference between outputs of the same shapes; infinity where
    shapes differ or a number is not finite."""
    worst = 0.0
    for mine, theirs in zip(one, other, strict=True):
        if mine.shape != theirs.shape or not theirs.isfinite().all():
            return float("inf")
        worst = max(worst, float((mine.float() - theirs.float()).abs().max()))
    return worst
