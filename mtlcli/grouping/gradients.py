"""The outputs of single examples at the best checkpoint of a run, with their gradients, made short
by a random projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlcli.config.section import replaced
from mtlcli.data.features import Features
from mtlcli.distributed.process_group import Ranks, connect
from mtlcli.evaluation.best_checkpoint import config_of, find
from mtlcli.grouping.surrogate import Examples, LinearTask
from mtlcli.models.build import build_model, restore_weights
from mtlcli.models.files import BackboneFiles
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import input_format
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.pulse import doing
from mtlcli.training.gradient_rows import Projection
from mtlcli.training.task_batch import whole_batch

ROWS = 200
"""The number of examples of each task that are fitted, and that are held out."""
DIMENSION = 256
"""The number of numbers to which a gradient is projected."""
LEAST = 1e-6
"""The least loss of an example: the log odds of a certain answer are not finite."""


def collect(run: Path, say: Callable[[str], None], *, rows: int = ROWS) -> dict[str, LinearTask]:
    """Return what the surrogate needs of every task of a run that is trained: some examples of its
    train split, and of the first split that it was scored on.

    The loss of each example is taken in fp32, without dropout, and passed back through all weights
    that were trained. Raises UserError when the run has no usable checkpoint.
    """
    found = find(run)
    config = replaced(
        config_of(found, [], say),
        {"runner.devices": 1, "runner.engine": "ddp", "runner.max_tokens": None},
    )
    prepared = prepare(config, files=BackboneFiles.load(found.run / "backbone"))
    with connect(config.runner) as ranks:
        model = build_model(config, prepared.tasks, prepared.files, load_weights=False)
        restore_weights(model, found.tensors, found.checkpoint.folder)
        model.to(ranks.device).eval()
        reader = _Reader(model, prepared, ranks, config.seed)
        return {
            name: reader.task(name, features, rows)
            for name, features in prepared.train_features.items()
        }


class _Reader:
    def __init__(self, model: MultiTaskModel, prepared: Prepared, ranks: Ranks, seed: int) -> None:
        self._model, self._prepared, self._ranks, self._seed = model, prepared, ranks, seed
        self._format = input_format(prepared.encoder, "fp32", ranks.device)
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        self._projection = Projection(DIMENSION, seed)

    def task(self, name: str, train: Features, rows: int) -> LinearTask:
        task = self._prepared.tasks[name]
        held_out = self._prepared.features[name][task.config.splits.validation[0]]
        kind: Any = task.loss_kind
        doing(f"gradients of {name}")
        return LinearTask(kind, *(self._examples(name, each, rows) for each in (train, held_out)))

    def _examples(self, name: str, features: Features, rows: int) -> Examples:
        count = len(features.example_lengths)
        drawn = np.sort(np.random.default_rng(self._seed).permutation(count)[:rows])
        outputs, gradients = [], []
        for index in drawn:
            loss, gradient = self._example(name, features, index)
            if not math.isfinite(loss):  # No token of the example has a target.
                continue
            output, slope = linearised(self._model.tasks[name].loss_kind, loss)
            outputs.append(output)
            gradients.append(slope * gradient)
        return Examples(np.array(outputs), np.stack(gradients))

    def _example(self, name: str, features: Features, index: int) -> tuple[float, Any]:
        """Return the loss of an example, and its projected gradient."""
        task, one = self._model.tasks[name], np.array([index])
        batch = whole_batch(task, features, one, self._format, self._ranks)
        loss = self._model(name, batch).loss
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        return loss.item(), self._projected(found).double().cpu().numpy()

    def _projected(self, gradients: tuple[Tensor | None, ...]) -> Tensor:
        total = torch.zeros(DIMENSION, device=self._ranks.device)
        for number, (parameter, gradient) in enumerate(
            zip(self._parameters, gradients, strict=True)
        ):
            if gradient is not None:
                signs = self._projection.signs(number, parameter)
                total += self._projection.sketch(gradient.reshape(-1), signs.reshape(-1))
        return total


def linearised(kind: str, loss: float) -> tuple[float, float]:
    """Return the output f of an example with phi(f) = loss (see `surrogate.py`), and df / dloss,
    by which the gradient of the loss becomes that of the output."""
    loss = max(loss, LEAST)
    if kind == "regression":
        return float(np.sqrt(loss)), float(0.5 / np.sqrt(loss))
    return float(-np.log(np.expm1(loss))), float(1 / np.expm1(-loss))
