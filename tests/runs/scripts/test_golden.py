"""scripts/golden.py: a recording equals itself, and a difference in the last bit is found."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.warm import start

SCRIPT = Path(__file__).parents[3] / "scripts" / "golden.py"


def golden(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def be_golden(*arguments: str) -> None:
    """Run the script in this process, which has imported what its runs need, and end."""
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")
    sys.exit(0)


def test_a_recording_equals_itself_alone(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    pairs = "^sharing=(hard weighting=(gls|static)|soft weighting=mgda)$"
    done = start(before=partial(be_golden, "record", str(before), "--only", pairs))
    done.wait()
    assert "3 runs: 2 done, 1 refused, 0 failed" in done.stdout, done.stderr
    assert golden("compare", before, before).stdout == "0 of 3 runs differ\n"

    recorded = json.loads((before / "golden.json").read_text())
    runs = recorded["runs"]
    assert "shared parameters" in runs["sharing=soft weighting=mgda"]["error"]
    renamed = runs.pop("sharing=hard weighting=gls")
    renamed["runs"]["run"]["results"]["weighting"]["name"] = "geometric"
    runs["sharing=hard weighting=geometric"] = renamed
    task = runs["sharing=hard weighting=static"]["runs"]["run"]["metrics"][2]["tasks"]["cola"]
    loss = task["loss"]
    task["loss"] = loss + 2**-50
    after.mkdir()
    (after / "golden.json").write_text(json.dumps(recorded))
    found = golden("compare", before, after, "--renamed", "weighting=gls:geometric")
    key = "sharing=hard weighting=static: runs.run.metrics[2].tasks.cola.loss"
    assert found.returncode == 1
    assert found.stdout == f"{key}\n  {loss}\n  {task['loss']}\n1 of 3 runs differ\n"
    assert "3 of 4 runs differ" in golden("compare", before, after).stdout
    meant = ["--except", r"static: .*loss$", "--except", "gls|geometric"]
    assert golden("compare", before, after, *meant).returncode == 0
