"""`mtl` and `python -m mtlcli`."""

from __future__ import annotations

import sys

from mtlcli.cli import main

if __name__ == "__main__":
    sys.exit(main())
