"""`mtl` and `python -m mtlcli`."""

from __future__ import annotations

import gc
import sys

from mtlcli import cli, garbage


def main() -> int:
    """Run the command line of this process and return its exit code."""
    garbage.at_start()
    try:
        return cli.main()
    finally:
        # The process ends: looking through all that was imported for garbage would take it two more seconds.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
