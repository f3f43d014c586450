"""How fast models predict, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch

from mtlcli.config.run import EvalBatchSize
from mtlcli.data.batches import Batch, collate, evaluation_batches
from mtlcli.data.features import Features
from mtlcli.evaluation.saved_model import SavedModel
from mtlcli.pulse import doing

ROWS = 128
"""The most inputs of each task that are timed."""
ROUNDS = 5
"""The number of times that each model is timed."""


def examples_per_second(
    models: Sequence[SavedModel],
    features: Mapping[str, Features],
    *,
    batch_size: EvalBatchSize,
    device: torch.device,
) -> list[float]:
    """Return for each model the median over rounds of the inputs that it predicts in a second. The
    models take turns on the same inputs: the first of each task, of whatever length. Reading and
    encoding are not part of the time. `features`: those of each task."""
    given = [_batches(model, features, batch_size, device) for model in models]
    inputs = sum(len(batch) for _, batch in given[0])
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(ROUNDS + 1):
        doing("timing both models", turn, ROUNDS + 1, "round")
        for model, batches, times in zip(models, given, seconds, strict=True):
            begin = time.perf_counter()
            _predict(model, batches, device)
            if turn:  # In the first round, memory and kernels are made ready.
                times.append(time.perf_counter() - begin)
    return [round(inputs / statistics.median(times), 1) for times in seconds]


def _batches(
    model: SavedModel,
    features: Mapping[str, Features],
    batch_size: EvalBatchSize,
    device: torch.device,
) -> list[tuple[str, Batch]]:
    made = []
    for name, each in features.items():
        for indices in evaluation_batches(
            each.lengths[:ROWS], batch_size=batch_size, device=device
        ):
            batch = collate(each, indices, input_format=model.input_format, denominator=1.0)
            made.append((name, batch.to(device)))
    return made


@torch.inference_mode()
def _predict(model: SavedModel, batches: list[tuple[str, Batch]], device: torch.device) -> None:
    model.model.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=model.precision == "bf16"):
        for name, batch in batches:
            model.model.outputs(name, batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
