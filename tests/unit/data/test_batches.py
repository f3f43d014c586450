"""Order and shape of batches."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtlcli.data.batches import (
    InputFormat,
    Stream,
    collate,
    evaluation_batches,
    join,
    moved,
    rectangles,
)
from mtlcli.data.features import Features, Sequences
from mtlcli.errors import UserError
from tests.launches import GPU, Launches

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def lognormal(count: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(3.2, 0.6, count).clip(4, 256).astype(np.int64)


def features(lengths: list[int]) -> Features:
    random = np.random.default_rng(1)
    return Features(
        ids=random.integers(1, 1000, sum(lengths)).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        segments=np.array([random.integers(1, length + 1) for length in lengths], np.int32),
        columns={
            "row": np.arange(len(lengths)),
            "label": random.integers(0, 3, len(lengths)),
            "score": random.random(len(lengths)),
        },
    )


@pytest.mark.parametrize(
    ("count", "batch_size", "max_tokens"),
    [(1000, 32, None), (5, 32, None), (3333, 16, 512), (64, 32, None)],
)
def test_every_feature_comes_exactly_once_an_epoch(
    count: int, batch_size: int, max_tokens: int | None
) -> None:
    stream = Stream(lognormal(count), batch_size=batch_size, seed=3, max_tokens=max_tokens)
    position = 0
    for epoch in range(3):
        number = stream.batches_in_epoch(epoch)
        seen = np.concatenate([stream.indices(position + batch) for batch in range(number)])
        assert sorted(seen) == list(range(count))
        position += number


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = lognormal(700)
    stream = Stream(lengths, batch_size=32, seed=0, max_tokens=1024)
    straight = [stream.indices(position).tolist() for position in range(100)]
    resumed = Stream(lengths, batch_size=32, seed=0, max_tokens=1024)
    assert resumed.indices(77).tolist() == straight[77]
    assert [resumed.indices(position).tolist() for position in reversed(range(100))] == straight[
        ::-1
    ]
    assert (
        Stream(lengths, batch_size=32, seed=1, max_tokens=1024).indices(0).tolist() != straight[0]
    )
    per_epoch = stream.batches_in_epoch(0)
    assert {tuple(batch) for batch in straight[:per_epoch]} != {
        tuple(batch) for batch in straight[per_epoch : 2 * per_epoch]
    }


def test_batches_come_in_no_order_of_length() -> None:
    lengths = lognormal(3200)
    stream = Stream(lengths, batch_size=32, seed=0)
    longest = [lengths[stream.indices(position)].max() for position in range(100)]
    assert abs(np.corrcoef(np.arange(100), longest)[0, 1]) < 0.3


def test_max_tokens_bounds_the_padded_size() -> None:
    lengths = lognormal(5000)
    stream = Stream(lengths, batch_size=64, seed=0, max_tokens=600)
    batches = [stream.indices(position) for position in range(stream.batches_in_epoch(0))]
    sizes = [len(batch) * lengths[batch].max() for batch in batches]
    assert max(sizes) <= 600
    assert max(map(len, batches)) <= 64
    assert np.mean(sizes) > 500  # and batches are filled
    with pytest.raises(UserError, match=r"runner.max_tokens.*200"):
        Stream(np.array([5, 300]), batch_size=4, seed=0, max_tokens=200)


@pytest.mark.parametrize("multiple", [1, 8])
def test_max_tokens_counts_the_tokens_of_targets(multiple: int) -> None:
    random = np.random.default_rng(0)
    lengths, targets = lognormal(3000), random.integers(1, 90, 3000)

    def flat(counts: NDArray[np.int64]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        return np.ones(counts.sum(), np.uint16), np.concatenate([[0], np.cumsum(counts)])

    ids, offsets = flat(lengths)
    features = Features(
        ids=ids,
        offsets=offsets,
        segments=lengths.astype(np.int32),
        columns={"row": np.arange(3000)},
        sequences={"target": Sequences(*flat(targets))},
    )
    assert features.example_targets.tolist() == targets.tolist()
    bounds = {"batch_size": 64, "seed": 0, "max_tokens": 700}
    stream = Stream(lengths, targets=features.example_targets, **bounds)
    sizes = []
    for position in range(stream.batches_in_epoch(0)):
        batch = collate(
            features,
            stream.indices(position),
            input_format=InputFormat(0, False, multiple),
            denominator=1.0,
            max_tokens=700,
        )
        sizes.append(batch.input_ids.numel() + batch.sequences["target"].numel())
    assert max(sizes) <= 700
    assert np.mean(sizes) > 500, "and batches are filled"
    with pytest.raises(UserError, match="which has 120 with its target"):
        Stream(np.array([5, 90]), targets=np.array([3, 30]), **bounds | {"max_tokens": 119})


def test_little_padding() -> None:
    lengths = lognormal(20_000)
    stream = Stream(lengths, batch_size=32, seed=0)
    padded = sum(
        len(batch) * lengths[batch].max()
        for batch in (stream.indices(p) for p in range(stream.batches_in_epoch(0)))
    )
    assert padded / lengths.sum() < 1.10


def test_collate_equals_a_loop_over_examples() -> None:
    data = features([5, 1, 9, 3, 4])
    for indices in ([0, 1, 2, 3, 4], [4, 2], [1], [3, 3]):
        batch = collate(data, np.array(indices), input_format=InputFormat(7, True), denominator=2.5)
        longest = max(int(data.lengths[index]) for index in indices)
        for row, index in enumerate(indices):
            tokens = data.ids[data.offsets[index] : data.offsets[index + 1]].tolist()
            padding = longest - len(tokens)
            first = int(data.segments[index])
            assert batch.input_ids[row].tolist() == tokens + [7] * padding
            assert batch.attention_mask[row].tolist() == [True] * len(tokens) + [False] * padding
            assert batch.token_type_ids is not None
            assert (
                batch.token_type_ids[row].tolist()
                == [0] * first + [1] * (len(tokens) - first) + [0] * padding
            )
            assert batch.columns["label"][row] == data.columns["label"][index]
            assert batch.columns["score"][row] == data.columns["score"][index]
        assert batch.lengths.tolist() == data.lengths[indices].tolist()
        assert batch.input_ids.dtype == torch.int64 and batch.attention_mask.dtype == torch.bool
        assert (
            batch.indices.tolist() == indices
            and batch.denominator == 2.5
            and len(batch) == len(indices)
        )
    assert (
        collate(
            data, np.array([0]), input_format=InputFormat(0, False), denominator=1.0
        ).token_type_ids
        is None
    )


@pytest.mark.parametrize(
    ("indices", "max_tokens", "width"),
    [
        ([0], None, 8),  # 5 tokens, rounded up.
        ([3], None, 8),  # 8 tokens need nothing.
        ([0, 2], None, 9),  # 9 tokens would be 16: wider than the longest of the split.
        ([0, 1], 13, 6),  # 2 x 8 tokens would be more than 13.
        ([0, 1], 9, 5),  # Rounding up has no room; what the inputs need stays.
        ([], 9, 0),
    ],
)
def test_widths_are_rounded_up_within_bounds(
    indices: list[int], max_tokens: int | None, width: int
) -> None:
    data = features([5, 1, 9, 8])
    rounded = InputFormat(7, True, multiple=8)
    batch = collate(
        data,
        np.array(indices, np.int64),
        input_format=rounded,
        denominator=1.0,
        max_tokens=max_tokens,
    )
    assert batch.input_ids.shape == (len(indices), width)
    assert batch.attention_mask.sum(1).tolist() == data.lengths[indices].tolist()


def test_a_rank_without_a_share_gets_an_empty_batch() -> None:
    batch = collate(
        features([4, 2]), np.array([0, 1])[2::3], input_format=InputFormat(0, True), denominator=2.0
    )
    assert batch.input_ids.shape == (0, 0) and len(batch) == 0


def test_batch_moves_as_a_whole() -> None:
    batch = collate(
        features([4, 2]), np.array([0, 1]), input_format=InputFormat(0, True), denominator=2.0
    ).to(torch.device("meta"))
    assert batch.token_type_ids is not None
    tensors = [batch.input_ids, batch.attention_mask, batch.token_type_ids, *batch.columns.values()]
    assert all(tensor.device.type == "meta" for tensor in tensors)


def test_batches_move_in_one_copy_and_keep_their_numbers() -> None:
    data = features([4, 2, 7])
    given = [
        collate(data, np.array(rows, np.int64), input_format=InputFormat(9, True), denominator=2.0)
        for rows in ([0, 1], [2], [])
    ]
    launches = Launches()
    with launches.counting():
        found = moved(given, GPU)
    assert launches.operators == {"copy": 1} and not launches.waits
    for batch, there in zip(given, found, strict=True):
        assert there.columns.keys() == batch.columns.keys()
        for tensor, other in zip(batch.tensors(), there.tensors(), strict=True):
            assert launches.lies_there(other) and other.dtype == tensor.dtype
            assert torch.equal(other, tensor)
    assert moved(given, torch.device("cpu")) == given


def test_evaluation_batches_hold_every_feature_once() -> None:
    lengths = lognormal(101)
    batches = evaluation_batches(lengths, batch_size=8, device=CPU)
    assert sorted(np.concatenate(batches)) == list(range(101))
    assert [len(batch) for batch in batches] == [8] * 12 + [5]
    assert (np.diff(lengths[np.concatenate(batches)]) <= 0).all()
    assert evaluation_batches(np.zeros(0, np.int64), batch_size=8, device=CPU) == []


def test_evaluation_batches_fill_a_gpu() -> None:
    """With as many features as it takes well, but not where the user says how many."""
    lengths = np.array([3] * 5000 + [100] * 700 + [70_000])
    batches = evaluation_batches(lengths, batch_size="auto", device=CUDA)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert [len(batch) for batch in batches] == [1, 327, 327, 327, 2048, 2048, 623]
    assert len(evaluation_batches(lengths, batch_size="auto", device=CPU)[1]) == 64
    assert len(evaluation_batches(lengths, batch_size=7, device=CUDA)[1]) == 7


def test_a_batch_is_built_without_a_loop_over_its_tokens() -> None:
    """As many lines of Python are run for long inputs as for short ones."""

    def lines_run(length: int) -> int:
        data, count = features([length] * 32), 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            collate(data, np.arange(32), input_format=InputFormat(0, True), denominator=32.0)
        finally:
            sys.settrace(before)
        return count

    assert 0 < lines_run(5) == lines_run(200)


def cost(groups: list[np.ndarray], lengths: np.ndarray, overhead: int) -> int:
    return sum(len(group) * int(lengths[group].max()) + overhead for group in groups)


@pytest.mark.parametrize("overhead", [0, 3, 10, 1000])
@pytest.mark.parametrize("most", [8, 20, 10_000])
def test_rectangles_cost_least(overhead: int, most: int) -> None:
    """Against all ways to cut eight sorted lengths."""
    lengths = np.random.default_rng(overhead + most).integers(1, 12, 8)
    found = rectangles(lengths, overhead=overhead, most=most)
    order = np.argsort(lengths, kind="stable")
    best = min(
        cost(groups, lengths, overhead)
        for cuts in itertools.product([False, True], repeat=7)
        for groups in [np.split(order, [place + 1 for place in range(7) if cuts[place]])]
        if all(len(group) == 1 or len(group) * lengths[group].max() <= most for group in groups)
    )
    assert cost(found, lengths, overhead) == best
    assert sorted(np.concatenate(found).tolist()) == list(range(8))
    assert all(len(group) == 1 or len(group) * lengths[group].max() <= most for group in found)


def test_picked_and_joined_features_are_those_of_the_batch() -> None:
    data = features([4, 2, 6])
    batch = collate(data, np.array([0, 1, 2]), input_format=InputFormat(9, True), denominator=3.0)
    for width in (4, 8):
        picked = batch.pick(np.array([0, 1]), width)
        expected = collate(
            data, np.array([0, 1]), input_format=InputFormat(9, True), denominator=3.0
        )
        assert (
            picked.input_ids.shape
            == picked.attention_mask.shape
            == picked.token_type_ids.shape
            == (2, width)
        )  # type: ignore[union-attr]
        assert torch.equal(picked.input_ids[:, :4], expected.input_ids)
        assert torch.equal(picked.attention_mask[:, :4], expected.attention_mask)
        assert (picked.input_ids[~picked.attention_mask] == 9).all()
        assert picked.denominator == 3.0
        for name, column in expected.columns.items():
            assert torch.equal(picked.columns[name], column)
    joined = join([("one", batch.pick(np.array([1]), 6)), ("two", batch.pick(np.array([2, 0]), 6))])
    assert joined.parts == (("one", 1), ("two", 2))
    assert joined.lengths.tolist() == joined.attention_mask.sum(1).tolist() == [2, 6, 4]
    assert torch.equal(joined.input_ids[1], batch.input_ids[2])
