"""Projected gradients of single examples: against differences of the outputs along the directions
that the projection keeps, on the model of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtlcli.grouping import gradients
from mtlcli.grouping.gradients import collect, linearised
from tests.small_run import start


def test_outputs_have_the_loss_and_its_slope() -> None:
    for kind in ("classification", "regression"):
        for loss in (0.01, 0.7, 3.0):
            output, slope = linearised(kind, loss)
            phi = output**2 if kind == "regression" else np.logaddexp(0, -output)
            assert phi == pytest.approx(loss)
            more, _ = linearised(kind, loss + 1e-6)
            assert (more - output) / 1e-6 == pytest.approx(slope, rel=1e-3)


def test_projected_gradients_are_slopes_of_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path / "run", "data.folds=4", "data.fold=0")
    monkeypatch.setattr(gradients, "DIMENSION", 8)
    found = collect(run, lambda line: None, rows=3)
    assert {name: task.kind for name, task in found.items()} == {
        "cola": "classification",
        "stsb": "regression",
        "rte": "classification",
    }
    restore = gradients.restore_weights
    direction = np.random.default_rng(0).normal(size=8)
    step = 1e-4

    def moved(model: gradients.MultiTaskModel, *others: object) -> None:
        restore(model, *others)  # type: ignore[arg-type]
        trained = [each for each in model.parameters() if each.requires_grad]
        projection = gradients.Projection(8, 0)
        for number, parameter in enumerate(trained):
            signs = np.where(projection.signs(number, parameter).numpy(), 1.0, -1.0).ravel()
            change = signs * direction[np.arange(signs.size) % 8] * step
            parameter.data += gradients.torch.tensor(change).view_as(parameter).float()

    monkeypatch.setattr(gradients, "restore_weights", moved)
    after = collect(run, lambda line: None, rows=3)
    for name, task in found.items():
        for before, now in ((task.train, after[name].train), (task.held_out, after[name].held_out)):
            assert before.gradients.shape == (3, 8)
            slopes = (now.outputs - before.outputs) / step
            assert slopes == pytest.approx(before.gradients @ direction, rel=0.1, abs=0.05), name
