"""Preparation of a run, from a validated config to encoded data: tables are read and checked, a
backbone and its tokenizer are found, and texts are encoded.

The cache of encoded texts is the only thing written, so that every fault of the input is reported
before a run exists.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.changes import has_dropout
from mtlcli.config.families import family_problems
from mtlcli.config.paths import default_cache
from mtlcli.config.task import CALIBRATION
from mtlcli.config.text import settle_templates, text_tasks
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, Split
from mtlcli.data.source import DataSource, open_source
from mtlcli.data.table import Table
from mtlcli.errors import Problem, RunWarning, UserError, count_of
from mtlcli.metrics import OUTSIDE, absent_packages
from mtlcli.models.files import BackboneFiles, changed_scores
from mtlcli.models.find import find_backbone
from mtlcli.prepare.checks import check_tables
from mtlcli.prepare.store import open_features
from mtlcli.pulse import doing
from mtlcli.tasks.base import TaskType, build_tasks
from mtlcli.tasks.text_form.task import TextForm


@dataclass
class Prepared:
    """All that training and evaluation start from."""

    tasks: dict[str, TaskType[Any]]
    """The tasks by name."""
    source: DataSource
    """The source that the rows were read from."""
    tables: dict[str, dict[str, Table]]
    """task -> split -> table rows."""
    features: dict[str, dict[str, Features]]
    """task -> split -> encoded table rows."""
    files: BackboneFiles
    """The backbone's architecture and tokenizer."""
    encoder: TextEncoder
    """The backbone's text encoder."""
    notices: list[str]
    """Lines to show before the run starts."""
    details: list[str]
    """Lines for log.txt alone."""

    @property
    def train_features(self) -> dict[str, Features]:
        """The encoded train split of every task that has one."""
        trained = {name: task.config.splits.train for name, task in self.tasks.items()}
        return {name: self.features[name][split] for name, split in trained.items() if split}

    @property
    def calibration(self) -> dict[str, Split]:
        """The rows for calibration of every task that needs them."""
        return {
            name: Split(self.tables[name][CALIBRATION], self.features[name][CALIBRATION])
            for name, task in self.tasks.items()
            if task.config.calibrates and CALIBRATION in self.tables[name]
        }

    def describe(self, config: Config) -> list[str]:
        """Return lines on what a run is made of."""
        model = self.files.location or "built from scratch, tokenizer trained on the tasks' text"
        if config.init.from_ is not None:
            model = "that of the run whose weights are taken"
        return [
            f"data      {self.source.describe()}",
            f"model     {model}",
            f"tasks     {', '.join(config.tasks)}",
            f"methods   sharing={config.sharing.name} weighting={config.weighting.name} "
            f"sampling={config.sampling.name}",
        ]

    def splits(self, parts: dict[str, list[str]]) -> dict[str, dict[str, Split]]:
        """Return the tables and features of the named splits of each task. Tasks without any named
        split are left out."""
        return {
            name: {
                split: Split(self.tables[name][split], self.features[name][split])
                for split in names
            }
            for name, names in parts.items()
            if names
        }


SHORTEST = 8
"""The least value that `data.max_length` accepts."""

_shown: set[str] = set()
"""The warnings about doubtful rows that this process has already shown."""


def train_splits(task: TaskType[Any]) -> list[str]:
    """Return the splits of a task that training reads: the train split, then the validation
    splits, then the rows for calibration."""
    train = task.config.splits.train
    return ([train] if train else []) + task.config.splits.validation + calibration_splits(task)


def calibration_splits(task: TaskType[Any]) -> list[str]:
    """Return the split that an evaluation of a task reads beside those it scores, or nothing."""
    return [CALIBRATION] if task.config.calibrates else []


def prepare(
    config: Config,
    *,
    files: BackboneFiles | None = None,
    splits: Callable[[TaskType[Any]], list[str]] = train_splits,
    unlabelled: bool = False,
) -> Prepared:
    """Read, check and encode `splits` of every task. `files`: the backbone of an existing run; None
    means that the backbone is found from the config. `unlabelled`: whether rows that have their
    texts but no label take part where a task would leave them out.

    Raises UserError with every fault of the data of all tasks, and when there is not enough memory
    for the data.
    """
    try:
        return _prepare(config, files, splits, unlabelled)
    except MemoryError as error:
        fix = "use a machine with more memory, fewer rows (data.max_train_rows=N) or fewer tasks"
        raise UserError("the rows of the tasks do not fit into memory", fix=fix) from error


