"""Where a run's rows come from: the hub, files on this machine, or the built-in sample world. One kind for the whole run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import pyarrow as pa

from mtlcli.config.run import Data
from mtlcli.config.task import Task
from mtlcli.data.read import EXTENSIONS, file_fingerprint, read_file, rows_fingerprint
from mtlcli.data.table import Table
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest

Kind = Literal["hub", "local", "sample"]
HUB_SECONDS = 2.0


class DataSource:
    """Reads the splits of a run's tasks, all from one kind of source."""

    def __init__(self, kind: Kind, reason: str, data: Data, tasks: Mapping[str, Task]) -> None:
        self.kind = kind
        """`hub`, `local` or `sample`."""
        self.reason = reason
        """Why it is this kind, in words for the user."""
        self._data = data
        self._tasks = tasks
        self._fingerprints: dict[str, str] = {}

    def read(self, task: str, split: str) -> Table:
        """The rows of one split, cut to `data.max_train_rows` or `data.max_eval_rows`. Raises UserError when it cannot be read."""
        config = self._tasks[task]
        reader = {"hub": self._read_hub, "local": self._read_local, "sample": self._read_sample}[self.kind]
        try:
            table = reader(task, config, split)
        except UserError as error:
            raise UserError(problem.of_task(task) for problem in error.problems) from error
        rows = self._data.max_train_rows if split == config.splits.train else self._data.max_eval_rows
        return table if rows is None else table.head(rows)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of everything that was read so far, by origin: of a file's bytes, or of a hub or sample table's rows."""
        return dict(self._fingerprints)

    def _read_local(self, task: str, config: Task, split: str) -> Table:
        path = self._file(task, config, split)
        table = read_file(path, split)
        self._fingerprints[table.origin] = file_fingerprint(path)
        return table

    def _file(self, task: str, config: Task, split: str) -> Path:
        files = config.source.files
        if files is not None:
            if split not in files:
                raise UserError(f"no file is named for split '{split}'", f"tasks.{task}.source.files", suggest(split, files))
            return Path(files[split]).expanduser()
        assert self._data.root is not None  # open_source has seen to it
        if config.source.path is None:
            raise UserError(
                "the task has no folder below data.root", f"tasks.{task}.source.path", f"set tasks.{task}.source.path or .files"
            )
        folder = Path(self._data.root).expanduser() / config.source.path
        found = [path for extension in EXTENSIONS if (path := folder / f"{split}.{extension}").is_file()]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{names} are both there: which one is meant?", str(folder), "move all but one away")
        if found:
            return found[0]
        looked_for = str(folder / split) + "." + "|".join(EXTENSIONS)
        if not folder.is_dir():
            raise UserError(f"the folder {folder} does not exist", looked_for, "check data.root; it holds one folder a task")
        splits = {path.stem for path in folder.iterdir() if path.suffix.removeprefix(".") in EXTENSIONS}
        there = f"in this folder: {suggest(split, splits)}; set tasks.{task}.splits" if splits else "the folder holds no such file at all"
        raise UserError(f"there is no split '{split}'", looked_for, there)

    def _read_hub(self, task: str, config: Task, split: str) -> Table:
        source = config.source
        assert source.hub is not None  # open_source has seen to it
        rows = _hub_rows(task, source.hub, source.hub_config, split)
        origin = "hub:" + "/".join(part for part in (source.hub, source.hub_config, split) if part)
        self._fingerprints[origin] = rows_fingerprint(rows)
        return Table(rows, origin, split)

    def _read_sample(self, task: str, config: Task, split: str) -> Table:
        from mtlcli.data.sample import sample_paths, sample_table

        path, paths = config.source.path, sample_paths()
        if path is None or path not in paths:
            raise UserError(
                f"the sample world has no task '{path or task}'",
                f"tasks.{task}.source.path",
                f"give data.root=FOLDER or tasks.{task}.source.files; the sample world has: {', '.join(paths)}",
            )
        if split not in paths[path]:
            raise UserError(f"the sample world's '{path}' has no split '{split}'", f"tasks.{task}.splits", suggest(split, paths[path]))
        rows = sample_table(path, split, self._data.sample_seed)
        origin = f"sample:{path}/{split}"
        self._fingerprints[origin] = rows_fingerprint(rows)
        return Table(rows, origin, split)


def open_source(data: Data, tasks: Mapping[str, Task]) -> DataSource:
    """Decide for the whole run where its rows come from. Raises UserError when that kind cannot serve every task."""
    kind, reason = _resolve(data, tasks)
    return DataSource(kind, reason, data, tasks)


def _resolve(data: Data, tasks: Mapping[str, Task]) -> tuple[Kind, str]:
    own = [name for name, task in tasks.items() if task.source.files is not None]
    if own and data.source in ("hub", "sample"):
        raise UserError(
            f"tasks with files of their own ({', '.join(own)}) cannot be mixed with data.source={data.source}",
            "data.source",
            "leave data.source at auto (or local), or take these tasks out of the run",
        )
    if data.source == "local" or data.root is not None and data.source == "auto" or own:
        _check_local(data, tasks, own)
        return "local", "every task names its own files" if len(own) == len(tasks) else f"data.root={data.root}"
    if data.source == "sample":
        return "sample", "data.source=sample"
    without = [name for name, task in tasks.items() if task.source.hub is None]
    if data.source == "hub":
        _check_hub(tasks, without)
        return "hub", "data.source=hub"
    if without:
        return "sample", f"no data.root is given, and {', '.join(without)} is not on the hub"
    missing = _not_at_hand(tasks)
    if not missing:
        return "hub", "every data set is in the cache or a folder of this machine"
    if hub_answers():
        return "hub", f"{hub_endpoint()} answers"
    return "sample", f"no data.root is given, and {hub_endpoint()} does not answer"


def _check_local(data: Data, tasks: Mapping[str, Task], own: list[str]) -> None:
    others = [name for name in tasks if name not in own]
    if data.root is None and own and others:
        raise UserError(
            f"{', '.join(own)} names files of its own, but {', '.join(others)} does not; the hub or the sample world are never mixed in",
            "data.root",
            f"give data.root=FOLDER with the data of {', '.join(others)}, or take these tasks out of the run",
        )
    if data.root is None and others:
        raise UserError(
            "data.source=local needs a folder", "data.root", "give data.root=FOLDER, which holds <task path>/<split>.parquet|csv|tsv|jsonl"
        )
    if data.root is not None and others and not Path(data.root).expanduser().is_dir():
        raise UserError(f"the folder '{data.root}' does not exist", "data.root", f"you are in {Path.cwd()}; give an existing folder")


def _check_hub(tasks: Mapping[str, Task], without: list[str]) -> None:
    if without:
        raise UserError(
            Problem("the task is not on the hub", f"tasks.{name}.source.hub", "give data.root=FOLDER, or take it out of the run")
            for name in without
        )
    missing = _not_at_hand(tasks)
    if missing and not hub_answers():
        offline = " (HF_HUB_OFFLINE is set)" if _is_offline() else ""
        raise UserError(
            f"{hub_endpoint()} does not answer{offline}, and these data sets are not in the cache: {', '.join(missing)}",
            "data.source=hub",
            "check the network, the proxy and HF_ENDPOINT; or use data.source=local data.root=FOLDER, or data.source=sample",
        )


def hub_endpoint() -> str:
    """Address of the hub: HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def hub_answers() -> bool:
    """Whether the hub answers one small request within two seconds. Asked once in a process; False when HF_HUB_OFFLINE is set."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    answers: list[int] = []

    def ask() -> None:
        try:
            # The library's own session: the user's proxy, certificates and offline switch hold for it.
            answers.append(get_session().head(hub_endpoint(), timeout=HUB_SECONDS).status_code)
        except (httpx.HTTPError, OSError):
            return

    # A thread, because the time limit of a request does not cover the look-up of its address.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS + 0.5)
    # 403 and 407 are the answers of a proxy that lets nobody through.
    return bool(answers) and answers[0] < 500 and answers[0] not in (403, 407)


def _not_at_hand(tasks: Mapping[str, Task]) -> list[str]:
    """The data sets that are neither a folder nor in the hub's cache on this machine."""
    return [
        "/".join(part for part in (source.hub, source.hub_config) if part)
        for source in (task.source for task in tasks.values())
        if source.hub is not None and not Path(source.hub).is_dir() and _cached(source.hub, source.hub_config) is None
    ]


