"""Changed words: the operations of EDA against plain loops over words, and what a draw depends
on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from mtlcli.config.section import replaced
from mtlcli.config.task import Augment
from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.distributed.process_group import Ranks
from mtlcli.tasks import words
from mtlcli.training.task_batch import build_task_batch
from tests.small import small_data

FORMAT = InputFormat(pad_id=0, uses_segments=True)
TASKS, _, FEATURES, FILES = small_data()
ENCODER = FILES.encoder()
SEED = (3, 7)


def batch(task: str, rows: list[int]) -> Batch:
    return collate(
        FEATURES[task], np.array(rows), input_format=FORMAT, denominator=1.0, examples=1.0
    )


def rows_of(made: Batch) -> list[list[int]]:
    return [
        ids[:length].tolist()
        for ids, length in zip(made.input_ids.numpy(), made.lengths, strict=True)
    ]


def changed(task: str, rows: list[int], longest: int = 64, **options: Any) -> Batch:
    augment = Augment(**({"share": 1.0} | options))
    return words.changed(batch(task, rows), augment, ENCODER, SEED, longest)


def texts_of(ids: list[int]) -> list[list[tuple[int, ...]]]:
    """The words of each text of an input, as tuples of token ids."""
    names = {number: name for name, number in ENCODER._tokenizer.get_vocab().items()}
    texts: list[list[tuple[int, ...]]] = [[]]
    for number in ids:
        if names[number] in ("[CLS]", "[SEP]"):
            texts.append([])
        elif names[number].startswith("##"):
            texts[-1][-1] += (number,)
        else:
            texts[-1].append((number,))
    return [text for text in texts if text]


@pytest.mark.parametrize("kind", list(words.OPERATIONS))
def test_operations_are_those_of_eda(kind: str) -> None:
    """With the same random numbers, in plain loops over the words of each text."""
    rate, rows = 0.3, list(range(20))
    made, before = changed("stsb", rows, **{kind: rate}), batch("stsb", rows)
    different = 0
    for row, (ids, old) in enumerate(zip(rows_of(made), rows_of(before), strict=True)):
        random = np.random.default_rng((*SEED, row))
        random.random(), random.integers(1)
        for found, text in zip(texts_of(ids), texts_of(old), strict=True):
            count, expected = max(1, int(rate * len(text))), list(text)
            if kind == "swap":
                for _ in range(count if len(text) > 1 else 0):
                    one, other = random.choice(len(text), 2, replace=False)
                    expected[one], expected[other] = expected[other], expected[one]
            elif kind == "insert":
                for _ in range(count):
                    place = random.integers(len(expected) + 1)
                    expected.insert(place, text[random.integers(len(text))])
            else:
                unlucky = random.random(len(text)) < rate
                if unlucky.all():
                    unlucky[random.integers(len(text))] = False
                unknown = ENCODER._tokenizer.token_to_id("[UNK]")
                expected = [
                    (unknown,) * len(word) if bad else word
                    for word, bad in zip(text, unlucky, strict=True)
                    if kind == "word_dropout" or not bad
                ]
            flat = [number for word in found for number in word]
            assert flat == [number for word in expected for number in word]
            different += flat != [number for word in text for number in word]
    assert different > 20
    # Segments, mask and padding follow the tokens.
    for row, ids in enumerate(rows_of(made)):
        border = ids.index(ENCODER._tokenizer.token_to_id("[SEP]")) + 1
        segments = [0] * border + [1] * (len(ids) - border)
        padding = made.input_ids.shape[1] - len(ids)
        assert made.token_type_ids is not None
        assert made.token_type_ids[row].tolist() == segments + [0] * padding
        assert made.attention_mask[row].tolist() == [True] * len(ids) + [False] * padding
        assert made.input_ids[row, len(ids) :].tolist() == [ENCODER.pad_id] * padding


def test_what_is_put_in_keeps_to_the_longest_input() -> None:
    rows = list(range(30))
    before = batch("stsb", rows)
    longest = int(before.lengths.max()) + 1
    made = changed("stsb", rows, longest, insert=0.9)
    assert made.lengths.max() == longest and made.input_ids.shape[1] == longest
    for new, old in zip(rows_of(made), rows_of(before), strict=True):
        assert not Counter(old) - Counter(new), "no word is lost"


def test_a_share_of_the_rows_is_changed_by_one_operation_each() -> None:
    rows = list(range(64))
    rates = {"swap": 0.5, "word_dropout": 0.5}
    made, before = changed("cola", rows, share=0.6, **rates), batch("cola", rows)
    unknown = ENCODER.unknown_id
    kinds = Counter(
        "same" if new == old else "dropped" if unknown in new else "swapped"
        for new, old in zip(rows_of(made), rows_of(before), strict=True)
    )
    assert 15 < kinds["same"] < 40 and kinds["dropped"] > 8 and kinds["swapped"] > 8
    for new, old in zip(rows_of(made), rows_of(before), strict=True):
        assert unknown in new or Counter(new) == Counter(old)


def test_a_row_is_changed_alike_in_any_batch_on_any_rank_and_anew_in_each_epoch() -> None:
    task = TASKS["cola"]
    rates = {"swap": 0.3, "delete": 0.3, "insert": 0.3, "word_dropout": 0.3}
    augment = Augment(share=1.0, **rates)
    task.config = replaced(task.config, {"augment": augment})
    assert task.use(ENCODER, has_decoder=False) == []
    rows = np.arange(13)

    def place(rank: int, world_size: int) -> Ranks:
        return Ranks(rank, world_size, torch.device("cpu"))

    def on(ranks: Ranks, accumulation: int, seed: tuple[int, ...]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        made = build_task_batch(
            task,
            FEATURES["cola"],
            rows,
            input_format=FORMAT,
            accumulation=accumulation,
            ranks=ranks,
            seed=seed,
        )
        for micro in made.micro:
            found |= dict(zip(micro.indices.tolist(), rows_of(micro), strict=True))
        return found

    alone = on(place(0, 1), 1, SEED)
    both = [on(place(rank, 2), 3, SEED) for rank in range(2)]
    assert both[0] | both[1] == alone and all(both)
    other = on(place(0, 1), 1, (3, 8))
    assert sum(other[row] != alone[row] for row in alone) > 6
    plain = on(place(0, 1), 1, ())
    assert plain == dict(zip(range(13), rows_of(batch("cola", list(range(13)))), strict=True))
