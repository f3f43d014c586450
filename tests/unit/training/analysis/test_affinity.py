"""Lookahead affinity: against its first-order value, without a trace in the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.training.analysis.affinity import Affinity
from mtlcli.training.state import TrainState
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import TaskBatch, build_task_batch
from tests.small import small_data, small_model, small_step

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_affinity_is_its_first_order_value_for_small_steps() -> None:
    """1 - L_j(theta - eta g_i) / L_j(theta) = eta <g_i, g_j> / L_j + O(eta^2)."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard")
    backward = Backward(model, weighting, ALONE, bf16=False)
    asked = []

    def fetch(name: str, position: int) -> TaskBatch:
        asked.append((name, position))
        rows = np.arange(8) + 8 * position
        return build_task_batch(
            model.tasks[name],
            features[name],
            rows,
            input_format=InputFormat(0, True),
            accumulation=2,
            ranks=ALONE,
        )

    names = list(model.tasks)
    state = TrainState(positions={"cola": 0, "stsb": 1, "squad": 2})
    affinity = Affinity(state.affinity, backward.passes, fetch, names)
    assert affinity.report() is None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for parameter in model.parameters():
        # What the step before has left.
        parameter.grad = torch.ones_like(parameter)
    affinity.measure(state, lr=1e-5)
    assert (
        model.training
        and asked == [("cola", 0), ("stsb", 1), ("squad", 2)]
        and state.positions == {"cola": 0, "stsb": 1, "squad": 2}
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())

    outcome = backward.probe(
        {name: fetch(name, state.positions[name]) for name in names}, small_step(names)
    )
    assert outcome.gram is not None
    count = sum(parameter.numel() for parameter in backward.passes.parameters.shared)
    report = affinity.report()
    assert report is not None and report["measured"] == 1
    for one, first in enumerate(names):
        eta = 1e-5 * count**0.5 / outcome.gram[one, one].sqrt().item()
        for other, second in enumerate(names):
            expected = eta * outcome.gram[one, other].item() / outcome.losses[other].item()
            assert report["affinity"][first][second] == pytest.approx(
                expected, rel=0.1, abs=2e-6
            ), (first, second)
