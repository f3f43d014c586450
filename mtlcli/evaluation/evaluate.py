"""Evaluation: the outputs for a split, shared out over ranks, then predictions and metrics on the
first rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtlcli.config.run import EvalBatchSize
from mtlcli.config.task import CALIBRATION
from mtlcli.data.batches import Batch, InputFormat, collate, evaluation_batches, uploaded
from mtlcli.data.features import Features, Split
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import NotFinite
from mtlcli.metrics import compute, signature
from mtlcli.metrics.glue import glue_average
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.shards import is_shard
from mtlcli.pulse import doing
from mtlcli.tasks.base import FIXED, Outputs, TaskType


@dataclass
class Scores:
    """The result of one task on one split."""

    metrics: dict[str, float]
    """The scores of every metric by key; empty when the split has no labels."""
    majority: float | None
    """The score of the best constant prediction under the main metric; None without labels."""
    predictions: list[Any]
    """One prediction per table row."""
    scored: int
    """Number of table rows that the metrics are computed over: the rows with a label."""


def outputs_of(
    model: MultiTaskModel,
    name: str,
    features: Features,
    *,
    batch_size: EvalBatchSize,
    input_format: InputFormat,
    bf16: bool,
    ranks: Ranks,
    on_batch: Callable[[], None] = lambda: None,
    what: str = "evaluating",
) -> Outputs:
    """Return, on every rank, the outputs of the head of task `name` for every feature; see
    `outputs_together`."""
    return outputs_together(
        model,
        {name: features},
        batch_size=batch_size,
        input_format=input_format,
        bf16=bf16,
        ranks=ranks,
        on_batch=on_batch,
        what=what,
    )[name]


@torch.no_grad()
def outputs_together(
    model: MultiTaskModel,
    inputs: Mapping[str, Features],
    *,
    batch_size: EvalBatchSize,
    input_format: InputFormat,
    bf16: bool,
    ranks: Ranks,
    on_batch: Callable[[], None] = lambda: None,
    what: str = "evaluating",
) -> dict[str, Outputs]:
    """Return, on every rank, the outputs of the heads of some tasks, by task, for every feature.
    Each feature is computed by exactly one rank.

    `inputs`: the features of each task. Those of several tasks have the same tokens, and the tasks
    share the trunk's states (`MultiTaskModel.one_pass`), which are computed once. Batches are
    formed before they are shared out, so that the result does not depend on the number of ranks.
    """
    tasks = {name: model.tasks[name] for name in inputs}
    features = next(iter(inputs.values()))
    model.eval()
    arrays: dict[str, dict[str, torch.Tensor]] = {name: {} for name in inputs}
    visits = torch.zeros(len(features), dtype=torch.int32, device=ranks.device)
    batches = evaluation_batches(features.lengths, batch_size=batch_size, device=ranks.device)
    in_step = any(is_shard(parameter) for parameter in model.parameters())
    # Parameters that become whole in inference mode for the first time could not be trained later.
    mode = nullcontext if in_step else torch.inference_mode
    for first in range(0, len(batches), ranks.world_size):
        doing(what, first, len(batches), "batch")
        on_batch()
        own = first + ranks.rank
        if own >= len(batches) and not in_step:
            continue
        # Where parameters are shards, every rank has to run as many passes as any other, so a rank
        # without a batch runs the last one and drops what comes out.
        indices = batches[min(own, len(batches) - 1)]
        given = {}
        for name, each in inputs.items():
            batch = collate(each, indices, input_format=input_format, denominator=1.0)
            given[name] = tasks[name].drawn(batch, FIXED).to(ranks.device)
        with mode(), torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
            found = model.outputs_together(given)
        if own >= len(batches):
            continue
        for name, outputs in found.items():
            _keep(outputs, arrays[name], tasks[name], given[name], inputs[name], ranks)
        visits.index_add_(0, uploaded(indices, ranks.device), visits.new_ones(len(indices)))
    # A rank that had no batch does not know the names and shapes of the heads' outputs, so the
    # first rank broadcasts them.
    shapes = ranks.broadcast_json(
        {
            name: {key: list(value.shape) for key, value in kept.items()}
            for name, kept in arrays.items()
        }
    )
    for name, of_task in shapes.items():
        for key, shape in of_task.items():
            there = arrays[name].get(key, torch.zeros(shape, device=ranks.device))
            arrays[name][key] = ranks.all_reduce(there)
    assert bool((ranks.all_reduce(visits) == 1).all()), "every feature is evaluated exactly once"
    return {
        name: {key: arrays[name][key].cpu().numpy() for key in of_task}
        for name, of_task in shapes.items()
    }


def _keep(
    outputs: dict[str, torch.Tensor],
    arrays: dict[str, torch.Tensor],
    task: TaskType[Any],
    batch: Batch,
    features: Features,
    ranks: Ranks,
) -> None:
    """Put the outputs of a batch at the places of its features in the arrays of all features."""
    count = int(features.offsets[-1]) if task.token_outputs else len(features)
    where = batch.indices
    if task.token_outputs:
        where = _places(features.offsets[batch.indices], batch.lengths)
        rows = np.arange(len(batch)) * batch.input_ids.shape[1]
        tokens = uploaded(_places(rows, batch.lengths), ranks.device)
    # The host goes on to the next batch while a GPU computes this one.
    places = uploaded(where, ranks.device)
    for key, value in outputs.items():
        if key in task.constant_outputs:
            # The ranks' arrays are summed, so only the first rank, which has a batch in any case,
            # gives the value.
            arrays[key] = torch.zeros(value.shape, device=ranks.device)
            if ranks.is_main:
                arrays[key].copy_(value)
            continue
        if task.token_outputs:
            value = value.flatten(0, 1).index_select(0, tokens)
        if key not in arrays:
            arrays[key] = torch.zeros((count, *value.shape[1:]), device=ranks.device)
        arrays[key].index_copy_(0, places, value.float())


def _places(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of the tokens of some features, one feature after another. `starts`: the
    places of their first tokens."""
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + inside


