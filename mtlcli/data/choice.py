"""The choice of the source that the rows of each task come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtlcli.config.run import Data
from mtlcli.config.task import Task
from mtlcli.data.hub import cached, hub_answers, hub_endpoint, is_offline
from mtlcli.errors import Problem, UserError

Kind = Literal["hub", "local", "sample"]


@dataclass(frozen=True)
class Choice:
    """The kind of source that the rows of a task come from, and why."""

    kind: Kind
    """`hub`, `local` or `sample`."""
    reason: str
    """The reason for this kind, for the user."""
    by_default: bool = False
    """Whether the kind comes from `data.source` and not from the task itself."""


def choose_sources(data: Data, tasks: Mapping[str, Task]) -> dict[str, Choice]:
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
        offline = " (HF_HUB_OFFLINE is set)" if is_offline() else ""
        raise UserError(
            f"{hub_endpoint()} does not answer{offline}, and these data sets are not in the cache: "
            f"{', '.join(missing)}",
            "data.source=hub" if data.source == "hub" else f"tasks.{next(iter(tasks))}.source",
            ("unset HF_HUB_OFFLINE" if offline else "check the network, the proxy and HF_ENDPOINT")
            + "; or use data.source=local data.root=FOLDER, or data.source=sample",
        )


def _not_at_hand(tasks: Mapping[str, Task]) -> list[str]:
    """Return the names of the data sets that are neither a folder nor in the hub's cache on this
    machine."""
    return [
        "/".join(part for part in (source.hub, source.hub_config) if part)
        for source in (task.source for task in tasks.values())
        if source.hub is not None
        and not Path(source.hub).is_dir()
        and cached(source.hub, source.hub_config) is None
    ]
