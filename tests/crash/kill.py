"""Count the file operations of a run, and kill its process with SIGKILL at one of them.

Runs inside the process that is killed (`before=` in tests.warm). What Python is about to do to a
file is heard from its audit events, so that no operation is missed because the code has found
another way to do it; writes and flushes have no such events and are wrapped. A thread's operations
come in the same order in every run, those of two threads do not: each thread is counted by itself.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors

EVENTS = {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1}
"""Audit event -> which of its arguments is the descriptor of the folder that a relative path starts
from."""


def arm(folder: str, trace: str, *, thread: str = "", at: int = -1) -> None:
    """Write every operation below `folder` into the file `trace`; end at the `at`-th one of
    `thread` (main or save), before it is done.

    A write counts twice: before it, and when half of it is in the file.
    """
    counts = {"main": 0, "save": 0}
    notes = os.open(trace, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def meet(kind: str, path: str) -> bool:
        place = os.path.relpath(path, folder)
        if place.startswith("..") or place == "log.txt":
            return False
        me = "save" if threading.current_thread().name.startswith("save") else "main"
        number = counts[me]
        counts[me] += 1
        os.write(
            notes,
            (
                json.dumps({"thread": me, "number": number, "kind": kind, "path": place}) + "\n"
            ).encode(),
        )
        return me == thread and number == at

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event == "open"
            and isinstance(arguments[0], str)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            path = arguments[0]
        elif event in EVENTS:
            path = os.fspath(arguments[0])
            descriptor = arguments[EVENTS[event]]
            if descriptor >= 0:
                path = str(opened_as(descriptor) / path)
        else:
            return
        if meet(event, path):
            die()

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        stream = plain_open(file, mode, *arguments, **options)
        if isinstance(file, (str, Path)) and set(mode) & set("wax+"):
            stream.write = halving(str(file), stream.write, stream.flush)
        return stream

    def halving(
        path: str, write: Callable[[Any], int], flush: Callable[[], None]
    ) -> Callable[[Any], int]:
        def write_or_die(content: Any) -> int:
            if meet("write", path):
                die()
            if meet("half", path):
                write(content[: len(content) // 2])
                flush()
                die()
            return write(content)

        return write_or_die

    def fsync(descriptor: int) -> None:
        if meet("fsync", str(opened_as(descriptor))):
            die()
        plain_fsync(descriptor)

    def serialize(specs: Any, file: Path) -> None:
        if meet("write", str(file)):
            die()
        plain_serialize(specs, file)
        if meet("half", str(file)):
            os.truncate(file, file.stat().st_size // 2)
            die()

    plain_open, plain_fsync, plain_serialize = io.open, os.fsync, safetensors.serialize_file
    safetensors.serialize_file = serialize  # type: ignore[assignment]  # Opens its file in Rust.
    io.open = opened  # type: ignore[assignment]  # What Path.open calls.
    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(hear)


def opened_as(descriptor: int) -> Path:
    """The path behind a descriptor."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)
