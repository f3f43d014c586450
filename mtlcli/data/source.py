"""The sources of the tasks' rows: the hub, files on this machine, or the built-in sample world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.config.formats import ENDINGS, NAMED, files_of, split_name
from mtlcli.config.paths import default_cache
from mtlcli.config.run import Data
from mtlcli.config.task import Task, listed, named_columns
from mtlcli.data.choice import Choice, Kind, choose_sources
from mtlcli.data.clean import cleaned
from mtlcli.data.draw import draw, draw_groups, draw_of_each, numbered
from mtlcli.data.hold_out import fold_numbers, kept_out
from mtlcli.data.hub import hub_rows, hub_splits
from mtlcli.data.nested import stored, unnest
from mtlcli.data.parquet import plain_rows
from mtlcli.data.read import read_file, refuse_headers, rows_fingerprint
from mtlcli.data.record import ReadSplit
from mtlcli.data.shards import read_shards, shards_fingerprint, shards_on_disk
from mtlcli.data.table import ID_COLUMNS, Table
from mtlcli.disk import sha256
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.pulse import doing
from mtlcli.registry import suggest

Rows = Callable[[Table], NDArray[np.bool_]]
"""A function that returns which rows of a table belong to a certain kind: (rows,)."""


ON_DISK = 1 << 28
"""The size in bytes of a split's files from which `data.rows=auto` puts its rows on disk."""
SCORED = ("validation", "valid", "dev", "test")
"""What the names of validation and test splits begin with."""


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
        self._held: dict[tuple[str, str], Table] = {}

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
        self,
        task: str,
        split: str,
        labelled: Rows | None = None,
        *,
        keep: Rows | None = None,
        inputs: Sequence[str] = (),
    ) -> Table:
        """Return the rows of one split, or those drawn from them for `data.max_train_rows`,
        `tasks.NAME.max_train_rows` or `data.max_eval_rows`.

        `labelled`: which rows have a label. If the task's `unlabelled` is `skip`, the other rows
        are left out before rows are drawn. `keep`: which of those other rows are not left out.
        `inputs`: the columns of the inputs, by which rows of a train split are compared where
        `data.deduplicate` or `data.decontaminate` is on; these rows are removed before others are
        drawn, too. With `data.folds`, the rows of train are cut last: its split holds those of the
        other folds, and the split of the fold the others. Raises UserError when the split, or one
        that it is compared with, cannot be read, and when no row of train would be left.
        """
        config, fold = self._tasks[task], self._data.fold_split
        asked, train = split, config.splits.train
        in_folds = fold is not None and train is not None and split in (train, fold)
        if in_folds:
            split = str(train)
        reader = {"hub": self._read_hub, "local": self._read_local, "sample": self._read_sample}[
            self.choices[task].kind
        ]
        try:
            table = self._side(reader, task, config, split)
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
        try:
            table, removed = self._cleaned(reader, task, table, inputs)
        except UserError as error:
            raise UserError(problem.of_task(task) for problem in error.problems) from error
        table = self._drawn(task, config, table)
        total_drawn = len(table)
        if in_folds:
            try:
                table = self._fold(config, table, asked)
            except UserError as error:
                raise UserError(problem.of_task(task) for problem in error.problems) from error
        kept = 0 if partly is None else len(table) - int(np.count_nonzero(partly(table)))
        removed["other_folds"] = total_drawn - len(table)
        self._read[task][asked] = ReadSplit(
            table.origin, fingerprint, len(table), total, unlabelled, kept, **removed
        )
        return table

    def _fold(self, config: Task, table: Table, split: str) -> Table:
        """Return the rows of train that belong to `split`, train without the fold or the fold."""
        data, hold_out = self._data, config.splits.hold_out
        assert data.folds is not None
        group = (hold_out and hold_out.group) or config.together
        numbers = fold_numbers(table, data.folds, config.class_column, group)
        mine = (numbers == data.fold) == (split == data.fold_split)
        return replace(table.select(np.flatnonzero(mine)), split=split)

    def _side(
        self, reader: Callable[[str, Task, str], Table], task: str, config: Task, split: str
    ) -> Table:
        """Return the rows of a split, which may be one side of the train split.

        Where a split is needed again, for another side or to be compared with train, it is held
        until a split of another task is read (or `release` is called).
        """
        if (task, split) in self._held:
            return self._held[task, split]
        if any(name != task for name, _ in self._held):
            self.release()
        parts, train = config.splits.kept_out(), config.splits.train
        if train is None or split not in [train, *(name for _, name, _ in parts)] or not parts:
            sides = {split: reader(task, config, split)}
        else:
            sides = {train: reader(task, config, train)}
        for part, name, settings in parts if train in sides else ():
            if name in self._stored_splits(task):
                raise UserError(config.splits.occupied(f"tasks.{task}", part, name))
            left = sides[str(train)]
            out = kept_out(left, settings, config.class_column, part=part, together=config.together)
            sides[name] = replace(left.select(np.flatnonzero(out)), split=name)
            sides[str(train)] = left.select(np.flatnonzero(~out))
        if parts or self._data.decontaminate is not None or self._data.folds is not None:
            self._held |= {(task, name): side for name, side in sides.items()}
        return sides[split]

    def release(self) -> None:
        """Let go of the tables that are held for the next split of a task."""
        self._held.clear()

    def _cleaned(
        self,
        reader: Callable[[str, Task, str], Table],
        task: str,
        table: Table,
        inputs: Sequence[str],
    ) -> tuple[Table, dict[str, Any]]:
        """Return a table without the rows that `data.deduplicate` and `data.decontaminate` remove,
        and the fields of `ReadSplit` about these. Only a train split loses rows."""
        config, how = self._tasks[task], self._data.decontaminate
        off = not self._data.deduplicate and how is None
        # A column that is missing is reported by the checks of all rows.
        known = set(inputs) <= set(table.rows.column_names)
        if off or table.split != config.splits.train or not inputs or not known:
            return table, {}
        if table.split in [*config.splits.validation, config.splits.test]:
            what = f"rows of split '{table.split}' are scored, too, and so cannot be removed"
            fix = "take data.deduplicate and data.decontaminate out, or score another split"
            raise UserError(what, f"tasks.{task}.splits", fix)
        doing(f"looking for rows of {task}/{table.split} to remove")
        scored = [] if how is None else self._scored(task)
        others = [self._side(reader, task, config, split) for split in scored]
        return cleaned(table, others, inputs, self._data)

    def _scored(self, task: str) -> list[str]:
        """Return the splits of a task's source that are validation or test, by the task's settings
        or by their names."""
        splits = self._tasks[task].splits
        named = {*splits.validation, splits.test, *(name for _, name, _ in splits.kept_out())}
        return [
            name
            for name in self.splits(task)
            if name != splits.train and (name in named or name.startswith(SCORED))
        ]

    def _drawn(self, task: str, config: Task, table: Table) -> Table:
        if self._data.shots is not None and table.split == config.splits.train:
            return self._shots(task, str(config.class_column), table, self._data.shots)
        at, limit = "data.max_eval_rows", self._data.max_eval_rows
        if table.split == config.splits.train:
            at, limit = "data.max_train_rows", self._data.max_train_rows
            if config.max_train_rows is not None:
                at, limit = f"tasks.{task}.max_train_rows", config.max_train_rows
        if limit is None or limit >= len(table):
            return table
        key = f"rows {self._seed} {task} {table.split}"
        if config.together in table.rows.column_names:
            groups, _ = numbered(table, str(config.together), write=repr)
            return table.select(draw_groups(groups, limit, key=key))
        column = config.class_column
        classes: NDArray[np.int64] | None = None
        names: list[str] = []
        absent: set[str] = set()
        # Lists and objects are no labels; the check of the task reports them later.
        if (
            column is not None
            and column in table.rows.column_names
            and not pa.types.is_nested(table.rows.column(column).type)
        ):
            classes, names = numbered(table, column)
            absent = {"", *(["None"] if table.rows.column(column).null_count else [])}
        learns = table.split == config.splits.train and config.learns_classes
        if learns and classes is not None and limit < (count := len(set(names) - absent)):
            what = (
                f"{limit} rows of {len(table):,} cannot have all {count} labels of column "
                f"'{column}', from which the classes are learned"
            )
            fix = f"give {count} or more, or name the classes in tasks.{task}.labels"
            raise UserError(Problem(what, at, fix).of_task(task))
        return table.select(draw(len(table), limit, key=key, classes=classes))

    def _shots(self, task: str, column: str, table: Table, count: int) -> Table:
        """Return `count` rows of each class of a train split. Raises UserError when a class has
        fewer."""
        if column not in table.rows.column_names or pa.types.is_nested(
            table.rows.column(column).type
        ):
            return table  # The check of the task reports it later.
        classes, names = numbered(table, column)
        absent = {"", *(["None"] if table.rows.column(column).null_count else [])}
        nothing = [name in absent for name in names]
        classes = np.where(np.array(nothing)[classes], -1, classes)
        for number, name in enumerate(names):
            if not nothing[number] and (found := int(np.sum(classes == number))) < count:
                what = f"class '{name}' of column '{column}' has {count_of(found, 'row')} in train"
                fix = f"type data.shots={found} or less"
                raise UserError(Problem(what, f"data.shots={count}", fix).of_task(task))
        key = f"rows {self._seed} {task} {table.split}"
        return table.select(draw_of_each(classes, count, key=key))

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
            lambda read: read.rows + read.other_folds < read.remaining,
            lambda read: (read.rows + read.other_folds, read.remaining),
        )

    def in_folds(self) -> str | None:
        """Return one line on the rows of train that stand in place of validation; None when the run
        has no folds."""
        return self._line(
            "train is cut into folds, and no row of validation or test is scored",
            lambda read: read.other_folds > 0,
            lambda read: (read.rows, read.rows + read.other_folds),
        )

    def left_out(self) -> str | None:
        """Return one line on the splits from which rows without a label are left out; None when
        there is no such split."""
        return self._line(
            "rows left out because they have no label",
            lambda read: read.unlabelled > 0,
            lambda read: (read.unlabelled, read.total),
        )

    def removed(self) -> list[str]:
        """Return a line on the rows that `data.deduplicate` has removed from train splits, and one
        on those of `data.decontaminate`; none where these are off."""
        how = self._data.decontaminate
        lines = (
            self._line(
                "train rows removed because an earlier row has the same inputs",
                lambda read: read.removed is not None and self._data.deduplicate,
                lambda read: (read.duplicates, read.total),
            ),
            self._line(
                f"train rows removed because validation or test has them ({how})",
                lambda read: read.removed is not None and how is not None,
                lambda read: (read.contaminated, read.total),
            ),
        )
        return [line for line in lines if line is not None]

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
        held = [name for _, name, _ in self._tasks[task].splits.kept_out()]
        fold = self._data.fold_split if self._tasks[task].splits.train is not None else None
        held += [] if fold is None else [fold]
        return list(dict.fromkeys([*self._stored_splits(task), *held]))

    def _stored_splits(self, task: str) -> list[str]:
        source, kind = self._tasks[task].source, self.choices[task].kind
        if source.files is not None:
            return list(source.files)
        if kind == "sample":
            from mtlcli.data.sample import sample_paths

            return sample_paths().get(source.path or "", [])
        if kind == "hub":
            assert source.hub is not None  # open_source has checked this
            return hub_splits(task, source.hub, source.hub_config)
        return _splits_in(self._folder(task, self._tasks[task]))

    def _read_local(self, task: str, config: Task, split: str) -> Table:
        columns, header = _columns(config), config.source.header
        named = (config.source.files or {}).get(split)
        paths = files_of(named) if named is not None else []
        one = named is None or paths == [Path(named)]
        if one:
            paths = [self._file(task, config, split)]
        origin = str(paths[0]) if one else str(named)
        if self._on_disk(paths):
            fingerprint = sha256(paths[0]) if one else shards_fingerprint(paths)
            cache = Path(self._data.cache_dir) if self._data.cache_dir else default_cache()
            table = shards_on_disk(
                paths,
                origin,
                split,
                stored(columns),
                header,
                needed=columns,
                fingerprint=fingerprint,
                cache=cache,
            )
        elif one:
            table = unnest(read_file(paths[0], split, stored(columns), header), columns)
            fingerprint = sha256(paths[0])
        else:
            table = unnest(read_shards(paths, origin, split, stored(columns), header), columns)
            fingerprint = shards_fingerprint(paths)
        self._fingerprints[table.origin] = fingerprint
        return table

    def _on_disk(self, paths: Sequence[Path]) -> bool:
        """Return whether the rows of some files are to be on disk. A file that is missing is
        reported where it is read."""
        if not all(path.is_file() for path in paths):
            return False
        size = sum(path.stat().st_size for path in paths)
        return self._data.rows == "disk" or (self._data.rows == "auto" and size >= ON_DISK)

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
        rows = hub_rows(task, source.hub, source.hub_config, split)
        origin = "hub:" + "/".join(part for part in (source.hub, source.hub_config, split) if part)
        self._fingerprints[origin] = rows_fingerprint(rows)
        columns = _columns(config)
        there = stored(columns)
        needed = [name for name in rows.column_names if name in (*there, *ID_COLUMNS)]
        plain = plain_rows(rows.select(needed), origin, there)
        table = unnest(Table(plain, origin, split, names=rows.column_names), columns)
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
        return unnest(Table(rows, origin, split), _columns(config))


def _columns(config: Task) -> list[str]:
    """Return the names of the columns that a task may need."""
    columns = [column for _, column in named_columns(config.columns)]  # type: ignore[attr-defined]
    groups = [settings.group for _, _, settings in config.splits.kept_out()]
    own = listed(getattr(config, "group", None))
    return list(dict.fromkeys([*columns, *filter(None, groups), *own]))


def open_source(data: Data, tasks: Mapping[str, Task], seed: int = 0) -> DataSource:
    """Decide where the rows of each task come from. `seed`: the seed of the run, by which rows are
    drawn where their number is limited.

    Raises UserError with every task whose source cannot serve it.
    """
    return DataSource(choose_sources(data, tasks), data, tasks, seed)


def _splits_in(folder: Path) -> list[str]:
    """Return the names of the splits that the files of a folder hold; none when there is no such
    folder."""
    if not folder.is_dir():
        return []
    return sorted({name for path in folder.iterdir() if (name := split_name(path))})
