"""`mtl compress`: the model of a run becomes a smaller one, which is written as a run folder and
compared with the model that it was made of: size, speed, and the score of each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.compression.heads import importance, kept_heads, over_tasks
from mtlcli.compression.methods import METHODS
from mtlcli.compression.speed import examples_per_second
from mtlcli.config import Config, Init, augmentations
from mtlcli.config.section import replaced
from mtlcli.distributed.process_group import Ranks, connect
from mtlcli.errors import UserError, count_of
from mtlcli.evaluation import best_checkpoint
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.evaluation.saved_model import SavedModel, restore
from mtlcli.models.build import build_model, check_weights, restore_weights, without_numbers
from mtlcli.models.files import BackboneFiles
from mtlcli.models.int8 import quantise, require_torchao, stored
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import input_format
from mtlcli.models.pruned import FIELD, KINDS, heads_left, prune
from mtlcli.models.start import Start
from mtlcli.prepare.disk_space import check_writable
from mtlcli.prepare.prepare import Prepared, calibration_splits, prepare
from mtlcli.pulse import doing
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.derived import write_derived
from mtlcli.seeds import folded
from mtlcli.tasks.base import TaskType
from mtlcli.training.task_batch import build_task_batch

BATCH = 16
"""Rows in a pass that judges heads."""


@dataclass
class Opened:
    """The run that is compressed."""

    found: best_checkpoint.Found
    """Its checkpoint and the tensors."""
    config: Config
    """Its resolved config."""
    files: BackboneFiles
    """Its architecture and tokenizer."""


def compress(
    path: Path,
    to: Path,
    *,
    method: str,
    options: dict[str, float],
    command: list[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write a run folder `to` with a smaller model, made of the best checkpoint of a run or of the
    checkpoint that is given, and return the content of its results.json.

    `options`: those of the method that are typed; the others have their defaults. `command`: the
    command line, for environment.json. Raises UserError with what keeps the run from being
    compressed; nothing is made then.
    """
    settings = {**METHODS[method].options, **options}
    check_writable(to, "--to")
    run = _opened(path, say)
    if method == "int8":
        require_torchao("--method int8")
    _check(run, method, settings)
    prepared = prepare(run.config, files=run.files, splits=_splits(method))
    if method == "heads" and not prepared.train_features:
        raise UserError("no task of the run has a train split to judge heads by", str(path))
    with connect(run.config.runner) as ranks:
        model = _model(run, prepared, ranks)
        if method == "int8":
            files = replace(run.files, int8=True)
            count = quantise(model)
            if not count:
                what = "the layers of the run's model have no linear maps of their own"
                raise UserError(what, str(path), "--method int8 takes models with such layers")
            line = f"{count} matrices in 8 bits"
        else:
            files, line = _without_heads(run, model, prepared, settings, ranks)
        say(line)
        before = restore(
            run.config, run.found, prepared.tasks, run.files, prepared.encoder, ranks=ranks, say=say
        )
        record = {"method": method, "options": settings, **run.found.record()}
        return write_derived(
            RunFolder(to),
            _config(run.config, method, to),
            replace(prepared, files=files),
            # A tensor that two names share is written under both.
            {name: each.cpu().clone() for name, each in stored(model.state_dict()).items()},
            command=command,
            record={"compressed": record},
            log=f"made by --method {method} out of {record['run']}: {line}",
            say=say,
            measure=lambda _: {"compressed": _compared(run, to, before, prepared, ranks, method)},
        )


def _opened(path: Path, say: Callable[[str], None]) -> Opened:
    found = best_checkpoint.find(path)
    for notice in found.notices:
        say(notice)
    config = best_checkpoint.config_of(found, [], say)
    config = replaced(config, {"runner.devices": 1, "runner.engine": "ddp"})
    return Opened(found, config, BackboneFiles.load(found.run / "backbone"))


def _check(run: Opened, method: str, settings: dict[str, float]) -> None:
    """Raise UserError for a model that a method cannot make smaller."""
    at = str(run.found.run)
    if run.files.int8:
        what = "the matrices of the run's model are in 8 bits already"
        fix = "remove heads from the run that it was made of, and quantise the result"
        raise UserError(what, at, fix if method == "heads" else "")
    if method == "int8":
        return
    kind, sharing = run.files.architecture["model_type"], run.config.sharing.name
    if kind not in KINDS:
        what = f"the heads of a model of the kind {kind} cannot be removed"
        raise UserError(what, at, f"--method heads takes {', '.join(KINDS)}")
    if Start(run.config, run.found.tensors, at).prefix() is None:
        what = f"sharing={sharing} has added to the layers of the run's model, or keeps several"
        raise UserError(what, at, "--method heads takes runs with sharing=hard")
    left = heads_left(run.files.architecture)
    total = sum(map(len, left))
    if _removed(total, settings) > total - len(left) or not _removed(total, settings):
        what = (
            f"{_removed(total, settings)} of {count_of(total, 'head')} would be removed, and each "
            f"of {count_of(len(left), 'layer')} keeps one"
        )
        where = f"--remove {settings['remove']:g}"
        raise UserError(what, where, f"from 1 to {total - len(left)} heads can be removed")


def _removed(total: int, settings: dict[str, float]) -> int:
    """Return the number of heads, of `total`, that are removed."""
    return round(settings["remove"] * total)


