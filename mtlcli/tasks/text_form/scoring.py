"""The likelihood of each of several answers to a prompt, in as few passes as possible.

Answers that begin alike share a pass: the answers are a tree of tokens, and one pass along a path
gives the log probabilities of all tokens that follow any place on it. Answers of one token need
one pass over the prompt, as a head does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtlcli.data.batches import Batch
from mtlcli.data.features import NO_TARGET
from mtlcli.tasks.base import Encoded
from mtlcli.tasks.text_form.prompts import PROMPT, TARGET


@dataclass
class Path:
    """A pass: the prompt and these tokens behind it."""

    tokens: list[int]
    choices: list[int]
    """The choices of which tokens are scored, one entry for each such token."""
    places: list[int]
    """How many tokens of the path stand before the scored token."""
    scored: list[int]
    """The ids of the scored tokens."""


def paths(choices: Sequence[Sequence[int]]) -> list[Path]:
    """Return the passes that score every token of all choices once."""
    beginnings = {tuple(choice[:-1]) for choice in choices}
    longest = sorted(
        each
        for each in beginnings
        if not any(each != other and other[: len(each)] == each for other in beginnings)
    )
    found = [Path(list(tokens), [], [], []) for tokens in longest]
    for number, choice in enumerate(choices):
        for place, token in enumerate(choice):
            path = next(each for each in found if each.tokens[:place] == list(choice[:place]))
            path.choices.append(number)
            path.places.append(place)
            path.scored.append(token)
    return found


def continued(batch: Batch, tokens: Sequence[int]) -> Batch:
    """Return the prompts of a batch with the same tokens behind each."""
    prompts = batch.columns[PROMPT]
    lengths = prompts.cpu().numpy() + len(tokens)
    device = batch.input_ids.device
    place = torch.arange(int(lengths.max()), device=device)
    behind = place - prompts[:, None]
    ids = batch.input_ids[:, : len(place)]
    ids = torch.nn.functional.pad(ids, (0, len(place) - ids.shape[1]))
    ids = torch.where(behind < 0, ids, batch.pad_id)
    for number, token in enumerate(tokens):
        ids = torch.where(behind == number, token, ids)
    return replace(
        batch,
        input_ids=ids,
        attention_mask=behind < len(tokens),
        token_type_ids=None if batch.token_type_ids is None else torch.zeros_like(ids),
        lengths=lengths,
        token_targets={},
    )


def log_likelihoods(
    encode: Callable[[Batch], Encoded], batch: Batch, choices: Sequence[Sequence[int]]
) -> Tensor:
    """Return the log likelihood of each choice behind the prompt of each feature: (batch, choices)
    fp32."""
    total = torch.zeros(len(batch), len(choices), device=batch.input_ids.device)
    along = _along_decoder if TARGET in batch.sequences else _along_sequence
    for path, log_probabilities in along(encode, batch, paths(choices)):
        each = log_probabilities[:, path.places, path.scored]
        total.index_add_(1, torch.tensor(path.choices, device=total.device), each)
    return total


Along = Iterator[tuple[Path, Tensor]]
"""Passes, each with the log probabilities of all tokens at each of its places: (batch, places,
vocabulary) fp32."""


def _along_sequence(
    encode: Callable[[Batch], Encoded], batch: Batch, passes: Sequence[Path]
) -> Along:
    """Yield the passes of a decoder-only model, in which an answer stands behind its prompt."""
    rows = torch.arange(len(batch), device=batch.input_ids.device)[:, None]
    for path in passes:
        encoded = encode(continued(batch, path.tokens))
        behind = torch.arange(len(path.tokens) + 1, device=rows.device)
        states = encoded.hidden[rows, batch.columns[PROMPT][:, None] - 1 + behind]
        yield path, language_of(encoded)(states).log_softmax(-1)


def _along_decoder(
    encode: Callable[[Batch], Encoded], batch: Batch, passes: Sequence[Path]
) -> Along:
    """Yield the passes of an encoder-decoder, which encodes the prompts once."""
    encoded = encode(batch)
    assert encoded.decoder is not None
    for path in passes:
        # The decoder does not read its last target.
        targets = torch.tensor([*path.tokens, 0], device=batch.input_ids.device)
        logits = encoded.decoder(encoded, targets.expand(len(batch), -1).clone())
        yield path, logits.float().log_softmax(-1)


def log_likelihood_of_targets(encoded: Encoded, batch: Batch) -> Tensor:
    """Return the log likelihood of each feature's own answer: (batch,) fp32."""
    if encoded.decoder is None:
        targets = batch.token_targets[TARGET]
        answer = targets != NO_TARGET
        scores = language_of(encoded)(encoded.hidden[answer])
    else:
        targets = batch.sequences[TARGET]
        answer = targets != NO_TARGET
        scores = encoded.decoder(encoded, targets)[answer].float()
    losses = torch.nn.functional.cross_entropy(scores, targets[answer], reduction="none")
    features = torch.arange(len(batch), device=targets.device)[:, None].expand_as(targets)[answer]
    return losses.new_zeros(len(batch)).index_add(0, features, -losses)


def language_of(encoded: Encoded) -> Callable[[Tensor], Tensor]:
    """Return the language head that belongs to an encoding."""
    assert encoded.language is not None, "the backbone of tasks in text has a language head"
    return encoded.language


def behind(prompt: Sequence[int], batch: Batch) -> Batch:
    """Return the features' own answers behind another prompt, the same for each."""
    device = batch.input_ids.device
    tokens = torch.tensor([list(prompt)], device=device).expand(len(batch), -1)
    if TARGET in batch.sequences:
        return replace(
            batch,
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens, dtype=torch.bool),
            token_type_ids=None if batch.token_type_ids is None else torch.zeros_like(tokens),
            lengths=np.full(len(batch), len(prompt)),
        )
    # In a decoder-only model each answer stands one place after the targets of its tokens.
    moved = len(prompt) - batch.columns[PROMPT]
    lengths = batch.lengths + moved.cpu().numpy()
    place = torch.arange(int(lengths.max()), device=device).expand(len(batch), -1)
    there = torch.tensor(lengths, device=device)[:, None]
    before = (place - moved[:, None]).clamp(0, batch.input_ids.shape[1] - 1)
    ids = torch.where(place < there, batch.input_ids.gather(1, before), batch.pad_id)
    ids[:, : len(prompt)] = tokens
    targets = batch.token_targets[TARGET].gather(1, before)
    answer = (place >= len(prompt) - 1) & (place < there)
    return replace(
        batch,
        input_ids=ids,
        attention_mask=place < there,
        token_type_ids=None if batch.token_type_ids is None else torch.zeros_like(ids),
        lengths=lengths,
        token_targets={TARGET: torch.where(answer, targets, NO_TARGET)},
    )


def single(ids: Sequence[int], like: Batch) -> Batch:
    """Return a batch of one prompt, on the device of another batch."""
    tokens = torch.tensor([list(ids)], device=like.input_ids.device)
    return Batch(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens, dtype=torch.bool),
        token_type_ids=None if like.token_type_ids is None else torch.zeros_like(tokens),
        columns={PROMPT: torch.tensor([len(ids)], device=tokens.device)},
        sequences=dict.fromkeys(like.sequences, tokens[:, :0]),
        lengths=np.array([len(ids)]),
        indices=np.zeros(1, np.int64),
        denominator=1.0,
        pad_id=like.pad_id,
    )