@cache
def _cached(hub: str, config: str | None) -> Any | None:
    """A `datasets` builder of a data set that was loaded before, or None."""
    from huggingface_hub import constants

    # datasets takes two seconds to import: not before it is known that there is any cache to look into.
    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()
    owner = hub.rpartition("/")[0]
    if not any(folder.glob(f"{owner}___*" if owner else "*")):
        return None
    from datasets.packaged_modules.cache.cache import Cache

    try:
        return Cache(repo_id=hub, dataset_name=hub.split("/")[-1], config_name=config, version="auto", hash="auto")
    except ValueError:  # Its way to say that there is no such data set, or not this configuration.
        return None


def _hub_rows(task: str, hub: str, config: str | None, split: str) -> pa.Table:
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    where = "/".join(part for part in (hub, config) if part)
    try:
        if Path(hub).is_dir() or hub_answers():
            rows = datasets.load_dataset(hub, config, split=split)
        else:
            builder = _cached(hub, config)
            if builder is None:
                raise UserError(f"{hub_endpoint()} does not answer, and {where} is not in the cache", fix="check the network")
            rows = builder.as_dataset(split=split)
    except (DatasetsError, httpx.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"split '{split}' of {where} cannot be read from the hub: {reason[0]}",
            f"tasks.{task}.source",
            "check source.hub, source.hub_config and splits of the task; or use data.source=local data.root=FOLDER",
        ) from error
    return rows.with_format("arrow")[:]
