"""The server: an open socket, an application, and an end in good order."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from socket import socket
from typing import Any

import uvicorn

from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import EXIT_CODES, count_of
from mtlcli.predict.predictor import Predictor
from mtlcli.serve.app import Service
from mtlcli.serve.connection import Connection
from mtlcli.serve.limits import Limits

FILES = 10_000
"""Open files to allow for a flood of connections; macOS gives no more than 10,240."""
KEPT = 30
"""Seconds for which a connection without a request is kept."""


class _Server(uvicorn.Server):
    """uvicorn's server, without its handlers of signals, which end the process themselves."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield

    def stop(self, number: int) -> None:
        """Take no more connections, answer what has been asked, and end."""
        self.should_exit = True


class _Handler:
    """What asyncio does with errors that nobody else can have: it reports them. That the system
    gives no more connections it would report a thousand times a second."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif not self._told:
            self._told = True
            what = f"some clients cannot connect: {error.strerror} (ulimit -n)"
            print(f"mtl serve: {what}", file=sys.stderr, flush=True)


def _allow_connections() -> None:
    """Raise the number of files, and so of connections, that the process may open."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def serve(model: Predictor, listening: socket, limits: Limits) -> int:
    """Serve a model on a socket until a signal comes, and return the exit code.

    At the first signal, requests that have arrived are answered, and no others are taken; a second
    Ctrl-C ends the process at once.
    """
    service = Service(model, limits)
    protocol: Any = partial(Connection, limits=limits)
    # Errors of the application are written by the application. uvicorn's own lines say what
    # hostile clients send.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = _Server(
        uvicorn.Config(
            service.app,
            http=protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEPT,
            timeout_graceful_shutdown=round(limits.answer_seconds + 2 * limits.read_seconds) + 1,
        )
    )
    _allow_connections()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(_Handler())
        await server.serve(sockets=[listening])

    with Interrupt() as interrupt, interrupt.passed_on(lambda: None, server.stop):
        asyncio.run(run())
        service.batcher.close()
    number = signal.Signals(interrupt.number)
    answered = count_of(service.answered, "request")
    print(f"mtl serve: stopped by {number.name}, {answered} answered", file=sys.stderr)
    return EXIT_CODES.get(number, 143)
