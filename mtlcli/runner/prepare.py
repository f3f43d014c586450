"""From a validated config to encoded data: tables are read and checked, a backbone and its tokenizer found, texts encoded.

Nothing is written but the cache of encoded texts, so that whatever is wrong with the input is said before a run exists.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.data.checks import check_tables
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, Split
from mtlcli.data.source import DataSource, open_source
from mtlcli.data.store import default_cache, open_features
from mtlcli.data.table import Table
from mtlcli.errors import Problem, RunWarning, UserError
from mtlcli.evaluation.metrics import OUTSIDE
from mtlcli.models.files import BackboneFiles, find_backbone
from mtlcli.tasks.base import TaskType, build_tasks


@dataclass
class Prepared:
    """What training and evaluation start from."""

    tasks: dict[str, TaskType[Any]]
    """Task types by name."""
    source: DataSource
    """Where the rows came from."""
    tables: dict[str, dict[str, Table]]
    """task -> split -> rows."""
    features: dict[str, dict[str, Features]]
    """task -> split -> encoded rows."""
    files: BackboneFiles
    """The backbone's architecture and tokenizer."""
    encoder: TextEncoder
    """The backbone's text encoder."""
    notices: list[str]
    """What the user should hear of before the run starts."""

    def splits(self, parts: dict[str, list[str]]) -> dict[str, dict[str, Split]]:
        """Tables and features of the named splits of each task; tasks without any are left out."""
        return {
            name: {split: Split(self.tables[name][split], self.features[name][split]) for split in names}
            for name, names in parts.items()
            if names
        }


def train_splits(task: TaskType[Any]) -> list[str]:
    """The splits of a task that training reads: train, then validation."""
    train = task.config.splits.train
    return ([train] if train else []) + task.config.splits.validation


def prepare(
    config: Config,
    *,
    files: BackboneFiles | None = None,
    splits: Callable[[TaskType[Any]], list[str]] = train_splits,
) -> Prepared:
    """Read, check and encode `splits` of every task. `files`: the backbone of a run that exists; None: find it from the config.

    Raises UserError with everything that is wrong with the data of all tasks.
    """
    tasks = build_tasks(config.tasks)
    source = open_source(config.data, {name: config.tasks[name] for name, task in tasks.items() if splits(task)}, config.seed)
    problems = _foreign_metrics(tasks)
    tables: dict[str, dict[str, Table]] = {}
    for name, task in tasks.items():
        tables[name] = {}
        for split in splits(task):
            try:
                tables[name][split] = source.read(name, split)
            except UserError as error:
                problems += error.problems
    found, notices = check_tables(tasks, tables)
    problems += found
    if problems:
        raise UserError(problems)
    if drawn := source.drawn():
        notices.insert(0, drawn)

    def texts() -> list[str]:
        return [text for name, parts in tables.items() for split in parts if split == tasks[name].config.splits.train
                for text in tasks[name].texts(parts[split])]  # fmt: skip

    files = files or find_backbone(config.model, texts)
    encoder = files.encoder()
    longest = files.model_max_length
    wanted = {"data.max_length": config.data.max_length} | {
        f"tasks.{name}.max_length": task.config.max_length for name, task in tasks.items() if task.config.max_length
    }
    too_long = [
        Problem(f"{key}={length}, but the model takes {longest} tokens", where=key, fix=f"type {key}={longest}")
        for key, length in wanted.items()
        if longest is not None and length > longest
    ]
    if too_long:
        raise UserError(too_long)
    for task in tasks.values():
        task.config.max_length = task.config.max_length or config.data.max_length
    cache = Path(config.data.cache_dir) if config.data.cache_dir else default_cache()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", RunWarning)
        features = {
            name: {split: open_features(table, tasks[name], encoder, cache) for split, table in parts.items()}
            for name, parts in tables.items()
        }
    notices += [f"warning: {each.message}" for each in heard if issubclass(each.category, RunWarning)]
    for name, parts in features.items():
        for split, encoded in parts.items():
            notes = dict(encoded.notes)
            if cut := notes.pop("questions cut", 0):
                rows, table = encoded.noted["questions cut"], tables[name][split]
                what = f"the question is cut to its first {config.tasks[name].max_question_length} tokens{table.others(rows, cut)}"
                fix = f"raise tasks.{name}.max_question_length, or shorten the question"
                notices.append(f"warning: {Problem(what, table.where(rows[0]), fix).of_task(name)}")
            told = ", ".join(f"{count} {what}" for what, count in notes.items() if count)
            if told:
                notices.append(f"{name}/{split}: {told}")
    return Prepared(tasks, source, tables, features, files, encoder, notices)


def _foreign_metrics(tasks: dict[str, TaskType[Any]]) -> list[Problem]:
    """Metrics of the package `evaluate` that cannot be loaded, or cannot score their task."""
    problems: list[Problem] = []
    for name, task in tasks.items():
        for metric in task.metrics:
            if metric.startswith(OUTSIDE):
                from mtlcli.evaluation.metrics.outside import check

                try:
                    check(metric, task.config.type)
                except UserError as error:
                    problems += [replace(problem, where=f"tasks.{name}.metrics: {metric}") for problem in error.problems]
    return problems
