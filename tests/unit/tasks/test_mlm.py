"""Hidden tokens: which they are, of what they depend, the loss against a plain cross entropy over
the whole vocabulary, predictions and scores, models that cannot do it."""

from __future__ import annotations

from collections import Counter
from math import exp
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.task import Source
from mtlcli.data.batches import Batch, InputFormat, Stream, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import NO_TARGET, Split
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import UserError
from mtlcli.evaluation.evaluate import score
from mtlcli.metrics import compute
from mtlcli.prepare.prepare import prepare
from mtlcli.tasks.base import FIXED, Encoded, Foundation
from mtlcli.tasks.heads import MaskedHead
from mtlcli.tasks.mlm import MlmColumns, MlmTask
from mtlcli.tasks.mlm.task import Mlm
from mtlcli.training.run import Run

WORDS = [f"{first}{last}" for first in "bdfglmnprst" for last in ("an", "el", "im", "ot", "ur")]
TEXTS = [
    " ".join(WORDS[(7 * row + 3 * place * place) % len(WORDS)] for place in range(2 + row % 17))
    for row in range(400)
]
FORMAT = InputFormat(pad_id=0, uses_segments=False)


def encoder() -> TextEncoder:
    return TextEncoder(build_tokenizer(TEXTS, 200), uses_segments=False)


def task(**options: Any) -> Mlm:
    made = Mlm(
        "toy", MlmTask(source=Source(path="x"), columns=MlmColumns(), max_length=32, **options)
    )
    assert made.use(encoder(), has_decoder=False) == []
    return made


def table(texts: Any = TEXTS) -> Table:
    return Table(pa.table({"text": texts}), "toy.jsonl", "train")


def drawn(made: Mlm, rows: Any, seed: tuple[int, ...]) -> tuple[Batch, Batch]:
    """The batch as it is encoded, and with hidden tokens."""
    assert made.encoder is not None
    features = made.encode(table(), made.encoder)
    plain = collate(features, np.array(rows), input_format=FORMAT, denominator=1.0)
    return plain, made.drawn(plain, seed)


def hidden(batch: Batch) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """Number of each text -> places, tokens and what stands there."""
    found = {}
    for row, index in enumerate(batch.indices.tolist()):
        places, tokens = (batch.sequences[name][row] for name in ("places", "tokens"))
        real = places != NO_TARGET
        assert torch.equal(real, tokens != NO_TARGET)
        there = batch.input_ids[row, places[real]]
        found[index] = (places[real].tolist(), tokens[real].tolist(), there.tolist())
    return found


def test_masks_have_the_shares_of_the_paper_and_spare_special_tokens() -> None:
    made = task()
    text = made.encoder
    assert text is not None
    kinds: Counter[str] = Counter()
    ordinary = 0
    for draw in range(10):
        plain, batch = drawn(made, range(400), (0, draw))
        special = np.isin(plain.input_ids, text.special_ids)
        assert special.sum(1).min() >= 2 and text.mask_id in text.special_ids
        ordinary += int((~special).sum())
        changed = batch.input_ids != plain.input_ids
        for row, (places, tokens, there) in hidden(batch).items():
            assert places == sorted(set(places)) and not special[row, places].any()
            assert tokens == plain.input_ids[row, places].tolist()
            assert set(changed[row].nonzero().flatten().tolist()) <= set(places)
            # One at least, as in the authors' code.
            count = int((~special[row]).sum())
            assert len(places) == max(1, round(0.15 * count))
            for token, now in zip(tokens, there, strict=True):
                kinds["mask" if now == text.mask_id else "same" if now == token else "other"] += 1
                assert now == text.mask_id or now not in text.special_ids
    total = kinds.total()
    assert total / ordinary == pytest.approx(0.15, abs=0.02)
    # Four standard deviations; a random token is the token itself once in a vocabulary.
    for kind, share in (("mask", 0.8), ("other", 0.1), ("same", 0.1)):
        bound = 4 * (share * (1 - share) / total) ** 0.5 + 0.1 / text.vocabulary_size
        assert kinds[kind] / total == pytest.approx(share, abs=bound)


def test_masks_depend_on_the_seed_and_the_text_alone() -> None:
    made = task()
    _, batch = drawn(made, [3, 16, 40], (1, 5))
    one = hidden(batch)
    _, wider = drawn(made, [40, 7, 3], (1, 5))
    assert hidden(wider)[3] == one[3] and hidden(wider)[40] == one[40]
    for other in ((2, 5), (1, 6), FIXED):
        _, batch = drawn(made, [3, 16, 40], other)
        assert hidden(batch) != one
    assert drawn(made, [3], FIXED)[1].input_ids.tolist() == (
        drawn(task(), [3], FIXED)[1].input_ids.tolist()
    )


