"""The meeting of the ranks: a store that every rank reaches before the process group is made."""

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
"""The number of missing ranks that a message names."""

_meetings = 0
"""The number of meetings of this process so far."""
_held: dict[int, TCPStore] = {}
"""Stores that this process serves, by port, so that a later meeting can use the same port."""


def local_store(port: int = 0) -> TCPStore:
    """Start the server of a store that only this machine can reach. Raises OSError when the port is
    taken."""
    return _serve(socket.create_server(("127.0.0.1", port)))


def _open_store(port: int) -> TCPStore:
    """Start the server of a store at all addresses of this machine. Raises OSError when the port is
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
    """Return a store that all ranks have reached. After `quiet` seconds, standard error shows which
    ranks are missing.

    Raises RunError when some ranks have not come within `timeout` seconds, UserError when the port
    is taken.
    """
    global _meetings
    waiting = _Waiting(launch, timeout, quiet)
    # Give each meeting its own prefix, so that it does not read the entries of earlier meetings: a
    # sweep meets once for each job, and torchrun keeps its store when it restarts the ranks. With
    # several machines the restart count is left out, because the agent of each machine counts its
    # restarts separately.
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
    """Return the store at the address of the launch. Rank 0 makes the store unless the launcher has
    made it."""
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
            # Try the port first, because torch would try for minutes without a message.
            socket.create_connection((host, launch.port), timeout=5).close()
        except OSError as error:
            waiting.go_on(f"{who} does not answer: {error.strerror or error}", aloud=True)
            continue
        if store := _join(host, launch.port, limit, waiting, who):
            return store


def _join(host: str, port: int, limit: timedelta, waiting: _Waiting, who: str) -> TCPStore | None:
    """Return a client of a store, or None when its server has gone away meanwhile."""
    joined: list[TCPStore] = []

    def join() -> None:
        with suppress(DistError):
            joined.append(
                TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)
            )

    # Connect in a thread, because torch waits for ever when another program has the port.
    thread = Thread(target=join, daemon=True)
    thread.start()
    thread.join(QUIET)
    while thread.is_alive():
        waiting.go_on(f"{who} does not answer, or another program has the port", aloud=True)
    return joined[0] if joined else None


class _Waiting:
    """The time for which this process has waited for other ranks, and the messages about the
    wait."""

    def __init__(self, launch: Launch, timeout: float, quiet: float) -> None:
        self._launch, self._timeout = launch, timeout
        self._begun = time.monotonic()
        self._next = quiet

    def go_on(self, what: str, *, aloud: bool) -> None:
        """Wait for 0.1 seconds. `aloud`: print what is missing when a message is due. Raises
        RunError when the time is up."""
        waited = time.monotonic() - self._begun
        if waited > self._timeout:
            raise RunError(
                f"waited {self._timeout:g} s (runner.timeout) for the other ranks: {what}",
                where=str(self._launch),
                fix="start all ranks of the launch; for a run by itself: unset RANK WORLD_SIZE",
            )
        if aloud and waited > self._next:
            self._next = waited + EVERY
            doing("")  # The messages about the wait replace the pulse.
            limit = f"{waited:.0f} s of {self._timeout:g} s (runner.timeout)"
            print(
                f"waiting for ranks ({self._launch}, {what}): {limit}", file=sys.stderr, flush=True
            )
        time.sleep(0.1)
