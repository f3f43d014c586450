"""Rows of the train splits, for methods that pass some through the models, and for the choice of
coefficients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtlcli.config import Config
from mtlcli.config.task import CALIBRATION
from mtlcli.data.batches import Batch, InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.merging.base import BACKBONE, State
from mtlcli.merging.runs import Opened
from mtlcli.models.build import build_model
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import input_format
from mtlcli.prepare.prepare import Prepared
from mtlcli.training.task_batch import whole_batch


class TrainRows:
    """Rows of the train splits, and a model with the heads of all runs; see `base.Rows`."""

    def __init__(
        self, config: Config, prepared: Prepared, runs: list[Opened], ranks: Ranks
    ) -> None:
        """`prepared`: the tasks of all runs, with what is read of their splits."""
        self._config, self._prepared, self._runs, self._ranks = config, prepared, runs, ranks
        self._format: InputFormat = input_format(prepared.encoder, "fp32", ranks.device)
        self.model: MultiTaskModel = build_model(
            config, prepared.tasks, prepared.files, load_weights=False
        )
        state = self.model.state_dict()
        with torch.no_grad():
            for run in runs:
                for name, tensor in run.heads().items():
                    state[name].copy_(tensor)
            for name, tensor in runs[0].backbone.items():
                state[BACKBONE + name].copy_(tensor)
        self.model.to(ranks.device).eval().requires_grad_(False)

    @torch.no_grad()
    def load(self, weights: State) -> None:
        """Give the model's backbone these weights."""
        state = self.model.state_dict()
        for name, tensor in weights.items():
            state[BACKBONE + name].copy_(tensor)

    def of_run(self, run: int, rows: int, seed: int) -> Iterator[tuple[str, Batch]]:
        """Yield rows of the tasks of a run, one at a time."""
        trained = [name for name in self._runs[run].config.tasks if name in self._train]
        for name in trained:
            for index in self._drawn(name, -(-rows // len(trained)), seed):
                yield name, self._batch(name, np.array([index]))

    def batches(self, rows: int, size: int, seed: int) -> Iterator[list[tuple[str, Batch]]]:
        """Yield, without end, a batch of each task."""
        drawn = {name: self._drawn(name, rows, seed) for name in self._train}
        step = 0
        while True:
            yield [
                (name, self._batch(name, np.take(each, range(step, step + size), mode="wrap")))
                for name, each in drawn.items()
            ]
            step += size

    def held_out_score(self, weights: State) -> float:
        """Return the average score of the merged model on the rows that all tasks have kept out of
        training."""
        self.load(weights)
        held = {name: [CALIBRATION] for name in self._prepared.tasks}
        results, _ = evaluate(
            self.model,
            self._prepared.splits(held),
            calibration=self._prepared.calibration,
            step=0,
            eval_batch_size=self._config.runner.eval_batch_size,
            input_format=self._format,
            bf16=False,
            ranks=self._ranks,
        )
        return float(results["average"])

    @property
    def _train(self) -> dict[str, Any]:
        return self._prepared.train_features

    def _drawn(self, name: str, rows: int, seed: int) -> NDArray[np.int64]:
        """Return the numbers of some train rows of a task, in random order."""
        count = len(self._train[name].example_lengths)
        return np.random.default_rng(seed).permutation(count)[:rows]

    def _batch(self, name: str, indices: NDArray[np.int64]) -> Batch:
        task, features = self._prepared.tasks[name], self._train[name]
        return whole_batch(task, features, indices, self._format, self._ranks)
