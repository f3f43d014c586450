"""Gradient rows of several tasks from one pass: those of a pass for each task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtlcli.data.batches import InputFormat
from mtlcli.fast.rows_at_once import record_rows
from mtlcli.models.packed import packing_of
from mtlcli.training.step import Backward
from tests.small import small_data, small_step
from tests.unit.training.test_mixed_batches import moved, passes_of
from tests.unit.training.test_step import ALONE, batches, gradients

CASES = [
    *(("hard", weighting) for weighting in ("pcgrad", "gls", "graddrop")),
    *((sharing, "pcgrad") for sharing in ("adapters", "attention", "mmoe")),
]


def packed(sharing: str, weighting: str, **options: Any) -> tuple[Any, Any]:
    """A model with packed batches and weights that nothing hides."""
    model, weights = moved(sharing, weighting, fast=False, **options)
    model.packing = packing_of(model.trunk, InputFormat(0, True), 64, torch.device("cpu"))
    return model, weights


def step_of(model: Any, weights: Any, bf16: bool = False) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad()
    given = batches(model, small_data()[2])
    step = small_step(given)
    Backward(model, weights, ALONE, bf16=bf16)(given, step)
    return step, gradients(model)


@pytest.mark.parametrize(("sharing", "weighting"), CASES)
def test_a_step_is_that_of_a_pass_for_each_task(sharing: str, weighting: str) -> None:
    model, weights = packed(sharing, weighting)
    model.trunk.backbone.network.get_input_embeddings().sparse = weighting != "gls"
    seen = passes_of(model)
    plain, expected = step_of(model, weights)
    assert len(seen) == 3
    record_rows(model)
    once, found = step_of(model, weights)
    assert len(seen) == 4
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    if weighting == "pcgrad":
        limit = 1e-6 * plain.gram.max().item()
        torch.testing.assert_close(once.gram, plain.gram, rtol=1e-5, atol=limit)


def test_frozen_layers_have_no_rows() -> None:
    model, weights = packed("hard", "pcgrad", frozen_layers=1)
    _, expected = step_of(model, weights)
    record_rows(model)
    _, found = step_of(model, weights)
    assert model.recorder is not None and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_bf16_gives_the_same_within_its_rounding() -> None:
    model, weights = packed("hard", "pcgrad")
    plain, _ = step_of(model, weights, bf16=True)
    record_rows(model)
    once, _ = step_of(model, weights, bf16=True)
    torch.testing.assert_close(
        once.gram, plain.gram, rtol=0.03, atol=0.03 * plain.gram.max().item()
    )


def test_only_packed_batches_of_several_tasks_are_recorded() -> None:
    """Soft sharing has no mixed batches, and the experts of a mixture on top are no linear maps."""
    padded, _ = moved("hard", "pcgrad", fast=False)
    for model in (padded, packed("soft", "pcgrad")[0], packed("cgc", "pcgrad")[0]):
        record_rows(model)
    assert padded.recorder is None


def test_evaluation_is_left_alone() -> None:
    model, _ = packed("hard", "pcgrad")
    given = batches(model, small_data()[2])["cola"].micro[0]
    model.eval()
    before = model.outputs("cola", given)["logits"]
    record_rows(model)
    assert torch.equal(model.outputs("cola", given)["logits"], before)
