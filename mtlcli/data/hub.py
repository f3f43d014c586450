"""Data sets of the Hugging Face hub, through `datasets`, or from its cache on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa

from mtlcli.errors import UserError

HUB_SECONDS = 2.0
"""The number of seconds within which the hub has to answer."""
COMMIT = re.compile("[0-9a-f]{40}")
"""A revision that always means the same rows."""


def hub_endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE is set."""
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


def revision_of(hub: str) -> tuple[str, str | None]:
    """Return the name of a data set and its revision: `NAME@REVISION` names a branch, a tag or a
    commit, as in the addresses `hf://datasets/NAME@REVISION` of the hub; None without one."""
    if Path(hub).is_dir():
        return hub, None
    name, _, revision = hub.partition("@")
    return name, revision or None


@cache
def cached(hub: str, config: str | None) -> Any | None:
    """Return a `datasets` builder for a data set that was loaded before, or None. Of a data set
    whose revision is a commit, only that commit counts."""
    from huggingface_hub import constants

    hub, revision = revision_of(hub)

    # datasets takes two seconds to import: import it only if there is a cache to look into.
    folder = Path(
        os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    ).expanduser()
    owner = hub.rpartition("/")[0]
    if not any(folder.glob(f"{owner}___*" if owner else "*")):
        return None
    from datasets.packaged_modules.cache.cache import Cache

    try:
        found = Cache(
            repo_id=hub,
            dataset_name=hub.split("/")[-1],
            config_name=config,
            version="auto",
            hash="auto",
        )
    except ValueError:  # The cache has no such data set, or not this configuration.
        return None
    is_commit = revision is not None and COMMIT.fullmatch(revision)
    return None if is_commit and found.hash != revision else found


def hub_splits(task: str, hub: str, config: str | None) -> list[str]:
    """Return the names of a data set's splits on the hub, or in its cache."""
    import datasets

    with _hub_errors(
        task,
        f"the splits of {'/'.join(part for part in (hub, config) if part)} cannot be read from the "
        "hub",
    ):
        if Path(hub).is_dir() or hub_answers():
            name, revision = revision_of(hub)
            return list(datasets.get_dataset_split_names(name, config, revision=revision))
        builder = cached(hub, config)
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


def hub_rows(task: str, hub: str, config: str | None, split: str) -> pa.Table:
    """Return the rows of a split on the hub, or in its cache."""
    import datasets

    where = "/".join(part for part in (hub, config) if part)
    with _hub_errors(task, f"split '{split}' of {where} cannot be read from the hub"):
        if Path(hub).is_dir() or hub_answers():
            name, revision = revision_of(hub)
            rows = datasets.load_dataset(name, config, split=split, revision=revision)
        else:
            builder = cached(hub, config)
            if builder is None:
                raise UserError(
                    f"{hub_endpoint()} does not answer, and {where} is not in the cache",
                    fix="check the network",
                )
            rows = builder.as_dataset(split=split)
    return rows.with_format("arrow")[:]
