"""`mtl doctor` where all is well, on a bare machine, and where something does not work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mtlcli.extras import ABOUT
from tests.warm import ROOT, mtl


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that has no packages but its own."""
    command = [sys.executable, "-S", "-m", "mtlcli", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)


def test_all_is_well(tmp_path: Path) -> None:
    done = mtl("doctor", "--json", cwd=tmp_path, HF_HUB_OFFLINE="1", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is True and found["problems"] == [] and done.stderr == ""
    assert None not in found["packages"].values()
    assert found["devices"]["number_format"]["cpu"] in ("fp32", "bf16")
    assert found["self_test"]["device"] == "cpu"
    assert {"train_and_save", "load_and_evaluate"} <= set(found["self_test"])
    assert sorted(found["extras"]) == sorted(ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_bare_machine() -> None:
    done = bare("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "torch              MISSING" in done.stdout
    assert "wandb        the tracker logger.trackers=[wandb] (Weights & Biases)\n" in done.stdout
    assert "not run  the problems come first" in done.stdout
    assert f"-m pip install --editable {ROOT}\n" in done.stdout
    found = json.loads(bare("doctor", "--json").stdout)
    assert found["ok"] is False and set(found["packages"].values()) == {None}


def test_a_missing_package_is_no_traceback() -> None:
    done = bare("train")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mtl train: 1 problem\n  a package is missing: No module named '")
    assert done.stderr.endswith("-> mtl doctor lists what is missing, and how to install it\n")


def load_wrongly() -> None:
    """Break the evaluation of saved runs: its scores are not those of the training."""
    import mtlcli.evaluation.saved_run as saved

    right = saved.evaluate_path

    def wrong(path: Path) -> dict[str, object]:
        results = right(path)
        results["tasks"]["rte"]["metrics"]["accuracy"] += 0.25
        return results

    saved.evaluate_path = wrong  # type: ignore[assignment]


def test_what_does_not_work_is_named(tmp_path: Path) -> None:
    done = mtl("doctor", before=load_wrongly, HF_HUB_OFFLINE="1", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "\n1 problem\n  self-test: accuracy of rte was " in done.stdout
    (tmp_path / "file").touch()
    cache = str(tmp_path / "file" / "cache")
    done = mtl("doctor", HF_HUB_OFFLINE="1", MTL_CACHE=cache)
    assert done.returncode == 1
    assert f"encoded rows (MTL_CACHE): {cache}: cannot be written: " in done.stdout
    done = mtl("doctor", "--jsno")
    assert done.returncode == 2
    assert done.stderr == (
        "mtl doctor: 1 problem\n  unknown option '--jsno'\n"
        "      -> mtl doctor --help lists the options\n"
    )
