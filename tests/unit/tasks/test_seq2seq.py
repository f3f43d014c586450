"""Texts that a decoder writes: targets, the loss and the texts of a pretrained decoder against the
library's whole model, how tokens are drawn, row checks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from mtlcli.config.task import Source
from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import NO_TARGET
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.tasks.base import Encoded, Foundation
from mtlcli.tasks.decoder import DecoderHead, Writing, scratch_decoder
from mtlcli.tasks.seq2seq import Seq2SeqTask
from mtlcli.tasks.seq2seq.task import Seq2Seq
from tests.families import family_config

TEXTS = ["ein hund bellt", "eine katze", "der alte hund"]
TARGETS = ["A dog barks.", "a cat", None]


def task(**options: Any) -> Seq2Seq:
    made = Seq2Seq("toy", Seq2SeqTask(source=Source(path="x"), max_length=32, **options))
    made.use(encoder(), has_decoder=False)
    return made


def encoder(start_id: int | None = None) -> TextEncoder:
    texts = ["ein hund bellt eine katze der alte", "a dog barks . a cat write :"] * 3
    return TextEncoder(build_tokenizer(texts, 90), uses_segments=False, start_id=start_id)


def table(texts: Any = TEXTS, targets: Any = TARGETS) -> Table:
    return Table(pa.table({"text": texts, "target": targets}), "toy.jsonl", "train")


def batch_of(made: Seq2Seq, rows: list[int]) -> Batch:
    assert made.encoder is not None
    features = made.encode(table(), made.encoder)
    padding = InputFormat(pad_id=made.encoder.pad_id, uses_segments=False)
    return collate(features, np.array(rows), input_format=padding, denominator=1.0)


def test_targets_end_and_leave_out_what_the_decoder_starts_from() -> None:
    text = encoder()
    first, last = (text._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    assert (text.start_id, text.end_id) == (first, last)
    found, cut = text.targets(["a dog", None, "a cat a cat a cat a cat"], 8)
    ids = [row.tolist() for row in np.split(found.ids, found.offsets[1:-1])]
    assert text.texts_of(ids) == ["a dog", "", "a cat a cat a cat a"]
    assert (found.lengths.tolist(), cut) == ([3, 0, 8], 1)
    assert all(row[-1] == last and first not in row for row in (ids[0], ids[2]))
    # A pretrained decoder that starts from another token writes what the tokenizer puts first.
    other, _ = encoder(start_id=0).targets(["a dog"], 8)
    assert other.ids.tolist() == [first, *ids[0]]


def test_targets_travel_with_the_features() -> None:
    made = task(prefix="write: ")
    features = made.encode(table(), encoder())
    assert made.items(features, np.arange(3)) == features.sequences["target"].offsets[-1] == 8
    batch = batch_of(made, [2, 1, 0])
    target = batch.sequences["target"]
    assert target.shape == (3, 5) and target.dtype == torch.int64
    assert (target != NO_TARGET).sum(1).tolist() == [0, 3, 5]
    assert torch.equal(batch.pick(np.array([2]), 9).sequences["target"], target[2:])
    copied = batch.with_tensors(iter([each.long() + 1 for each in batch.tensors()]))
    assert torch.equal(copied.sequences["target"], target + 1)
    assert made.decode({"tokens": target.float().numpy()[::-1]}, features, table()) == [
        {"text": "a dog barks."},
        {"text": "a cat"},
        {"text": ""},
    ]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_pretrained_decoder_is_the_whole_model(family: str) -> None:
    """The same loss as the library's model with labels, and the same texts."""
    torch.manual_seed(0)
    config = family_config(family, 60)
    config.update({"decoder_start_token_id": 0, "eos_token_id": 3, "forced_eos_token_id": None})
    whole = AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():  # Fresh logits are too even to tell texts apart.
            parameter += 0.3 * torch.randn_like(parameter)
    ids, mask = torch.randint(4, 60, (3, 6)), torch.arange(6) < torch.tensor([[6], [4], [2]])
    labels = torch.randint(4, 60, (3, 5))
    labels[1, 3:] = NO_TARGET
    states = whole.get_encoder()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    brought = deepcopy(whole)
    # Published weights bring options along, which no key of a task names.
    brought.generation_config.update(min_new_tokens=7, no_repeat_ngram_size=1, num_beams=4)
    head = DecoderHead(brought, start_id=0, end_id=3, pad_id=0)
    encoded = Encoded(states, states[:, 0], mask)
    made = task()
    batch = Batch(ids, mask, None, {}, np.array([6, 4, 2]), np.arange(3), 1.0, 0)
    batch.sequences["target"] = labels
    loss = made.loss(made.outputs(head, encoded, batch), batch)
    expected = whole(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
    assert loss.item() / 13 == pytest.approx(expected.item(), rel=1e-5)
    for options in ({}, {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True}):
        texts = whole.generate(ids, attention_mask=mask.long(), max_new_tokens=7, **options)
        own = head.generate(
            encoded,
            Writing(7, beams=options.get("num_beams", 1), length_penalty=0.5),
        )
        assert own.shape == (3, 7)
        for one, other in zip(own.tolist(), texts[:, 1:].tolist(), strict=True):
            end = other.index(3) + 1 if 3 in other else len(other)
            assert [token for token in one if token != NO_TARGET] == other[:end]


def foundation(hidden: int = 16, dropout: float = 0.0, width: int = 16) -> Foundation:
    table = torch.randn(90, width, generator=torch.Generator().manual_seed(0))
    return Foundation(hidden, dropout, dense=True, std=0.1, embeddings=table, decoder=None)


def states(rows: int = 2, hidden: int = 16) -> Encoded:
    found = torch.randn(rows, 4, hidden, generator=torch.Generator().manual_seed(1))
    return Encoded(found, found[:, 0], torch.ones(rows, 4, dtype=torch.bool))


def test_a_decoder_from_scratch() -> None:
    made, base = task(decoder_heads=2, decoder_width=24, label_smoothing=0.1), foundation()
    head = made.head_on(base).eval()
    assert isinstance(head, DecoderHead)
    named = dict(head.named_parameters())
    assert not any("encoder." in name for name in named)
    # The tied embeddings are the backbone's at first, scaled, and a checkpoint holds them once.
    table = named["network.model.shared.weight"]
    assert torch.allclose(table / table.std(), base.embeddings / base.embeddings.std())
    assert table.std().item() == pytest.approx(0.1)
    assert head.state_dict().keys() == {*named, "network.final_logits_bias"}
    narrow = scratch_decoder(foundation(width=8), layers=1, heads=None, width=None, longest=8)
    assert narrow.model.shared.weight.shape == (90, 16)
    batch = batch_of(made, [0, 1])
    outputs = made.outputs(head, states(), batch)
    target = batch.sequences["target"]
    known = target != NO_TARGET
    likely = torch.log_softmax(outputs["logits"], -1)
    right = likely.gather(2, target.clamp(min=0)[..., None])[..., 0]
    expected = -(0.9 * right + 0.1 * likely.mean(-1))[known].sum()
    assert made.loss(outputs, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    made.loss(outputs, batch).backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None for each in named.values())
    # A token is foretold from those before it alone.
    batch.sequences["target"] = changed = target.clone()
    changed[0, 2] = 7
    again = made.outputs(head, states(), batch)["logits"]
    assert torch.equal(again[0, :3], outputs["logits"][0, :3])
    assert not torch.allclose(again[0, 3], outputs["logits"][0, 3])


def test_a_decoder_learns_to_write() -> None:
    """With the cache of keys and values, the same text comes out as went in."""
    torch.manual_seed(0)
    made = task(max_target_length=8)
    head, batch = made.head_on(foundation()), batch_of(made, [0, 1])
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        made.loss(made.outputs(head, states(), batch), batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    tokens = made.predict(head.eval(), states(), batch)["tokens"]
    assert tokens.shape == (2, 8)
    assert torch.equal(tokens[:, :5], batch.sequences["target"])
    assert (tokens[:, 5:] == NO_TARGET).all()


def test_tokens_are_drawn_by_the_seed() -> None:
    torch.manual_seed(0)
    head = task().head_on(foundation()).eval()
    assert isinstance(head, DecoderHead)
    before = torch.get_rng_state()

    def drawn(seed: int, **options: float) -> Tensor:
        writing = Writing(6, sample=True, **options)  # type: ignore[arg-type]
        return head.generate(states(), writing, seed=seed)

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(1, top_p=1e-6), head.generate(states(), Writing(6)))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_checked() -> None:
    def said(targets: Any, *, labelled: bool = True, **options: Any) -> list[str]:
        rows = table(targets=targets)
        return [str(problem) for problem in task(**options).check(rows, labelled=labelled)]

    assert not said(["a", "b", "c"])
    assert said(["a", " ", None]) == [
        "toy.jsonl, row 2: column 'target' is empty or missing (and 1 more: row 3)\n"
        "    -> fill it in, or leave the row out: tasks.toy.unlabelled=skip"
    ]
    assert not said(["a", " ", None], unlabelled="skip")
    assert "has no text in any of the 3 rows" in said([None, None, None])[0]
    assert not said(pa.array([None] * 3, pa.string()), labelled=False)
    assert "holds whole numbers (1), where text is needed" in said([1, 2, 3])[0]
    assert task().references(table()) is None
    assert task().gold(table()) == TARGETS


def test_settings_of_a_pretrained_decoder() -> None:
    made = task(decoder_layers=3, max_target_length=64, max_new_tokens=100)
    text = encoder()
    text.model_max_length = 64
    assert [problem.where for problem in made.use(text, has_decoder=True)] == [
        "tasks.toy.decoder_layers",
        "tasks.toy.max_new_tokens",
    ]
    assert not made.use(text, has_decoder=False)