def score(task: TaskType[Any], outputs: Outputs, split: Split) -> Scores:
    """Return the predictions for all rows of a split, and the metrics over the rows that have a
    label."""
    predictions = scored = task.decode(outputs, split.features, split.table)
    table = split.table
    references = task.references(table)
    if references is None:
        labelled = [row for row, gold in enumerate(task.gold(table)) if gold is not None]
        scored = [predictions[row] for row in labelled]
        table = table.select(np.array(labelled, np.int64))
        references = task.references(table) if labelled else None
    if references is None:
        return Scores({}, None, predictions, 0)
    metrics: dict[str, float] = {}
    for metric in task.metrics:
        inputs = task.metric_inputs(metric, scored) | task.row_inputs(metric, table)
        metrics.update(compute(metric, references=references, **inputs))
    main = task.metrics[0]
    majority = task.majority(references, main, **task.row_inputs(main, table))
    return Scores(metrics, majority, predictions, len(scored))


def evaluate(
    model: MultiTaskModel,
    splits: dict[str, dict[str, Split]],
    *,
    calibration: dict[str, Split],
    step: int,
    eval_batch_size: EvalBatchSize,
    input_format: InputFormat,
    bf16: bool,
    ranks: Ranks,
    on_split: Callable[[str, str], None] = lambda task, split: None,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, dict[str, Scores]]]:
    """Evaluate every split of every task. Returns the `tasks`, `average` and `glue_average` parts
    of results.json, and the scores with predictions.

    The first split of a task gives its main score; the keys of further splits end in the split's
    name: `accuracy/validation_mismatched`. Predictions and metrics are computed on the first rank
    and the numbers are broadcast; the scores are empty on the other ranks. `on_split` and
    `on_batch` are called equally often on every rank, `on_batch` even where a rank has no batch
    left. `calibration`: the rows on which some tasks first choose what their config leaves open.
    `step`: the number of updates that the model has had, for messages. Raises NotFinite when
    the model's outputs are not finite.
    """
    results: dict[str, Any] = {"tasks": {}, "average": None}
    scores: dict[str, dict[str, Scores]] = {}

    def outputs(name: str, split: str, part: Split) -> Outputs:
        on_split(name, split)
        found = outputs_of(
            model,
            name,
            part.features,
            batch_size=eval_batch_size,
            input_format=input_format,
            bf16=bf16,
            ranks=ranks,
            on_batch=on_batch,
            what=f"evaluating {name}/{split}",
        )
        doing(f"scoring {name}/{split}")
        return found

    for name, parts in splits.items():
        task = model.tasks[name]
        scores[name] = {}
        chosen: dict[str, float] = {}
        if name in calibration:
            found = outputs(name, CALIBRATION, calibration[name])
            if ranks.is_main:
                with _placed(step, CALIBRATION):
                    chosen = task.calibrate(found, calibration[name])
        for index, (split, part) in enumerate(parts.items()):
            found = outputs(name, split, part)
            if not ranks.is_main:
                continue
            with _placed(step, split):
                result = scores[name][split] = score(task, found, part)
            if index == 0:
                results["tasks"][name] = _task_results(task, result, part)
                if chosen:
                    results["tasks"][name]["calibrated"] = chosen
            else:
                results["tasks"][name]["metrics"] |= {
                    f"{key}/{split}": value for key, value in result.metrics.items()
                }
    mains = [entry["main"] for entry in results["tasks"].values() if entry["main"] is not None]
    results["average"] = sum(mains) / len(mains) if mains else None
    if (average := glue_average(results["tasks"])) is not None:
        results["glue_average"] = average
    return ranks.broadcast_json(results), scores


@contextmanager
def _placed(step: int, split: str) -> Iterator[None]:
    """Add the step and the split to the place of an error about numbers that are not finite."""
    try:
        yield
    except NotFinite as error:
        raise NotFinite(
            [replace(each, where=f"step {step}, {each.where}, {split}") for each in error.problems]
        ) from error


def _task_results(task: TaskType[Any], scores: Scores, split: Split) -> dict[str, Any]:
    """Return a task's part of results.json from its first split."""
    main = next(iter(scores.metrics), None)
    found = {metric: signature(metric) for metric in task.metrics} if scores.metrics else {}
    signatures = {metric: text for metric, text in found.items() if text is not None}
    return {
        "metrics": dict(scores.metrics),
        "main_metric": main,
        "main": scores.metrics[main] if main else None,
        "examples": scores.scored if scores.metrics else len(split.table),
        "majority": scores.majority,
    } | ({"signatures": signatures} if signatures else {})
