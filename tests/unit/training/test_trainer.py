"""What a step asks of a GPU, counted on a CPU: see tests/launches.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mtlcli.config import Config
from mtlcli.data.pack import Layout
from mtlcli.distributed import process_group
from mtlcli.fast import accelerate
from mtlcli.models import packed
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.runner import rank
from mtlcli.training import mixed_batches, update
from mtlcli.training.trainer import Trainer
from tests.launches import GPU, Launches
from tests.small_run import start

TINY = ("model.layers=2", "model.hidden=64", "model.heads=4")
MINILM = ("model.layers=6", "model.hidden=48", "model.heads=12")
BERT = ("model.layers=12", "model.hidden=48", "model.heads=12")
"""As many layers as these models have. Their width changes no count."""


class Counted(Exception):
    """Ends a run in which a step has been counted."""


def count(
    patch: pytest.MonkeyPatch,
    folder: Path,
    *options: str,
    after: int = 2,
    late: bool = True,
    work: Callable[[Trainer], object] = Trainer.train_step,
) -> Launches:
    """Start a run as on a GPU, and count `work` once `after` steps are over. `late`: whether the
    host reads numbers late, as it does there."""
    launches = Launches()

    def train(self: Trainer) -> None:
        self.run.console.start(list(self.run.model.tasks), 0, self.run.steps)
        launches.put([*self.run.model.parameters(), *self.run.model.buffers()])
        for _ in range(after):
            with launches.counting():
                self.train_step()
        launches.operators.clear()
        launches.waits.clear()
        with launches.counting():
            work(self)
        raise Counted

    def as_on_gpu(
        model: MultiTaskModel, config: Config, device: torch.device, precision: str
    ) -> None:
        accelerate(model, config, torch.device("cuda"), precision)

    def by_kernel(layout: Layout, tokens: list[Tensor], dropout: float, *more: Any) -> Tensor:
        def attend(*tokens: Tensor) -> Tensor:
            return by_group(layout, list(tokens), 0.0, *more)

        return launches.as_one("attention", attend, *tokens)

    by_group = packed._by_group
    patch.setattr(packed, "_by_group", by_kernel)
    patch.setattr(Trainer, "train", train)
    patch.setattr(process_group, "choose_device", lambda *_: GPU)
    patch.setattr(rank, "accelerate", as_on_gpu)
    patch.setattr(update, "DEFERRING", {"cpu"} if late else set())
    patch.setitem(AttentionMaskInterface._global_mapping, "sdpa", sdpa_mask)
    for table in (mixed_batches.PASS_OVERHEAD_TOKENS, mixed_batches.MAX_HIDDEN_NUMBERS):
        patch.setitem(table, "cpu", table["cuda"])
    with pytest.raises(Counted):
        start(folder, "runner.accumulation=1", "logger.every=1000", "runner.steps=100", *options)
    return launches


@pytest.mark.parametrize(
    ("size", "packing", "most"),
    [
        (TINY, "off", 200),
        (TINY, "on", 190),
        (MINILM, "on", 410),
        (BERT, "on", 735),
    ],
    ids=["tiny-padded", "tiny", "minilm", "bert"],
)
def test_a_step_launches_little_and_waits_for_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[str, ...],
    packing: str,
    most: int,
) -> None:
    options = ("task=cola", "runner.precision=bf16", f"runner.packing={packing}")
    found = count(monkeypatch, tmp_path, *options, *size)
    assert not found.waits
    assert found.total <= most, found.operators.most_common()


@pytest.mark.parametrize(
    "options",
    [
        ["weighting=static", "tasks.cola.class_weights=balanced"],
        ["weighting=random", "optim.clip=null"],
        ["weighting=uncertainty"],
        ["weighting=dwa"],
    ],
    ids=lambda options: "-".join(options),
)
def test_weights_that_are_known_before_the_step_wait_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    found = count(monkeypatch, tmp_path, "sampling=all", *options)
    assert not found.waits


def test_numbers_that_are_read_at_once_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses, whether the norm is finite, and the norm."""
    found = count(monkeypatch, tmp_path, "sampling=all", late=False)
    assert found.waits.total() == 3, found.waits


def test_an_evaluation_does_not_wait_for_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of outputs for inputs, and for tokens."""
    waits = []
    for size in (4, 12):
        options = ("task=[rte,squad]", "data.max_eval_rows=24", f"runner.eval_batch_size={size}")
        work = lambda trainer: trainer._evaluate()  # noqa: E731
        with monkeypatch.context() as patch:
            waits.append(count(patch, tmp_path / str(size), *options, work=work).waits)
    assert waits[0] == waits[1]
