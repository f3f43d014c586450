"""The registry of methods."""

from __future__ import annotations

import subprocess
import sys


def test_the_order_of_methods_does_not_depend_on_what_was_imported_before() -> None:
    """Messages and tables list methods in this order."""
    code = (
        "import mtlcli.weighting.losses.gradnorm; "
        "from mtlcli.config.weighting import weightings; print(*weightings)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert "gradnorm" in names and names == sorted(names)