def _prepare(
    config: Config,
    files: BackboneFiles | None,
    splits: Callable[[TaskType[Any]], list[str]],
    unlabelled: bool,
) -> Prepared:
    formed = config.formed_tasks
    tasks = build_tasks(formed, config.text)
    source = open_source(
        config.data,
        {name: formed[name] for name, task in tasks.items() if splits(task)},
        config.seed,
    )
    wanted = [(name, split) for name, task in tasks.items() for split in splits(task)]
    tables, problems = _read(source, tasks, wanted, unlabelled)
    found, doubts = check_tables(tasks, tables, doubts=config.data.warnings != "off")
    if problems := [*_absent_metrics(tasks), *_foreign_metrics(tasks), *problems, *found]:
        raise UserError(problems)
    doing("finding the model and its tokenizer")
    if files is None:
        files = find_backbone(config.model, lambda: _train_texts(tasks, tables))
        _require_pretrained(config, files)
    _require_dropout(config, files)
    encoder = fit_tasks(config, tasks, files)
    features, warned = _encode(config, tasks, tables, wanted, encoder)
    doing("preparing the run")
    for name, parts in features.items() if config.data.warnings != "off" else ():
        for split, encoded in parts.items():
            cuts = _cuts(config, tasks[name], tables[name][split], encoded)
            if cuts:
                doubts.setdefault(name, []).extend(problem.of_task(name) for problem in cuts)
    lines = (
        *(source.left_out(), *source.removed(), source.unscored(), source.drawn()),
        source.in_folds(),
    )
    counted = [line for line in lines if line]
    shown, details = _doubt_lines(config, doubts)
    notices = counted + warned + shown
    return Prepared(tasks, source, tables, features, files, encoder, notices, details)


def fit_tasks(config: Config, tasks: dict[str, TaskType[Any]], files: BackboneFiles) -> TextEncoder:
    """Give the tasks the model's tokenizer and their longest inputs, and return the tokenizer.

    Raises UserError with what the tasks ask of the model that it cannot do.
    """
    _require_family(config, files)
    if problems := _too_long(config, tasks, files.model_max_length):
        raise UserError(problems)
    text = settle_templates(config.text, pretrained=files.location is not None)
    for task in tasks.values():
        task.config = replace(
            task.config, max_length=task.config.max_length or config.data.max_length
        )
        if isinstance(task, TextForm):
            task.text = text
    encoder = files.encoder()
    if problems := [
        problem
        for task in tasks.values()
        for problem in task.use(encoder, has_decoder=files.has_decoder)
    ]:
        raise UserError(problems)
    return encoder


def _require_dropout(config: Config, files: BackboneFiles) -> None:
    """Raise UserError when the augmentation does nothing without dropout, and the model has
    none."""
    if config.augmentation.needs_dropout and not has_dropout(config, files.architecture):
        name = config.augmentation.name
        raise UserError(
            f"augmentation={name} compares passes with different dropout, and the model has none",
            "augmentation",
            "type model.dropout=0.1, or augmentation=none",
        )


def _require_family(config: Config, files: BackboneFiles) -> None:
    """Raise UserError when the tasks or the sharing strategy need another model."""
    at = "model.architecture" if files.location is None else "model.name"
    problems = list(family_problems(config, files.family, at))
    texts = list(text_tasks(config))
    if texts and (why := changed_scores(files)) is not None:
        what = f"tasks.{texts[0]} is answered in text (form=text), and the model {why}"
        fix = "choose another language model (GPT-2, Llama, Qwen, SmolLM, T5), or type form=head"
        problems.append(Problem(what, at, fix))
    if problems:
        raise UserError(problems)


def _require_pretrained(config: Config, files: BackboneFiles) -> None:
    """Raise UserError when the backbone of a new run would keep its random weights."""
    if files.location is None and config.sharing.keeps_backbone():
        raise UserError(
            "the model is built from scratch, so the backbone would keep random weights",
            "sharing.frozen",
            "choose a pretrained model (model=bert, or model=pretrained model.name=FOLDER), or "
            "type sharing.frozen=false",
        )


def _read(
    source: DataSource,
    tasks: dict[str, TaskType[Any]],
    wanted: list[tuple[str, str]],
    unlabelled: bool,
) -> tuple[dict[str, dict[str, Table]], list[Problem]]:
    """Return the tables of the wanted splits, by task and split, and the problems of those that
    cannot be read."""
    tables: dict[str, dict[str, Table]] = {name: {} for name in tasks}
    problems: list[Problem] = []
    for number, (name, split) in enumerate(wanted):
        doing(f"reading {name}/{split}", number, len(wanted), "split")
        try:
            tables[name][split] = source.read(
                name,
                split,
                tasks[name].labelled,
                keep=tasks[name].has_input if unlabelled else None,
                inputs=tasks[name].compared_columns,
            )
        except UserError as error:
            # Train is compared with splits that are read on their own, too.
            problems += [problem for problem in error.problems if problem not in problems]
    source.release()
    return tables, problems


def _train_texts(
    tasks: dict[str, TaskType[Any]], tables: dict[str, dict[str, Table]]
) -> Iterator[str]:
    """Yield the texts of all train splits, on which a from-scratch tokenizer is trained."""
    for name, parts in tables.items():
        for split in parts:
            if split == tasks[name].config.splits.train:
                for part in parts[split].parts():
                    yield from tasks[name].texts(part)


