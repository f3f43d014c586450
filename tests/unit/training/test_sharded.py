"""What shards ask of a network. Training on them is tested in tests/runs/ddp."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import UserError
from mtlcli.training.sharded import shard
from tests.small import small_model


def test_a_network_that_skips_layers_at_random_is_refused() -> None:
    model, _ = small_model("soft")
    first: Any = next(iter(model.trunk.backbones.values()))  # type: ignore[union-attr, operator]
    first.network.config.encoder_layerdrop = 0.1
    with pytest.raises(UserError, match="skips layers at random"):
        shard(model, Ranks(0, 2, torch.device("cpu")), bf16=False)
