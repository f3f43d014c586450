"""Where ranks meet: a store that all of them have reached before the process group is made."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from datetime import timedelta
from threading import Thread

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore

from mtlcli.distributed.environment import LOOPBACK, Launch
from mtlcli.errors import RunError, UserError
from mtlcli.pulse import doing

QUIET = 1.0
"""Seconds of waiting before the first message."""
EVERY = 30.0
"""Seconds between two messages."""
SHOWN = 8
"""Missing ranks that a message names."""

_meetings = 0
"""How often this process has met its ranks."""
_held: dict[int, TCPStore] = {}
"""Stores that this process is the server of, by port: it may meet there again."""


def local_store(port: int = 0) -> TCPStore:
    """The server of a store that only this machine can reach. Raises OSError when the port is
    taken."""
    return _serve(socket.create_server(("127.0.0.1", port)))


def _open_store(port: int) -> TCPStore:
    """The server of a store at all addresses of this machine. Raises OSError when the port is
    taken."""
    if socket.has_dualstack_ipv6():
        return _serve(socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True))
    return _serve(socket.create_server(("", port)))


def _serve(listener: socket.socket) -> TCPStore:
    port = listener.getsockname()[1]
    return TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def stay_local() -> None:
    """Let gloo listen on the loopback interface alone, unless the user has chosen an interface."""
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


def meet(launch: Launch, timeout: float, quiet: float = QUIET) -> PrefixStore:
    """A store that all ranks have reached. Standard error says for whom this process waits, after
    `quiet` seconds.

    Raises RunError when some have not come within `timeout` seconds, UserError when the port is
    taken.
    """
    global _meetings
    waiting = _Waiting(launch, timeout, quiet)
    # What earlier meetings have left in the store must not be met again: a sweep meets once for
    # each job, and torchrun keeps its store when it restarts the ranks. Agents of several machines
    # count restarts each for itself.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if launch.is_local else "0"
    store = PrefixStore(f"restart_{restart}/meeting_{_meetings}", _reach(launch, timeout, waiting))
    _meetings += 1
    store.set(f"arrived_{launch.rank}", "1")
    missing = [rank for rank in range(launch.world_size) if rank != launch.rank]
    while missing := [rank for rank in missing if not store.check([f"arrived_{rank}"])]:
        shown = [str(rank) for rank in missing[:SHOWN]] + (["..."] if len(missing) > SHOWN else [])
        waiting.go_on(
            f"{', '.join(shown)} {'is' if len(missing) == 1 else 'are'} missing",
            aloud=launch.rank == 0,
        )
    return store


def _reach(launch: Launch, timeout: float, waiting: _Waiting) -> TCPStore:
    """The store at the address of the launch; rank 0 makes it, unless the launcher has done so."""
    limit = timedelta(seconds=timeout)
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host = (
        "127.0.0.1"
        if launch.address in LOOPBACK or (launch.is_local and not by_agent)
        else launch.address
    )
    if launch.rank == 0 and not by_agent:
        try:
            if launch.port not in _held:
                _held[launch.port] = (
                    local_store(launch.port) if host in LOOPBACK else _open_store(launch.port)
                )
        except OSError as error:
            what = f"rank 0 cannot listen there: {error.strerror}"
            raise UserError(
                what, f"MASTER_PORT={launch.port}", "give a port that is free"
            ) from error
        _held[launch.port].set_timeout(limit)
        return _held[launch.port]
    who = "the store of the launcher" if by_agent else "rank 0"
    while True:
        try:
            # Torch itself would try for minutes without a word.
            socket.create_connection((host, launch.port), timeout=5).close()
        except OSError as error:
            waiting.go_on(f"{who} does not answer: {error.strerror or error}", aloud=True)
            continue
        if store := _join(host, launch.port, limit, waiting, who):
            return store


def _join(host: str, port: int, limit: timedelta, waiting: _Waiting, who: str) -> TCPStore | None:
    """A client of a store, or None when its server went away meanwhile."""
    joined: list[TCPStore] = []

    def join() -> None:
        with suppress(DistError):
            joined.append(
                TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)
            )

    # In a thread, because torch waits for ever for the answer of another program that has the port.
    thread = Thread(target=join, daemon=True)
    thread.start()
    thread.join(QUIET)
    while thread.is_alive():
        waiting.go_on(f"{who} does not answer, or another program has the port", aloud=True)
    return joined[0] if joined else None


class _Waiting:
    """The time that this process waits for other ranks, and what it says about it."""

    def __init__(self, launch: Launch, timeout: float, quiet: float) -> None:
        self._launch, self._timeout = launch, timeout
        self._begun = time.monotonic()
        self._next = quiet

    def go_on(self, what: str, *, aloud: bool) -> None:
        """Wait for a moment. Raises RunError when the time is up."""
        waited = time.monotonic() - self._begun
        if waited > self._timeout:
            raise RunError(
                f"waited {self._timeout:g} s (runner.timeout) for the other ranks: {what}",
                where=str(self._launch),
                fix="start all ranks of the launch; for a run by itself: unset RANK WORLD_SIZE",
            )
        if aloud and waited > self._next:
            self._next = waited + EVERY
            doing("")  # The wait has lines of its own.
            limit = f"{waited:.0f} s of {self._timeout:g} s (runner.timeout)"
            print(
                f"waiting for ranks ({self._launch}, {what}): {limit}", file=sys.stderr, flush=True
            )
        time.sleep(0.1)
