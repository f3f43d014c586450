"""The sources of the tasks' rows: the hub, files on this machine, or the built-in sample world."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.config.formats import ENDINGS, NAMED, split_name
from mtlcli.config.run import Data
from mtlcli.config.task import Task
from mtlcli.data.draw import draw
from mtlcli.data.parquet import plain_rows
from mtlcli.data.read import read_file, refuse_headers, rows_fingerprint
from mtlcli.data.table import ID_COLUMNS, Table
from mtlcli.disk import sha256
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest

Kind = Literal["hub", "local", "sample"]
Rows = Callable[[Table], NDArray[np.bool_]]
"""A function that returns which rows of a table belong to a certain kind: (rows,)."""
HUB_SECONDS = 2.0


@dataclass(frozen=True)
class Choice:
    """The kind of source that the rows of a task come from, and why."""

    kind: Kind
    """`hub`, `local` or `sample`."""
    reason: str
    """The reason for this kind, for the user."""
    by_default: bool = False
    """Whether the kind comes from `data.source` and not from the task itself."""


@dataclass(frozen=True)
class ReadSplit:
    """The record of a split that a run has read. Two splits are the same data if their content is
    the same, wherever the files are."""

    origin: str
    """File, or a name such as `hub:nyu-mll/glue/cola/train`."""
    fingerprint: str
    """SHA-256 of the file's bytes, or of the rows of a hub or sample table."""
    rows: int
    """Number of rows that take part."""
    total: int
    """Number of rows of the split, before `data.max_train_rows` or `data.max_eval_rows`."""
    unlabelled: int = 0
    """Number of rows that are left out because they have no label."""
    kept: int = 0
    """Number of rows without a label that take part all the same, because a prediction is wanted
    for each."""

    def counts(self) -> dict[str, int]:
        """Return the numbers for results.json: `used`, the rows that are trained on or scored;
        `of`, all rows; and `unlabelled`, the rows without a label, if there are any."""
        without = self.unlabelled + self.kept
        return {"used": self.rows - self.kept, "of": self.total} | (
            {"unlabelled": without} if without else {}
        )


