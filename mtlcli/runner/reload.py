"""A run that exists: its config, data and model from the run folder, and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli import checkpoint, commands, garbage
from mtlcli.config import Config
from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from mtlcli.models.files import BackboneFiles
from mtlcli.registry import suggest
from mtlcli.runner.prepare import prepare


@dataclass
class Found:
    """A checkpoint and the run folder it belongs to."""

    run: Path
    """The run folder."""
    checkpoint: checkpoint.Checkpoint
    """The checkpoint, verified."""
    notices: list[str]
    """Checkpoints that had to be skipped."""


def find(path: Path) -> Found:
    """A run folder's best checkpoint, or the checkpoint folder that `path` is. Raises UserError when it is neither."""
    run = checkpoint.run_of(path)
    if run != path:
        return Found(run, checkpoint.read(path), [])
    newest, notices = checkpoint.newest(run / "checkpoints")
    best = newest.best_step
    if best in (None, newest.step):
        return Found(run, newest, notices)
    folder = run / "checkpoints" / f"step_{best:08d}"
    try:
        return Found(run, checkpoint.verified(folder), notices)
    except ValueError as error:
        # Another one would have other scores than those that the run is known by.
        raise UserError(
            f"the run's best checkpoint cannot be used: {error}", where=str(folder), fix=f"the newest: {commands.evaluate(newest.folder)}"
        ) from error


def evaluate_path(
    path: Path,
    *,
    split: str | None = None,
    tasks: list[str] | None = None,
    overrides: list[str] | None = None,
    predictions: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate a run folder's best checkpoint, or one checkpoint; the result has the shape of results.json.

    `split`: `validation` (default) or `test`, the parts that the tasks' configs define, or the name of one split.
    `predictions`: a folder that gets `<task>.jsonl` with one prediction per row, and for span tasks `<task>.json` in
    the form that the official SQuAD script takes.
    """
    found = find(path)
    for notice in found.notices:
        say(notice)
    config = load_config(found.run / "config.yaml", overrides or [])
    chosen = tasks or list(config.tasks)
    for name in chosen:
        if name not in config.tasks:
            raise UserError(f"the run has no task '{name}'", where="--task", fix=suggest(name, config.tasks))
    wanted = split or "validation"
    parts = {name: _splits(config, name, wanted) for name in chosen}
    without = [name for name, names in parts.items() if not names]
    if tasks and without:
        raise UserError(f"{', '.join(without)}: no split for '{wanted}'", where="--split", fix="give the name of a split of the task")
    parts = {name: names for name, names in parts.items() if names}
    if not parts:
        raise UserError(f"no task of the run has a split for '{wanted}'", where="--split", fix="validation, test, or a split's own name")
    return _evaluate(config, found, parts, wanted, predictions, say)


def _splits(config: Config, task: str, wanted: str) -> list[str]:
    splits = config.tasks[task].splits
    if wanted == "validation":
        return splits.validation
    if wanted == "test":
        return [splits.test] if splits.test else []
    if wanted == "train":
        return [splits.train] if splits.train else []
    return [wanted]


def _evaluate(
    config: Config, found: Found, parts: dict[str, list[str]], wanted: str, predictions: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    prepared = prepare(config, files=BackboneFiles.load(found.run / "backbone"), splits=lambda task: parts.get(task.name, []))
    for notice in prepared.notices:
        say(notice)

    from mtlcli.evaluation.evaluate import evaluate
    from mtlcli.models.build import build_model
    from mtlcli.runner.distributed import connect
    from mtlcli.runner.restore import restore_model

    with connect(config.runner) as ranks:
        model = build_model(config, prepared.tasks, prepared.files, load_weights=False)
        restore_model(found.checkpoint, model)
        model.to(ranks.device)
        garbage.at_work()
        results, scores = evaluate(
            model,
            prepared.splits(parts),
            eval_batch_size=config.runner.eval_batch_size,
            pad_id=prepared.encoder.pad_id,
            uses_segments=prepared.encoder.uses_segments,
            bf16=config.runner.precision == "bf16",
            ranks=ranks,
            on_split=lambda task, split: say(f"evaluating {task}/{split}"),
        )
    if predictions is not None:
        predictions.mkdir(parents=True, exist_ok=True)
        for name, by_split in scores.items():
            for index, (split, result) in enumerate(by_split.items()):
                stem = name if index == 0 else f"{name}.{split}"
                lines = "".join(json.dumps(prediction) + "\n" for prediction in result.predictions)
                (predictions / f"{stem}.jsonl").write_text(lines, encoding="utf-8")
                for suffix, content in prepared.tasks[name].official_files(result.predictions).items():
                    (predictions / f"{stem}{suffix}").write_text(json.dumps(content), encoding="utf-8")
    head = {"format": 1, "data_source": prepared.source.kind, "split": wanted, "step": found.checkpoint.step}
    return head | results | {"parameters": model.parameter_counts()}