def _too_long(
    config: Config, tasks: dict[str, TaskType[Any]], longest: int | None
) -> list[Problem]:
    """Return a problem for each limit of tokens that is above what the model takes. `longest`: what
    it takes; None: any length."""
    front = config.sharing.tokens_in_front()
    if longest is None:
        return []
    takes = f"the model takes {count_of(longest, 'token')}"
    if front:
        takes += f", of which sharing={config.sharing.name} needs {front}"
        longest -= front
    limits = {"data.max_length": config.data.max_length} | {
        f"tasks.{name}.max_length": task.config.max_length
        for name, task in tasks.items()
        if task.config.max_length
    }
    return [
        Problem(
            f"{key}={length}, but {takes}",
            where=key,
            fix=f"type {key}={longest}"
            if longest >= SHORTEST
            else "lower sharing.length"
            if front
            else "choose another model: no input of a task is so short",
        )
        for key, length in limits.items()
        if length > longest
    ]


def _encode(
    config: Config,
    tasks: dict[str, TaskType[Any]],
    tables: dict[str, dict[str, Table]],
    wanted: list[tuple[str, str]],
    encoder: TextEncoder,
) -> tuple[dict[str, dict[str, Features]], list[str]]:
    """Return the encoded splits, by task and split, and lines about the cache of encoded texts."""
    cache = Path(config.data.cache_dir) if config.data.cache_dir else default_cache()
    features: dict[str, dict[str, Features]] = {name: {} for name in tables}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", RunWarning)
        for number, (name, split) in enumerate(wanted):
            doing(f"encoding {name}/{split}", number, len(wanted), "split")
            features[name][split] = open_features(tables[name][split], tasks[name], encoder, cache)
    return features, [
        f"warning: {each.message}" for each in heard if issubclass(each.category, RunWarning)
    ]


def _doubt_lines(config: Config, doubts: dict[str, list[Problem]]) -> tuple[list[str], list[str]]:
    """Return the lines about doubtful rows that are shown, and those for log.txt alone."""
    every = [f"warning: {problem}" for found in doubts.values() for problem in found]
    if config.data.warnings != "summary":
        return every, []
    lines = summary(doubts)
    # The jobs of a sweep have the same tasks, so their warnings are shown once.
    again = [line for line in lines if line in _shown]
    new = [line for line in lines if line not in _shown]
    _shown.update(lines)
    return new, every + again


def _cuts(config: Config, task: TaskType[Any], table: Table, encoded: Features) -> list[Problem]:
    """Return warnings about what did not fit into a task's limits when a split was encoded."""
    found = []
    for what, count in encoded.notes.items():
        if count and (problem := task.note(what, table, encoded)) is not None:
            found.append(problem)
        elif what == "truncated" and count:
            key = (
                f"tasks.{task.name}.max_length"
                if config.tasks[task.name].max_length
                else "data.max_length"
            )
            verb = "is" if count == 1 else "are"
            text = (
                f"{count:,} of {count_of(len(encoded), 'input')} {verb} cut to "
                f"{task.max_length} tokens"
            )
            found.append(
                Problem(
                    text,
                    table.origin,
                    f"raise {key} if what is cut off matters",
                    f"{table.split}: {text}",
                )
            )
        elif count:
            found.append(
                Problem(f"{count:,} {what}", table.origin, brief=f"{table.split}: {count:,} {what}")
            )
    return found


def summary(doubts: dict[str, list[Problem]]) -> list[str]:
    """Return one line for each task with warnings, and a line that says where more can be read."""
    lines = []
    for name, found in doubts.items():
        told = [problem.brief or problem.what.removeprefix(f"task {name}: ") for problem in found]
        lines.append(f"warning: {name}: {'; '.join(told)}")
    more = (
        "mtl tasks NAME (or FILE.yaml, for a task of your own) and the run's log.txt list these "
        "rows; data.warnings=all shows them here, off skips this check"
    )
    return [*lines, more] if lines else []


def _absent_metrics(tasks: dict[str, TaskType[Any]]) -> list[Problem]:
    """Return the problems of metrics whose packages are not installed."""
    return [
        Problem(
            f"metric '{metric}' needs {' and '.join(absent)}, which "
            f"{'is' if len(absent) == 1 else 'are'} not installed",
            f"tasks.{name}.metrics",
            "type pip install 'mtlcli[generation]', or name other metrics",
        )
        for name, task in tasks.items()
        for metric in task.metrics
        if (absent := absent_packages(metric))
    ]


def _foreign_metrics(tasks: dict[str, TaskType[Any]]) -> list[Problem]:
    """Return the problems of metrics of the package `evaluate` that cannot be loaded, or cannot
    score their task."""
    problems: list[Problem] = []
    for name, task in tasks.items():
        for metric in task.metrics:
            if metric.startswith(OUTSIDE):
                from mtlcli.metrics.outside import check

                try:
                    check(metric, task.config.type, *task.example)
                except UserError as error:
                    problems += [
                        replace(problem, where=f"tasks.{name}.metrics: {metric}")
                        for problem in error.problems
                    ]
    return problems