class DataSource:
    """The reader of the splits of a run's tasks, each from its own kind of source."""

    def __init__(
        self, choices: Mapping[str, Choice], data: Data, tasks: Mapping[str, Task], seed: int
    ) -> None:
        self.choices = choices
        """The kind of source and its reason, by task."""
        self._data = data
        self._tasks = tasks
        self._seed = seed
        self._fingerprints: dict[str, str] = {}
        self._read: dict[str, dict[str, ReadSplit]] = {name: {} for name in tasks}

    @property
    def kind(self) -> str:
        """`hub`, `local` or `sample`; `mixed` if the kinds of the tasks differ."""
        kinds = {choice.kind for choice in self.choices.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def default(self) -> Kind | None:
        """The kind that `data.source` stands for; None if every task names its own source."""
        return next((choice.kind for choice in self.choices.values() if choice.by_default), None)

    def describe(self) -> str:
        """Return where the rows come from, for the user: one kind and its reason, or the kinds that
        are mixed."""
        names: dict[str, list[str]] = {}
        for name, choice in self.choices.items():
            names.setdefault(f"{choice.kind}: {choice.reason}", []).append(name)
        if len(names) == 1:
            return next(iter(names))
        return "mixed: " + "; ".join(
            f"{', '.join(tasks)} from {where}" for where, tasks in names.items()
        )

    def read(
        self, task: str, split: str, labelled: Rows | None = None, *, keep: Rows | None = None
    ) -> Table:
        """Return the rows of one split, or those drawn from them for `data.max_train_rows` or
        `data.max_eval_rows`.

        `labelled`: which rows have a label. If the task's `unlabelled` is `skip`, the other rows
        are left out before rows are drawn. `keep`: which of those other rows are not left out.
        Raises UserError when the split cannot be read.
        """
        config = self._tasks[task]
        reader = {"hub": self._read_hub, "local": self._read_local, "sample": self._read_sample}[
            self.choices[task].kind
        ]
        try:
            table = reader(task, config, split)
        except UserError as error:
            raise UserError(problem.of_task(task) for problem in error.problems) from error
        fingerprint, total = self._fingerprints[table.origin], len(table)
        partly: Rows | None = None
        if config.unlabelled == "skip" and labelled is not None:
            has = labelled(table)
            # A split without any label has no rows to skip: either the data set has no labels, or
            # the column is named wrongly.
            if 0 < np.count_nonzero(has) < total:
                table = table.select(np.flatnonzero(has if keep is None else has | keep(table)))
                partly = None if keep is None else labelled
        unlabelled = total - len(table)
        table = self._drawn(task, config, table)
        kept = 0 if partly is None else len(table) - int(np.count_nonzero(partly(table)))
        self._read[task][split] = ReadSplit(
            table.origin, fingerprint, len(table), total, unlabelled, kept
        )
        return table

    def _drawn(self, task: str, config: Task, table: Table) -> Table:
        limit = (
            self._data.max_train_rows
            if table.split == config.splits.train
            else self._data.max_eval_rows
        )
        if limit is None or limit >= len(table):
            return table
        column = config.class_column
        classes = None
        # Lists and objects are no labels; the check of the task reports them later.
        if (
            column is not None
            and column in table.rows.column_names
            and not pa.types.is_nested(table.rows.column(column).type)
        ):
            classes = table.column(column)
        learns = table.split == config.splits.train and config.learns_classes
        if learns and classes is not None and limit < (count := len(set(classes) - {None, ""})):
            what = (
                f"{limit} rows of {len(table):,} cannot have all {count} labels of column "
                f"'{column}', from which the classes are learned"
            )
            fix = f"give {count} or more, or name the classes in tasks.{task}.labels"
            raise UserError(Problem(what, "data.max_train_rows", fix).of_task(task))
        rows = draw(
            len(table), limit, key=f"rows {self._seed} {task} {table.split}", classes=classes
        )
        return table.select(rows)

    def record(self) -> dict[str, Any]:
        """Return what was read so far, in the form of environment.json: for each task its kind of
        source and its splits."""
        return {
            name: {
                "source": choice.kind,
                "reason": choice.reason,
                "splits": {split: asdict(read) for split, read in self._read[name].items()},
            }
            for name, choice in self.choices.items()
        }

    def note(self, results: dict[str, Any], parts: Mapping[str, Iterable[str]]) -> None:
        """Add to the results of each task the kind of its source and, for its splits in `parts`,
        the number of rows that were scored and of all rows."""
        for name, entry in results["tasks"].items():
            entry["source"] = self.choices[name].kind
            entry["rows"] = {split: self._read[name][split].counts() for split in parts[name]}

    def train_rows(self) -> dict[str, dict[str, int]]:
        """Return for each task the number of rows that it is trained on, and of all rows of its
        train split."""
        trains = {name: self._tasks[name].splits.train for name in self._tasks}
        return {
            name: self._read[name][split].counts()
            for name, split in trains.items()
            if split in self._read[name]
        }

    def drawn(self) -> str | None:
        """Return one line on the splits of which only some rows take part; None when all rows take
        part."""
        return self._line(
            f"rows drawn at random (seed {self._seed})",
            lambda read: read.rows < read.total - read.unlabelled,
            lambda read: (read.rows, read.total - read.unlabelled),
        )

    def left_out(self) -> str | None:
        """Return one line on the splits from which rows without a label are left out; None when
        there is no such split."""
        return self._line(
            "rows left out because they have no label",
            lambda read: read.unlabelled > 0,
            lambda read: (read.unlabelled, read.total),
        )

    def unscored(self) -> str | None:
        """Return one line on the splits with rows that are predicted but, without a label, cannot
        be scored; None when there is no such split."""
        return self._line(
            "rows without a label are predicted, but only the others scored",
            lambda read: read.kept > 0,
            lambda read: (read.rows - read.kept, read.rows),
        )

    def _line(
        self,
        what: str,
        concerns: Callable[[ReadSplit], bool],
        counts: Callable[[ReadSplit], tuple[int, int]],
    ) -> str | None:
        """Return `what` and, for each split that it concerns, how many rows of how many."""
        parts = []
        for name, splits in self._read.items():
            some = []
            for split, read in splits.items():
                if concerns(read):
                    count, total = counts(read)
                    some.append(f"{split} {count:,} of {total:,}")
            parts += [f"{name} {', '.join(some)}"] if some else []
        return f"{what}: {'; '.join(parts)}" if parts else None

    def splits(self, task: str) -> list[str]:
        """Return the names of the splits that a task's source has. Raises UserError when they
        cannot be listed."""
        source, kind = self._tasks[task].source, self.choices[task].kind
        if source.files is not None:
            return list(source.files)
        if kind == "sample":
            from mtlcli.data.sample import sample_paths

            return sample_paths().get(source.path or "", [])
        if kind == "hub":
            assert source.hub is not None  # open_source has checked this
            return _hub_splits(task, source.hub, source.hub_config)
        return _splits_in(self._folder(task, self._tasks[task]))

    def _read_local(self, task: str, config: Task, split: str) -> Table:
        path = self._file(task, config, split)
        table = read_file(path, split, _columns(config))
        self._fingerprints[table.origin] = sha256(path)
        return table

    def _file(self, task: str, config: Task, split: str) -> Path:
        files = config.source.files
        if files is not None:
            if split not in files:
                raise UserError(
                    f"no file is named for split '{split}'",
                    f"tasks.{task}.source.files",
                    suggest(split, files),
                )
            return Path(files[split])
        folder = self._folder(task, config)
        found = [path for kind in ENDINGS if (path := folder / f"{split}.{kind}").is_file()]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(
                f"{names} both exist: which one do you mean?", str(folder), "move all but one away"
            )
        if found:
            return found[0]
        looked_for = f"{folder / split}.*"
        if not folder.is_dir():
            raise UserError(
                f"the folder {folder} does not exist",
                looked_for,
                "check data.root; it holds one folder per task",
            )
        splits = _splits_in(folder)
        there = f"the folder holds no file that ends in {NAMED}"
        if splits:
            there = f"in this folder: {suggest(split, splits)}; set tasks.{task}.splits"
        raise UserError(f"there is no split '{split}'", looked_for, there)

    def _folder(self, task: str, config: Task) -> Path:
        assert self._data.root is not None  # open_source has checked this
        if config.source.path is None:
            raise UserError(
                "the task has no folder below data.root",
                f"tasks.{task}.source.path",
                f"set tasks.{task}.source.path or .files",
            )
        return Path(self._data.root) / config.source.path

    def _read_hub(self, task: str, config: Task, split: str) -> Table:
        source = config.source
        assert source.hub is not None  # open_source has checked this
        rows = _hub_rows(task, source.hub, source.hub_config, split)
        origin = "hub:" + "/".join(part for part in (source.hub, source.hub_config, split) if part)
        self._fingerprints[origin] = rows_fingerprint(rows)
        columns = _columns(config)
        needed = [name for name in rows.column_names if name in (*columns, *ID_COLUMNS)]
        plain = plain_rows(rows.select(needed), origin, columns)
        table = Table(plain, origin, split, names=rows.column_names)
        refuse_headers(table)
        return table

    def _read_sample(self, task: str, config: Task, split: str) -> Table:
        from mtlcli.data.sample import sample_paths, sample_table

        path, paths = config.source.path, sample_paths()
        if path is None or path not in paths:
            raise UserError(
                f"the sample world has no task '{path or task}'",
                f"tasks.{task}.source.path",
                f"give data.root=FOLDER or tasks.{task}.source.files; the sample world has: "
                f"{', '.join(paths)}",
            )
        if split not in paths[path]:
            raise UserError(
                f"the sample world's '{path}' has no split '{split}'",
                f"tasks.{task}.splits",
                suggest(split, paths[path]),
            )
        rows = sample_table(path, split, self._data.sample_seed)
        origin = f"sample:{path}/{split}"
        self._fingerprints[origin] = rows_fingerprint(rows)
        return Table(rows, origin, split)


def _columns(config: Task) -> list[str]:
    """Return the names of the columns that a task may need."""
    return [column for column in vars(config.columns).values() if column is not None]  # type: ignore[attr-defined]


def open_source(data: Data, tasks: Mapping[str, Task], seed: int = 0) -> DataSource:
    """Decide where the rows of each task come from. `seed`: the seed of the run, by which rows are
    drawn where their number is limited.

    Raises UserError with every task whose source cannot serve it.
    """
    return DataSource(_choices(data, tasks), data, tasks, seed)


def changed_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    """Return the differences between the data of two records (`DataSource.record`): other kinds of
    source, and other content of splits.

    Another place of a file is no difference. Tasks and splits that `now` does not have are not
    compared.
    """
    problems = []
    for name, task in now.items():
        known = before.get(name)
        if known is not None and known["source"] != task["source"]:
            what = f"the run's rows came from '{known['source']}', now from '{task['source']}'"
            problems.append(
                Problem(
                    what,
                    f"tasks.{name}.source",
                    f"type tasks.{name}.source.kind={known['source']}, or data.source",
                )
            )
            continue
        for split, read in task["splits"].items():
            if (
                known is not None
                and known["splits"].get(split, read)["fingerprint"] != read["fingerprint"]
            ):
                what = f"the rows are not the {split} split that the run has read"
                problems.append(
                    Problem(
                        what, read["origin"], "bring the data back as it was, or start another run"
                    ).of_task(name)
                )
    return problems


def _choices(data: Data, tasks: Mapping[str, Task]) -> dict[str, Choice]:
    """Return the kind of source and its reason for each task: its own files, its own kind, or the
    default. Raises UserError with every task whose source cannot serve it."""
    files = {name: task for name, task in tasks.items() if task.source.files is not None}
    named = {
        name: task
        for name, task in tasks.items()
        if task.source.kind is not None and name not in files
    }
    others = {name: task for name, task in tasks.items() if name not in files and name not in named}
    default = _default(data, others) if others else None
    choices: dict[str, Choice] = {}
    for name, task in tasks.items():
        if name in files:
            choices[name] = Choice("local", "files of its own")
        elif default is not None and name in others:
            choices[name] = default
        else:
            assert task.source.kind is not None
            choices[name] = Choice(
                task.source.kind,
                f"data.root={data.root}" if task.source.kind == "local" else "source.kind",
            )
    for kind, check in (("local", _check_local), ("hub", _check_hub)):
        if kind_of := {
            name: task
            for name, task in tasks.items()
            if name not in files and choices[name].kind == kind
        }:
            check(data, kind_of)
    return choices


def _default(data: Data, tasks: Mapping[str, Task]) -> Choice:
    """Return the source that `data.source` means for the tasks that name none of their own. Raises
    UserError when no source has the rows."""
    if data.source == "local" or (data.root is not None and data.source == "auto"):
        return Choice("local", f"data.root={data.root}", by_default=True)
    if data.source != "auto":
        return Choice(data.source, f"data.source={data.source}", by_default=True)
    without = [name for name, task in tasks.items() if task.source.hub is None]
    if not without and not _not_at_hand(tasks):
        return Choice(
            "hub", "every data set is in the cache or a folder of this machine", by_default=True
        )
    if not without and hub_answers():
        return Choice("hub", f"{hub_endpoint()} answers", by_default=True)
    why = (
        f"{', '.join(without)} is not on the hub"
        if without
        else f"{hub_endpoint()} does not answer"
    )
    from mtlcli.data.sample import sample_paths

    absent = [name for name, task in tasks.items() if task.source.path not in sample_paths()]
    if absent:
        fix = "check the network, the proxy and HF_ENDPOINT; or give data.root=FOLDER"
        raise UserError(
            Problem(
                f"there are no rows: {why}, no data.root is given, and the sample world has no "
                "such task",
                f"tasks.{name}.source",
                fix,
            )
            for name in absent
        )
    return Choice("sample", f"no data.root is given, and {why}", by_default=True)


def _check_local(data: Data, tasks: Mapping[str, Task]) -> None:
    if data.root is None:
        raise UserError(
            f"rows of {', '.join(tasks)} come from a folder, but none is given",
            "data.root",
            "give data.root=FOLDER, which holds <task path>/<split>.parquet, .csv, ...",
        )
    if not Path(data.root).is_dir():
        raise UserError(
            f"the folder '{data.root}' does not exist",
            "data.root",
            f"you are in {Path.cwd()}; give an existing folder",
        )


def _check_hub(data: Data, tasks: Mapping[str, Task]) -> None:
    without = [name for name, task in tasks.items() if task.source.hub is None]
    if without:
        raise UserError(
            Problem(
                "the task is not on the hub",
                f"tasks.{name}.source.hub",
                "give data.root=FOLDER, or take it out of the run",
            )
            for name in without
        )
    missing = _not_at_hand(tasks)
    if missing and not hub_answers():
        offline = " (HF_HUB_OFFLINE is set)" if _is_offline() else ""
        raise UserError(
            f"{hub_endpoint()} does not answer{offline}, and these data sets are not in the cache: "
            f"{', '.join(missing)}",
            "data.source=hub" if data.source == "hub" else f"tasks.{next(iter(tasks))}.source",
            ("unset HF_HUB_OFFLINE" if offline else "check the network, the proxy and HF_ENDPOINT")
            + "; or use data.source=local data.root=FOLDER, or data.source=sample",
        )


def _splits_in(folder: Path) -> list[str]:
    """Return the names of the splits that the files of a folder hold; none when there is no such
    folder."""
    if not folder.is_dir():
        return []
    return sorted({name for path in folder.iterdir() if (name := split_name(path))})


def hub_endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def hub_answers() -> bool:
    """Return whether the hub answers one small request within about two seconds. The hub is asked
    once in a process. False when HF_HUB_OFFLINE is set."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    answers: list[int] = []

    def ask() -> None:
        try:
            # The library's own session, which uses the user's proxy, certificates and offline
            # switch.
            answers.append(get_session().head(hub_endpoint(), timeout=HUB_SECONDS).status_code)
        except (httpx.HTTPError, OSError):
            return

    # A thread, because the time limit of a request does not cover the DNS look-up of its address.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS + 0.5)
    # 403 and 407 are the answers of a proxy that lets nobody through.
    return bool(answers) and answers[0] < 500 and answers[0] not in (403, 407)


def _not_at_hand(tasks: Mapping[str, Task]) -> list[str]:
    """Return the names of the data sets that are neither a folder nor in the hub's cache on this
    machine."""
    return [
        "/".join(part for part in (source.hub, source.hub_config) if part)
        for source in (task.source for task in tasks.values())
        if source.hub is not None
        and not Path(source.hub).is_dir()
        and _cached(source.hub, source.hub_config) is None
    ]


@cache
def _cached(hub: str, config: str | None) -> Any | None:
    """Return a `datasets` builder for a data set that was loaded before, or None."""
    from huggingface_hub import constants

    # datasets takes two seconds to import: import it only if there is a cache to look into.
    folder = Path(
        os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    ).expanduser()
    owner = hub.rpartition("/")[0]
    if not any(folder.glob(f"{owner}___*" if owner else "*")):
        return None
    from datasets.packaged_modules.cache.cache import Cache

    try:
        return Cache(
            repo_id=hub,
            dataset_name=hub.split("/")[-1],
            config_name=config,
            version="auto",
            hash="auto",
        )
    except ValueError:  # The cache has no such data set, or not this configuration.
        return None


def _hub_splits(task: str, hub: str, config: str | None) -> list[str]:
    """Return the names of a data set's splits on the hub, or in its cache."""
    import datasets

    with _hub_errors(
        task,
        f"the splits of {'/'.join(part for part in (hub, config) if part)} cannot be read from the "
        "hub",
    ):
        if Path(hub).is_dir() or hub_answers():
            return list(datasets.get_dataset_split_names(hub, config))
        builder = _cached(hub, config)
        return [] if builder is None else list(builder.info.splits or [])


@contextmanager
def _hub_errors(task: str, what: str) -> Iterator[None]:
    """Turn errors of the hub or its cache within this context into a UserError."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except (DatasetsError, httpx.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{what}: {reason[0]}",
            f"tasks.{task}.source",
            "check source.hub, source.hub_config and splits of the task; or use data.source=local "
            "data.root=FOLDER",
        ) from error


def _hub_rows(task: str, hub: str, config: str | None, split: str) -> pa.Table:
    import datasets

    where = "/".join(part for part in (hub, config) if part)
    with _hub_errors(task, f"split '{split}' of {where} cannot be read from the hub"):
        if Path(hub).is_dir() or hub_answers():
            rows = datasets.load_dataset(hub, config, split=split)
        else:
            builder = _cached(hub, config)
            if builder is None:
                raise UserError(
                    f"{hub_endpoint()} does not answer, and {where} is not in the cache",
                    fix="check the network",
                )
            rows = builder.as_dataset(split=split)
    return rows.with_format("arrow")[:]
