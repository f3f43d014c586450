"""Masks that nobody reads: the states are those of the library's own masks."""

from __future__ import annotations

import pytest
import torch
from transformers import AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mtlcli.fast.masks import leave_masks_unread
from tests.families import family_backbone, family_batch
from tests.launches import Launches


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_host_reads_no_mask_and_states_are_the_same(
    family: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "sdpa", sdpa_mask)
    backbone = family_backbone(family, "mean")
    batch = family_batch() if padded else family_batch().pick(torch.arange(1).numpy(), 7)
    waits, states = [], []
    for change in (lambda: None, leave_masks_unread):
        change()
        launches = Launches()
        launches.put([*backbone.parameters(), *backbone.buffers(), *batch.tensors()])
        with launches.counting(), torch.no_grad():
            encoded = backbone(batch)
        states.append(encoded.hidden[batch.attention_mask])
        waits.append(launches.waits)
    assert waits[0].total() > 0 and not waits[1], waits
    torch.testing.assert_close(states[1], states[0], atol=1e-6, rtol=1e-5)