def test_ranks_and_micro_batches_see_the_same_masks_and_the_next_epoch_others() -> None:
    made = task()
    assert made.encoder is not None
    features = made.encode(table(TEXTS[:24]), made.encoder)
    stream = Stream(features.lengths, batch_size=24, seed=0)

    def seen(position: int, world: int, accumulation: int) -> dict[int, Any]:
        found, count = {}, 0.0
        for rank in range(world):
            run: Any = SimpleNamespace(
                model=SimpleNamespace(tasks={"toy": made}),
                train={"toy": features},
                streams={"toy": stream},
                config=SimpleNamespace(
                    seed=0,
                    runner=SimpleNamespace(accumulation=accumulation),
                    weighting=SimpleNamespace(inner_batches=1),
                ),
                ranks=Ranks(rank, world, torch.device("cpu")),
                input_format=FORMAT,
                max_tokens=None,
                sharded=False,
            )
            for micro in Run.fetch(run, "toy", position).micro:
                found |= hidden(micro)
                count += sum(len(places) for places, _, _ in hidden(micro).values())
                denominator = micro.denominator
        assert count == denominator
        return found

    whole = seen(0, 1, 1)
    assert len(whole) == 24 and seen(0, 1, 3) == seen(0, 2, 1) == seen(0, 3, 2) == whole
    # Position 1 is the next epoch: the same texts.
    later = seen(1, 1, 1)
    assert later.keys() == whole.keys() and later != whole


def states(batch: Batch, width: int) -> Encoded:
    torch.manual_seed(1)
    values = torch.randn(*batch.input_ids.shape, width)
    return Encoded(values, values[:, 0], batch.attention_mask)


def head_of(made: Mlm) -> MaskedHead:
    assert made.encoder is not None
    torch.manual_seed(0)
    embeddings = torch.nn.Parameter(torch.randn(made.encoder.vocabulary_size, 6))
    head = made.head_on(Foundation(8, 0.1, False, 0.02, embeddings, None))
    assert isinstance(head, MaskedHead)
    # A copy: wider or narrower than the states, and not the same parameter.
    assert torch.equal(head.weight, embeddings) and head.weight is not embeddings
    return head


def test_the_loss_is_the_cross_entropy_over_the_vocabulary() -> None:
    made = task()
    plain, batch = drawn(made, [3, 16, 40], (0, 0))
    head, encoded = head_of(made), states(batch, 8)
    targets = torch.full(plain.input_ids.shape, NO_TARGET)
    for row, (places, _, _) in enumerate(hidden(batch).values()):
        targets[row, places] = plain.input_ids[row, places]
    whole = head(encoded.hidden)
    expected = cross_entropy(whole.flatten(0, 1), targets.flatten(), reduction="sum")
    outputs = made.outputs(head, encoded, batch)
    assert outputs["logits"].shape[:2] == batch.sequences["places"].shape
    assert made.loss(outputs, batch).item() == pytest.approx(expected.item(), rel=1e-6)
    # Each text by itself, as a packed step picks it.
    width, parts = plain.input_ids.shape[1], []
    for row in range(3):
        own = Encoded(encoded.hidden[[row]], encoded.pooled[[row]], encoded.mask[[row]])
        picked = batch.pick(np.array([row]), width)
        parts.append(made.loss(made.outputs(head, own, picked), picked).item())
    assert sum(parts) == pytest.approx(expected.item(), rel=1e-6)


def test_predictions_are_log_probabilities_and_their_scores() -> None:
    made = task()
    rows = [5, 2, 9, 0]
    part = Table(pa.table({"text": [TEXTS[row] for row in rows]}), "toy.jsonl", "validation")
    assert made.encoder is not None
    features = made.encode(part, made.encoder)
    plain = collate(features, np.arange(4), input_format=FORMAT, denominator=1.0)
    batch = made.drawn(plain, FIXED)
    head, encoded = head_of(made), states(batch, 8)
    with torch.no_grad():
        given = made.predict(head, encoded, batch)
        chances = head(encoded.hidden).log_softmax(2)
    assert {value.shape for value in given.values()} == {plain.input_ids.shape}
    flat = {key: value[batch.attention_mask].numpy() for key, value in given.items()}
    scores = score(made, flat, Split(part, features))
    right, logs = [], []
    for row, (places, tokens, _) in hidden(batch).items():
        found = scores.predictions[row]
        assert found["places"] == places
        logs += [chances[row, place, token].item() for place, token in zip(places, tokens)]
        right += [
            int(chances[row, place].argmax() == token) for place, token in zip(places, tokens)
        ]
    assert scores.metrics["masked_accuracy"] == np.mean(right)
    assert scores.metrics["perplexity"] == pytest.approx(exp(-np.mean(logs)), rel=1e-5)
    words = Counter(" ".join(TEXTS[row] for row in rows).split())
    assert scores.majority == pytest.approx(words.most_common(1)[0][1] / words.total())
    assert made.gold(part) == [TEXTS[row] for row in rows]


