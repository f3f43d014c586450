"""The example of a model from Python runs as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mtlcli
from tests.pinned import ENVIRONMENT

EXAMPLE = Path(mtlcli.__file__).parents[1] / "examples" / "python" / "sentiment.py"


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(EXAMPLE.parents[2])},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "sst2 classification ('sentence',) ('negative', 'positive')" in done.stdout
    assert "[['sst2', 'cola']]" in done.stdout and "(2, 32)" in done.stdout
    assert "1 task cola: column 'sentence' is empty or missing" in done.stdout
