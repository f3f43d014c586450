"""Features of several tables in one."""

from __future__ import annotations

import numpy as np

from mtlcli.data.features import Features, Sequences, joined


def features(first: int, lengths: list[int], groups: list[int]) -> Features:
    """Features whose tokens are numbered from `first`."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(first, first + offsets[-1])
    return Features(
        ids=tokens.astype(np.uint16),
        offsets=offsets,
        segments=np.array(lengths, np.int32),
        columns={"row": np.arange(len(lengths))},
        token_columns={"char_start": tokens},
        token_targets={"tag": tokens + 1000},
        sequences={"target": Sequences(tokens[: len(lengths)], np.arange(len(lengths) + 1))},
        groups=np.array(groups),
        notes={"truncated": 1},
    )


def test_joined_features_are_those_of_each_table() -> None:
    parts = [
        features(0, [2, 3], [0, 2]),
        features(100, [1], [0, 1]),
        features(200, [4, 1], [0, 1, 2]),
    ]
    found = joined(parts)
    assert len(found) == 5 and found.ids.dtype == np.uint16
    numbered = [(part, number) for part in parts for number in range(len(part))]
    for place, (part, number) in enumerate(numbered):
        inside = slice(*part.offsets[number : number + 2])
        there = slice(*found.offsets[place : place + 2])
        assert found.ids[there].tolist() == part.ids[inside].tolist()
        assert (
            found.token_targets["tag"][there].tolist() == part.token_targets["tag"][inside].tolist()
        )
        one, other = found.sequences["target"], part.sequences["target"]
        target = one.ids[slice(*one.offsets[place : place + 2])]
        assert target.tolist() == other.ids[slice(*other.offsets[number : number + 2])].tolist()
        assert found.segments[place] == part.segments[number]
    assert found.columns["row"].tolist() == [0, 1, 0, 0, 1]
    assert found.groups is not None and found.groups.tolist() == [0, 2, 3, 4, 5]
    assert joined(parts[:1]) is parts[0]
