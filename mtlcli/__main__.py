"""The entry point of `mtl` and `python -m mtlcli`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line of this process and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable
    try:
        # Import here, so that a Ctrl-C during an import ends without a traceback.
        from mtlcli import cli, garbage, output

        output.fill_closed()
        output.show_any_text()
        output.outlive_reader("stderr")
        garbage.at_start()
        return cli.main()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        # The process ends: without this, Python would search all imported objects for garbage,
        # which takes two more seconds.
        gc.freeze()
        if signal.getsignal(signal.SIGINT) in (_interrupt, _leave):
            signal.signal(signal.SIGINT, _leave)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process at the second Ctrl-C, or at one while the interpreter ends, so that no
    library is interrupted with a traceback."""
    os._exit(128 + number)


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """End the program when a Ctrl-C came where Python loses the exception, for instance in the
    destructor of a library's object."""
    if what.exc_type is KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    sys.__unraisablehook__(what)


if __name__ == "__main__":
    sys.exit(main())
