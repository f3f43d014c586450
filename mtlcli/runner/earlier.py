"""What a run keeps of the tasks that it has begun with (`augmentation=ewc` and `lwf`): computed
before the first step from the weights of `init.from`, and kept in the run folder, so that a run
that is resumed has the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mtlcli.augmentation.base import Keeper
from mtlcli.config.augmentation import earlier_tasks
from mtlcli.data.batches import Batch
from mtlcli.disk import flush, sha256, writing
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import UserError
from mtlcli.evaluation.evaluate import outputs_of
from mtlcli.pulse import doing
from mtlcli.training.run import Run
from mtlcli.training.task_batch import whole_batch

FILE = "earlier.safetensors"
"""The file of a run folder with what it keeps."""


def keep_earlier(run: Run, *, resumed: bool) -> None:
    """Give the augmentation of a run what it keeps of earlier tasks. Raises UserError where the
    file of a resumed run is not the one that it has written."""
    augmentation = run.model.augmentation
    if not isinstance(augmentation, Keeper):
        return
    file = run.folder.path / FILE
    earlier = _Earlier(run)
    if not resumed:
        doing("asking what earlier tasks depend on")
        run.model.eval()
        kept = augmentation.look(run.model, earlier)
        run.model.train()
        if run.ranks.is_main:
            content = save({name: tensor.contiguous() for name, tensor in kept.items()})
            with writing("the file", file, run.folder.resume_advice(), needed=len(content)):
                file.write_bytes(content)
                flush(file)
                flush(run.folder.path)
            run.folder.note("earlier", {"sha256": sha256(file)})
        augmentation.keep(kept, earlier, run.ranks.device)
        return
    fix = "bring the file back, or start the run again"
    if not file.is_file():
        raise UserError("what the run keeps of earlier tasks is missing", str(file), fix)
    if sha256(file) != run.folder.environment()["earlier"]["sha256"]:
        raise UserError("what the run keeps of earlier tasks has changed", str(file), fix)
    augmentation.keep(load_file(file), earlier, run.ranks.device)


class _Earlier:
    """What is asked about earlier tasks; every rank asks the same about all rows."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.names, new = earlier_tasks(run.config)
        assert new is not None
        self.new = new
        self._alone = Ranks(0, 1, run.ranks.device)

    def rows(self, task: str, count: int) -> Iterator[Batch]:
        run, features = self._run, self._run.train[task]
        drawn = np.random.default_rng(run.config.seed).permutation(len(features.example_lengths))
        for index in drawn[:count]:
            one = np.array([index])
            yield whole_batch(run.model.tasks[task], features, one, run.input_format, self._alone)

    def outputs(self, task: str) -> Tensor:
        run = self._run
        found = outputs_of(
            run.model,
            task,
            run.train[self.new],
            batch_size=run.config.runner.eval_batch_size,
            input_format=run.input_format,
            bf16=run.bf16,
            ranks=self._alone,
            what=f"asking the head of {task} about {self.new}",
        )
        return torch.from_numpy(np.asarray(found["logits"], np.float32))
