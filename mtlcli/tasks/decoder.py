"""The head of tasks that write texts: a transformer decoder that attends to the token states of the
backbone (Vaswani et al. 2017).

The decoder is one of the transformers library, so that the library's `generate` writes the texts,
with a cache of keys and values. Where the model is an encoder-decoder, it is the model's own
decoder with its weights; else it begins from scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import GenerationConfig, MBartConfig, MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mtlcli.data.features import NO_TARGET
from mtlcli.tasks.base import Encoded, Foundation
from mtlcli.tasks.drawing import Drawing

HEAD_SIZE = 64
"""The least width of an attention head of a decoder from scratch, as in most models."""


@dataclass(frozen=True)
class Writing:
    """How a text is written, token by token."""

    max_new_tokens: int
    """The most tokens of a text, its end token included."""
    beams: int = 1
    """Beams of the beam search; 1: greedy."""
    length_penalty: float = 1.0
    """Exponent of the length by which the log likelihood of a beam is divided."""
    sample: bool = False
    """Whether each token is drawn by its probability."""
    temperature: float = 1.0
    """Divisor of the logits where tokens are drawn."""
    top_p: float = 1.0
    """Probability of the most likely tokens that are drawn from."""


class DecoderHead(nn.Module):
    """A decoder with its language-model head."""

    def __init__(self, network: Any, *, start_id: int, end_id: int, pad_id: int) -> None:
        """`network`: an encoder-decoder of the transformers library, whose encoder is taken out.
        `start_id`: the token from which it writes; `end_id`: the token that ends a text; `pad_id`:
        the token that stands where there is none."""
        super().__init__()
        holder = network if hasattr(network, "encoder") else network.base_model
        del holder.encoder
        self.network = network
        self.start_id, self.end_id, self.pad_id = start_id, end_id, pad_id
        # Options that the weights bring along (beams, shortest texts, forbidden repetitions) would
        # act although no key of the task names them.
        network.generation_config = GenerationConfig()
        self._register_state_dict_hook(_without_copies)

    def forward(self, encoded: Encoded, targets: Tensor) -> Tensor:
        """Return the logits of the tokens of target texts, each from those before it: (batch,
        length, vocabulary). `targets`: (batch, length), NO_TARGET in the padding."""
        before = targets.roll(1, 1).masked_fill(targets.roll(1, 1) == NO_TARGET, self.pad_id)
        before[:, 0] = self.start_id
        logits: Tensor = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
            attention_mask=encoded.mask.long(),
            decoder_input_ids=before,
            use_cache=False,
        ).logits
        return logits

    def generate(
        self,
        encoded: Encoded,
        writing: Writing,
        *,
        seed: int = 0,
        allowed: Callable[[list[int]], list[int]] | None = None,
        drawing: Drawing | None = None,
    ) -> Tensor:
        """Return the token ids of texts, which end with `end_id`, or are cut off: (batch,
        max_new_tokens), NO_TARGET after their end. `seed`: the seed by which tokens are drawn.
        `allowed`: what may follow the tokens of a text so far; None: any token. `drawing`: draws
        each token, by a seed of its own."""
        drawn: dict[str, Any] = {}
        if writing.sample:
            # All tokens may be drawn: by default the library takes 50.
            drawn = {"temperature": writing.temperature, "top_p": writing.top_p, "top_k": 0}
        elif writing.beams > 1:
            drawn = {"early_stopping": True}
        options = GenerationConfig(
            max_new_tokens=writing.max_new_tokens,
            num_beams=writing.beams,
            do_sample=writing.sample,
            length_penalty=writing.length_penalty if writing.beams > 1 else None,
            decoder_start_token_id=self.start_id,
            eos_token_id=self.end_id,
            pad_token_id=self.pad_id,
            **drawn,
        )
        limit: Any = None
        if allowed is not None:
            limit = lambda _, ids: allowed(ids[1:].tolist())  # noqa: E731
        device = encoded.hidden.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            ids: Tensor = self.network.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
                attention_mask=encoded.mask.long(),
                generation_config=options,
                prefix_allowed_tokens_fn=limit,
                logits_processor=[] if drawing is None else [drawing],
            )
        ids = ids[:, 1:]
        ended = (ids == self.end_id).cumsum(1) - (ids == self.end_id).long()
        ids = ids.masked_fill(ended > 0, NO_TARGET)
        return pad(ids, (0, writing.max_new_tokens - ids.shape[1]), value=NO_TARGET)


def scratch_decoder(
    foundation: Foundation, *, layers: int, heads: int | None, width: int | None, longest: int
) -> MBartForConditionalGeneration:
    """Return an encoder-decoder whose decoder begins from scratch: layers with their norms first
    (Xiong et al. 2020), as wide as the backbone's states, with the backbone's vocabulary.

    Its word embeddings begin as the backbone's, scaled to the size of other initial weights, if
    these are as wide as the states; they are also its output layer (Press & Wolf 2017), and trained
    apart from the backbone's. `heads`: None: as many as have HEAD_SIZE numbers or more each.
    `width`: of the feed-forward blocks; None: 4 times that of the states. `longest`: the most
    tokens of a text.
    """
    hidden, dropout = foundation.hidden, foundation.dropout
    config = MBartConfig(
        vocab_size=len(foundation.embeddings),
        d_model=hidden,
        encoder_layers=1,
        encoder_ffn_dim=1,
        encoder_attention_heads=1,
        decoder_layers=layers,
        decoder_attention_heads=heads or _heads(hidden),
        decoder_ffn_dim=width or 4 * hidden,
        max_position_embeddings=longest,
        dropout=dropout,
        attention_dropout=dropout,
        init_std=foundation.std,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        forced_eos_token_id=None,
        tie_word_embeddings=True,
    )
    network = MBartForConditionalGeneration(config)
    table: Tensor = network.model.shared.weight
    if foundation.embeddings.shape == table.shape:
        with torch.no_grad():
            # At their own size, logits would be so uneven that the first losses are far above the
            # logarithm of the vocabulary's size.
            table.copy_(foundation.embeddings * (foundation.std / foundation.embeddings.std()))
    return network


def _heads(hidden: int) -> int:
    """Return the largest number of attention heads that have HEAD_SIZE numbers or more each."""
    return max(count for count in range(1, max(1, hidden // HEAD_SIZE) + 1) if hidden % count == 0)


def _without_copies(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Take all but one name of each tied parameter out of a state, so that a checkpoint holds it
    once."""
    known = {prefix + name for name, _ in module.named_parameters()}
    every = {prefix + name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name in every - known:
        del state[name]
