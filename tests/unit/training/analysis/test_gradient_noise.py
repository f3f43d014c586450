"""The estimates of a gradient's size and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.training.analysis.gradient_noise import measure_noise
from mtlcli.training.passes import Passes
from mtlcli.training.task_batch import build_task_batch
from tests.small import small_data, small_model

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_the_estimates_are_those_of_whole_gradients() -> None:
    """Against numpy on the gradients of each batch: the mean inner product of different batches,
    and the trace of their covariance."""
    _, _, features, _ = small_data()
    model, _ = small_model("hard")
    model.eval()
    passes = Passes(model, list(model.tasks), ALONE, bf16=False)
    batches = [
        build_task_batch(
            model.tasks["cola"],
            features["cola"],
            np.arange(6 * number, 6 * number + 6),
            input_format=InputFormat(0, True),
            accumulation=2,
            ranks=ALONE,
        )
        for number in range(4)
    ]
    rows = np.array(
        [
            torch.cat([part.flatten() for part in passes.shared_gradient("cola", batch)]).tolist()
            for batch in batches
        ]
    )
    found = measure_noise(passes, "cola", batches)
    products = rows @ rows.T
    assert found.square == pytest.approx(products[~np.eye(4, dtype=bool)].mean(), rel=1e-4)
    assert found.variance == pytest.approx(rows.var(0, ddof=1).sum(), rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