def test_perplexity_of_a_model_that_is_quite_wrong_is_a_number() -> None:
    rows = [{"right": [0], "log_probability": [-5000.0]}, {"right": [], "log_probability": []}]
    assert compute("perplexity", rows, ["a", "b"])["perplexity"] < float("inf")
    with pytest.raises(ValueError, match="no token"):
        compute("masked_accuracy", rows[1:], ["b"])


def test_blank_rows_are_rows_without_a_label() -> None:
    made = task(unlabelled="skip")
    blank = table(["a b", " \n", None, "c"])
    assert made.labelled(blank).tolist() == [True, False, False, True]
    (problem,) = made.check(blank, labelled=True)
    assert "'text' is empty or missing" in problem.what
    with pytest.raises(UserError, match="no token that could be hidden"):
        made.encode(table(["漢", "字"]), encoder())
    # Beside others, such a text has nothing to find, and its loss is 0.
    features = made.encode(table(["漢", *TEXTS[:2]]), encoder())
    assert features.columns["ordinary"][0] == 0 and made.items(features, np.array([0])) == 1
    plain = collate(features, np.array([0]), input_format=FORMAT, denominator=1.0)
    batch = made.drawn(plain, (0,))
    assert torch.equal(batch.input_ids, plain.input_ids)
    outputs = made.outputs(head_of(made), states(batch, 8), batch)
    assert made.loss(outputs, batch).item() == 0


def test_models_that_cannot_fill_gaps_are_refused() -> None:
    bare = build_tokenizer(TEXTS, 200).replace("[MASK]", "[GAP]")
    made = Mlm("toy", MlmTask(source=Source(path="x"), columns=MlmColumns(), max_length=32))
    (problem,) = made.use(TextEncoder(bare, uses_segments=False), has_decoder=False)
    assert "no mask token ([MASK] or <mask>)" in problem.what
    # Whether the model is a pretrained one is known only after the command line.
    options = ["task=wikitext", "data=sample", "data.max_train_rows=20", "model=tiny_decoder"]
    options += ["model.kind=auto", "model.name=null"]
    config = preflight(read_arguments([*options, "data.max_length=32"])).configs[0]
    with pytest.raises(UserError, match="reads from left to right"):
        prepare(config)


def test_words_are_hidden_as_wholes() -> None:
    made = task(whole_words=True, rate=0.3)
    small = TextEncoder(build_tokenizer(TEXTS, 60), uses_segments=False)
    assert made.use(small, has_decoder=False) == []
    assert made.encoder is not None and made.encoder.continues is not None
    going_on = made.encoder.continues
    assert going_on.any() and not going_on[made.encoder.special_ids].any()
    rows, partly = range(300), 0
    for seed in ((1,), (2,)):
        plain, batch = drawn(made, rows, seed)
        found = hidden(batch)
        for row, index in enumerate(batch.indices.tolist()):
            ids = plain.input_ids[row][: batch.lengths[row]].tolist()
            words = np.cumsum([not going_on[token] for token in ids])
            places = found[index][0]
            chosen = set(words[places].tolist())
            assert places == [place for place in range(len(ids)) if words[place] in chosen]
            wanted = max(1, round(0.3 * (len(ids) - 2)))
            assert len(places) <= wanted or len(chosen) == 1
            partly += len(places) > len(chosen)
    assert partly > 100, "words of several tokens are among them"


def test_long_texts_are_cut_into_pieces() -> None:
    texts = [" ".join(TEXTS[row : row + 9]) for row in range(0, 20, 4)]
    made = task(pieces=True)
    assert made.encoder is not None
    features = made.encode(table(texts), made.encoder)
    assert features.lengths.max() == 32 and len(features) > 2 * len(texts)
    for row, text in enumerate(texts):
        parts = [
            features.ids[features.offsets[index] + 1 : features.offsets[index + 1] - 1]
            for index in np.flatnonzero(features.columns["row"] == row)
        ]
        assert np.concatenate(parts).tolist() == made.encoder.only(text).tolist()
    # The places that a prediction names count through the pieces of a text.
    right = np.full(len(features.ids), float(NO_TARGET))
    index = int(np.flatnonzero(features.columns["row"] == 1)[1])
    place = int(features.offsets[index]) + 3
    right[place] = 1.0
    outputs = {"right": right, "log_probability": np.zeros(len(right))}
    found = made.decode(outputs, features, table(texts))
    begin = int(features.offsets[features.columns["row"].tolist().index(1)])
    assert [each["places"] for each in found] == [[], [place - begin], [], [], []]
