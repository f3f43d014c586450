"""Interruption: a signal asks the run to stop after the step it is in, once everything is saved."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from mtlcli.runner.distributed import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What a terminal, a scheduler that needs the machine back, and one that warns beforehand send."""


class Asked(Exception):
    """Raised inside an evaluation that is not worth finishing; carries nothing: ask the Interrupt."""


class Interrupt:
    """Within it, the first signal is remembered, and a second Ctrl-C leaves at once (an earlier checkpoint stays intact)."""

    def __init__(self) -> None:
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number and number == signal.SIGINT:
            os._exit(130)
        self._number = self._number or number

    def asked(self, ranks: Ranks) -> int:
        """The signal that some rank has received, the same on every rank; 0 for none. Every rank calls it at the same place."""
        if ranks.world == 1:
            return self._number
        return ranks.most(self._number)

    def alone(self, ranks: Ranks) -> bool:
        """Whether the only rank was asked: where ranks do not meet, a run of several goes on to where they do."""
        return ranks.world == 1 and bool(self._number)
