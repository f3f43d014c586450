"""What a run costs: operations against a count by hand, memory against an allocation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.training.analysis.cost import PeakMemory, flops_per_example
from mtlcli.training.task_batch import build_task_batch
from tests.small import small_data, small_model


@pytest.mark.parametrize(("frozen", "bf16"), [(False, False), (True, False), (False, True)])
def test_operations_are_those_of_the_matrix_products(frozen: bool, bf16: bool) -> None:
    tasks, _, features, _ = small_data()
    model, _ = small_model("hard")
    if frozen:
        model.trunk.requires_grad_(False)
    ranks = Ranks(0, 1, torch.device("cpu"))
    batch = build_task_batch(
        tasks["cola"],
        features["cola"],
        np.arange(4),
        input_format=InputFormat(0, True),
        accumulation=2,
        ranks=ranks,
    )
    config: Any = model.trunk.backbone.network.config  # type: ignore[union-attr]
    wide, inner, depth = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    forward = 0
    for micro in batch.micro:
        rows, length = micro.input_ids.shape
        # Query, key, value, output and the two of the feed-forward block; then scores and their
        # weighted sum.
        forward += (depth - 1) * (
            2 * rows * length * (4 * wide * wide + 2 * wide * inner)
            + 4 * rows * length * length * wide
        )
        # The last layer for the first token alone: for all tokens the two products of each head's
        # query with the states.
        forward += (
            2 * rows * (4 * wide * wide + 2 * wide * inner)
            + 4 * rows * length * config.num_attention_heads * wide
        )
    head = sum(
        2 * 4 * parameter.numel()
        for parameter in model.heads["cola"].parameters()
        if parameter.ndim == 2
    )
    found = 4 * flops_per_example(model, {"cola": batch}, bf16=bf16)
    if frozen:
        # Backward only in the head, and its lowest layer's input needs no gradient.
        assert forward + head < found < forward + 3 * head
    else:
        # Backward twice as much: the gradients of the input and of the weight.
        assert found == pytest.approx(3 * (forward + head), rel=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_peak_is_counted_from_the_beginning_of_the_run() -> None:
    large = torch.ones(2**26)
    del large
    memory = PeakMemory(torch.device("cpu"))
    before = memory.bytes()
    held = torch.ones(2**25)
    assert 2**26 < memory.bytes() - before < 2**28
    del held
    assert memory.bytes() - before > 2**26, "what was held once stays counted"
    assert PeakMemory(torch.device("cpu")).bytes() - before < 2**26
