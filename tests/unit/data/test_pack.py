"""Packed batches: their sizes, and where the tokens of each feature lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.data.batches import Batch
from mtlcli.data.pack import Packing, budget, pack, places_of


def batch(lengths: list[int], first: int = 1) -> Batch:
    """A padded batch with ids `first`, `first` + 1, ... and segments by the parity of the id."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = first + np.arange(mask.sum())
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(ids % 2),
        columns={},
        lengths=np.array(lengths),
        indices=np.arange(len(lengths)),
        denominator=1.0,
        pad_id=0,
    )


def test_budgets_are_few_and_near() -> None:
    assert [budget(tokens) for tokens in (1, 128, 129, 1000, 1024, 1025)] == [
        *(128, 128, 256, 1024, 1024, 1280)
    ]
    ladder = sorted({budget(tokens) for tokens in range(1, 20_000)})
    assert len(ladder) < 24 and all(step % 128 == 0 for step in ladder)
    assert all(b / a < 1.34 for a, b in zip(ladder[7:], ladder[8:], strict=False))
    assert all(budget(step) == step for step in ladder)


@pytest.mark.parametrize("lengths", [[3, 1, 7], [50, 50, 28], [50] * 3, [1]])
def test_every_token_is_there_once_and_the_rest_is_sequences_that_nobody_reads(
    lengths: list[int],
) -> None:
    parts = [("a", batch(lengths[:1])), ("b", batch(lengths[1:] or [2], first=1000))]
    packed = pack(parts, Packing(longest=50))
    layout, real = packed.layout, packed.attention_mask[0]
    rows = np.concatenate([part.lengths for _, part in parts])
    tokens = int(rows.sum())
    assert packed.input_ids.shape == (1, budget(tokens))
    given = torch.cat([part.input_ids[part.attention_mask] for _, part in parts])
    assert torch.equal(packed.input_ids[0, :tokens], given)
    assert torch.equal(packed.token_type_ids[0, :tokens], given % 2)  # type: ignore[index]
    assert int(real.sum()) == tokens and bool(real[:tokens].all())
    assert layout.lengths.sum() == budget(tokens) and layout.lengths.max() <= 50
    assert layout.ends.tolist() == [0, *np.cumsum(layout.lengths).tolist()]
    counted = [place for length in layout.lengths for place in range(length)]
    assert layout.positions[0].tolist() == counted
    assert layout.last.tolist() == (np.cumsum(rows) - 1).tolist()
    assert sum(count for _, count in packed.parts) == budget(tokens)
    for (_, part), places in zip(parts, places_of(parts, packed), strict=True):
        back = places.pad(packed.input_ids.float().unsqueeze(-1)).squeeze(-1)
        assert torch.equal(back, part.input_ids.float())


def test_the_number_of_sequences_follows_from_budget_and_rows() -> None:
    sizes = {
        len(pack([("a", batch([40, 40, last]))], Packing(longest=50)).layout.lengths)
        for last in range(1, 49)
    }
    assert len(sizes) == 1


def test_groups_hold_every_token_once() -> None:
    layout = pack([("a", batch([3, 40, 4, 41, 3]))], Packing(longest=50)).layout
    groups, unsort = layout.groups()
    order = np.concatenate([group.order for group in groups])
    assert order[unsort.numpy()].tolist() == list(range(128))
    assert sum(group.count for group in groups) == np.count_nonzero(layout.lengths)
    assert all(len(group.inside) == len(group.order) for group in groups)


def test_a_thousand_steps_of_a_mixture_meet_few_budgets() -> None:
    """GLUE's lengths: 6 to 128 tokens, most of them short."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.2, 0.6, (1000, 32)), 6, 128).astype(int)
    for rows in (8, 32):
        assert len({budget(int(step[:rows].sum())) for step in lengths}) <= 16
