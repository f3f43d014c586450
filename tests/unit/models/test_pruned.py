"""Backbones that lack attention heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.config import Model
from mtlcli.errors import UserError
from mtlcli.models.backbone import build_backbone
from mtlcli.models.pruned import FIELD, attentions, head_counts, heads_left, unpruned
from tests.small import small_data


def lacking(gone: Any, **more: Any) -> Any:
    _, _, _, files = small_data()
    files.architecture |= {FIELD: gone, "num_attention_heads": 4, **more}
    return files


def test_a_backbone_is_built_without_heads() -> None:
    files = lacking({"1": [0, 2, 3]})
    backbone = build_backbone(files, Model(kind="scratch", name=None))
    assert head_counts(backbone.network) == [4, 1]
    last: Any = attentions(backbone.network)[1]
    assert last.self.query.weight.shape == (8, 32) and last.output.dense.weight.shape == (32, 8)
    ids = torch.arange(10, 22).reshape(2, 6)
    whole = unpruned(backbone.network.eval(), files.architecture)
    assert head_counts(whole) == [4, 4]
    with torch.no_grad():
        states = [network(input_ids=ids).last_hidden_state for network in (backbone.network, whole)]
    torch.testing.assert_close(states[0], states[1], rtol=1e-6, atol=1e-6)
    assert attentions(whole)[1].self.query.weight[:8].eq(0).all()


def test_layers_that_are_taken_bring_their_heads() -> None:
    files = lacking({"1": [0, 2, 3]}).with_layers([1])
    assert files.architecture[FIELD] == {"0": [0, 2, 3]}
    assert heads_left(files.architecture) == [[1]]


@pytest.mark.parametrize("gone", [{"1": [0, 1, 2, 3]}, {"2": [0]}, {"0": [4]}, {"0": [1, 1]}])
def test_heads_that_there_are_not(gone: Any) -> None:
    with pytest.raises(UserError, match="are not heads of 2 layers with 4 heads each"):
        heads_left(lacking(gone).architecture)


def test_other_models_cannot_lack_heads() -> None:
    with pytest.raises(UserError, match="of the kind gpt2 cannot lack heads"):
        heads_left({"model_type": "gpt2", FIELD: {"0": [1]}})