def _splits(method: str) -> Callable[[TaskType[Any]], list[str]]:
    """Return what tells which splits of a task are read."""

    def splits(task: TaskType[Any]) -> list[str]:
        train = task.config.splits.train
        judged = [train] if method == "heads" and train else []
        return [*judged, *task.config.splits.validation, *calibration_splits(task)]

    return splits


def _config(config: Config, method: str, to: Path) -> Config:
    """Return the config of the new run. What has begun the run, and taught it, is not its own."""
    values: dict[str, Any] = {
        "init": Init(heads=[]),
        "augmentation": augmentations.configs["none"](),
        "run_dir": str(to),
    }
    if method == "int8":  # Everything but the products in 8 bits is computed in fp32.
        values["runner.precision"] = "fp32"
    return replaced(config, values)


def _model(run: Opened, prepared: Prepared, ranks: Ranks) -> MultiTaskModel:
    """Return the run's model with its weights, in evaluation mode, without anything that makes it
    faster."""
    folder = run.found.checkpoint.folder
    check_weights(without_numbers(run.config, prepared.tasks, run.files), run.found.tensors, folder)
    model = build_model(run.config, prepared.tasks, run.files, load_weights=False)
    restore_weights(model, run.found.tensors, folder)
    return model.to(ranks.device).eval().requires_grad_(False)


def _without_heads(
    run: Opened,
    model: MultiTaskModel,
    prepared: Prepared,
    settings: dict[str, float],
    ranks: Ranks,
) -> tuple[BackboneFiles, str]:
    """Remove heads from a model, and return its backbone's files and a line about it."""
    layout = input_format(prepared.encoder, "fp32", ranks.device)
    found = []
    for name, features in prepared.train_features.items():
        doing(f"judging heads by {name}")
        generator = np.random.default_rng(folded(int(settings["seed"])))
        rows = generator.permutation(len(features.example_lengths))[: int(settings["rows"])]
        batches = (
            build_task_batch(
                prepared.tasks[name],
                features,
                rows[first : first + BATCH],
                input_format=layout,
                accumulation=1,
                ranks=ranks,
            )
            .micro[0]
            .to(ranks.device)
            for first in range(0, len(rows), BATCH)
        )
        found.append(importance(model, name, batches))
    before = heads_left(run.files.architecture)
    total = sum(map(len, before))
    kept = kept_heads(over_tasks(found), _removed(total, settings))
    prune(model.trunk.backbone.network, kept)
    left = [[layer[head] for head in heads] for layer, heads in zip(before, kept, strict=True)]
    every = range(run.files.architecture["num_attention_heads"])
    gone = {
        str(number): lacking
        for number, heads in enumerate(left)
        if (lacking := [head for head in every if head not in heads])
    }
    counts = ", ".join(str(len(heads)) for heads in left)
    line = f"{sum(map(len, left))} of {total} heads are left, by layer {counts}"
    return replace(run.files, architecture=run.files.architecture | {FIELD: gone}), line


def _compared(
    run: Opened, to: Path, before: SavedModel, prepared: Prepared, ranks: Ranks, method: str
) -> dict[str, Any]:
    """Return what results.json says about the model before and after."""
    found = best_checkpoint.find(to)
    config = best_checkpoint.config_of(found, [], lambda line: None)
    files = BackboneFiles.load(to / "backbone")
    after = restore(
        config, found, prepared.tasks, files, prepared.encoder, ranks=ranks, say=lambda line: None
    )
    validation = {name: task.config.splits.validation for name, task in prepared.tasks.items()}
    splits = prepared.splits(validation)
    doing("evaluating the run's own model")
    results, _ = evaluate(
        before.model,
        splits,
        calibration=prepared.calibration,
        step=run.found.checkpoint.step,
        eval_batch_size=run.config.runner.eval_batch_size,
        input_format=before.input_format,
        bf16=before.precision == "bf16",
        ranks=ranks,
    )
    speed = examples_per_second(
        [before, after],
        {name: next(iter(parts.values())).features for name, parts in splits.items()},
        batch_size=config.runner.eval_batch_size,
        device=ranks.device,
    )
    folders = (run.found.checkpoint.folder, found.checkpoint.folder)
    return {
        "method": method,
        "before": {
            "tasks": {name: entry["main"] for name, entry in results["tasks"].items()},
            "average": results["average"],
        },
        "bytes": [(folder / "model.safetensors").stat().st_size for folder in folders],
        "parameters": [each.model.parameter_counts()["total"] for each in (before, after)],
        "precision": [before.precision, after.precision],
        "examples_per_s": speed,
    }


def describe(results: dict[str, Any]) -> list[str]:
    """Return a line for the score of each task, the size and the speed, before and after."""
    found = results["compressed"]
    lines = [
        f"{name}: {found['before']['tasks'][name]:.4f} before, {entry['main']:.4f} now"
        for name, entry in results["tasks"].items()
        if entry["main"] is not None
    ]
    (old, new), (slow, fast) = found["bytes"], found["examples_per_s"]
    before, after = found["parameters"]
    return [
        *lines,
        f"size: {old / 1e6:.2f} MB before, {new / 1e6:.2f} MB now ({new / old:.0%}), "
        f"{before:,} and {after:,} parameters",
        f"speed: {slow:,.0f} examples/s before, {fast:,.0f} now ({fast / slow:.2f} times), medians",
    ]
