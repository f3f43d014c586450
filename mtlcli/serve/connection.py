"""A connection of a client that may be slow, silent or hostile: uvicorn's, with times for what
uvicorn waits for without end, a limit on their number, and errors in JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from mtlcli.errors import Problem
from mtlcli.serve.asked import as_json, failure
from mtlcli.serve.limits import Limits

LINGER = 1.0
"""Seconds for which what a refused client still sends is read and dropped: the system throws the
answer away when a connection is closed with unread bytes."""


class Connection(H11Protocol):
    """The protocol of one connection."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many; otherwise wait for a request."""
        super().connection_made(transport)
        # Any byte that the client does not take calls `pause_writing`.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._limits.connections:
            self._refuse(
                503,
                Problem(
                    f"the server has {self._limits.connections} open connections, which is its "
                    "limit",
                    "connection",
                    "try again later, or use fewer connections",
                ),
            )
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if not self._refused:
            super().data_received(data)
            self._watch()

    def pause_writing(self) -> None:
        """Give a client that does not take its answer some time."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self._limits.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that clock."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP."""
        self._refuse(
            400,
            Problem(
                "the bytes are no HTTP request",
                "request",
                "send HTTP/1.1 without TLS, and no more than 16 KB of headers",
            ),
        )

    def _watch(self) -> None:
        """Start the clock while a request is coming in, and stop it once it is complete."""
        comes = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self._refused
        if comes and self._reading is None:
            self._reading = self.loop.call_later(self._limits.read_seconds, self._late)
        elif not comes and self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _late(self) -> None:
        self._reading = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE:
            seconds = self._limits.read_seconds
            what = f"the head of the request has not arrived within {seconds:g} s"
            self._refuse(408, Problem(what, "request", "send it faster"))
        elif self.cycle is not None and self.cycle.response_complete:
            # The client goes on with a request that has been answered.
            self.transport.close()
        else:
            # The application has a clock for the body.
            self._watch()

    def _refuse(self, status: int, problem: Problem) -> None:
        """Send an error, and drop what the client sends from now on."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # An answer is on its way already.
            return
        self._refused = True
        self._unset_keepalive_if_required()
        body = as_json(failure([problem]))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *([(b"retry-after", b"1")] if status == 503 else []),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.abort)
