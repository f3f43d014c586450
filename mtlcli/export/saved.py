"""A task of a saved run, with the model of its best checkpoint in memory. No rows are read: labels
and lengths stand in the run's own configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.snapshot import load_config
from mtlcli.data.encoder import TextEncoder
from mtlcli.errors import UserError
from mtlcli.evaluation.best_checkpoint import find
from mtlcli.models.build import build_model, check_weights, restore_weights, without_numbers
from mtlcli.models.files import BackboneFiles
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.registry import suggest
from mtlcli.rundir.differences import differing_config, differing_files
from mtlcli.tasks.base import TaskType, build_tasks


@dataclass
class SavedTask:
    """A task of a run, and the model that was trained for it."""

    run: Path
    """The run folder."""
    step: int
    """The number of updates that the model has had."""
    config: Config
    """The run's configuration."""
    task: TaskType[Any]
    """The task."""
    model: MultiTaskModel
    """The model of all tasks, in evaluation mode, in fp32 on the CPU."""
    files: BackboneFiles
    """The backbone's architecture and tokenizer."""
    encoder: TextEncoder
    """The run's text encoder."""

    @property
    def head(self) -> Any:
        """The head that the task uses."""
        return self.model.heads[self.model.owner(self.task.name)]

    @property
    def longest(self) -> int:
        """The longest input of the task, in tokens."""
        return self.encoder.limit(self.task.max_length)


def open_task(path: Path, name: str | None, say: Callable[[str], None]) -> SavedTask:
    """Return a task of a run folder, with its best checkpoint, or of one checkpoint folder. `name`:
    the task; None where the run has one only.

    Raises UserError when there is no such task, or the run's files are not those that the
    checkpoint was saved with.
    """
    found = find(path)
    for notice in found.notices:
        say(notice)
    config = load_config(found.run / "config.yaml")
    checks = (
        differing_files(found.checkpoint, found.run, config.allow),
        differing_config(found.checkpoint, found.config, found.run, config.allow),
    )
    if problems := [problem for refused, _ in checks for problem in refused]:
        raise UserError(problems)
    name = _chosen(config, name)
    files = BackboneFiles.load(found.run / "backbone")
    if files.int8:
        what = "the matrices of the run's model are in 8 bits, which is no format of an export"
        fix = "export the run that it was made of; --format onnx --int8 rounds its matrices"
        raise UserError(what, str(found.run), fix)
    encoder = files.encoder()
    tasks = build_tasks(config.formed_tasks, config.text)
    for task in tasks.values():
        task.config = replace(
            task.config, max_length=task.config.max_length or config.data.max_length
        )
    if problems := [
        problem
        for task in tasks.values()
        for problem in task.use(encoder, has_decoder=files.has_decoder)
    ]:
        raise UserError(problems)
    # Compare the tensors with a model without memory first, because a file may ask for any size.
    folder = found.checkpoint.folder
    check_weights(without_numbers(config, tasks, files), found.tensors, folder)
    model = build_model(config, tasks, files, load_weights=False)
    restore_weights(model, found.tensors, folder)
    return SavedTask(
        found.run,
        found.checkpoint.step,
        config,
        tasks[name],
        model.eval().requires_grad_(False),
        files,
        encoder,
    )


def _chosen(config: Config, name: str | None) -> str:
    """Return the name of the task that is meant. Raises UserError when there is none."""
    if name is None:
        if len(config.tasks) > 1:
            raise UserError(
                f"the run has {len(config.tasks)} tasks, and an export is of one",
                "--task",
                f"choices: {', '.join(config.tasks)}",
            )
        return next(iter(config.tasks))
    if name not in config.tasks:
        raise UserError(
            f"the run has no task '{name}'", where="--task", fix=suggest(name, config.tasks)
        )
    return name
