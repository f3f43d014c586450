"""A checkpoint of a run on shards, on whole models or on one rank goes on in any other layout."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.long.resume_layouts import LAYOUTS, STEPS, main
from tests.ranks import launched
from tests.small_run import SMALL
from tests.warm import mtl, start


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for row in rows for entry in row["tasks"].values()]


def scores(file: Path) -> dict[str, Any]:
    return {name: each["metrics"] for name, each in json.loads(file.read_text())["tasks"].items()}


def test_every_layout_goes_on_from_every_other(tmp_path: Path) -> None:
    ranks = [
        start(before=partial(main, str(tmp_path)), **environment) for environment in launched(2)
    ]
    for rank in ranks:
        assert rank.wait(250) == 0, [each.stderr for each in ranks]
    last = f"checkpoints/step_{STEPS:08d}"
    for step in LAYOUTS:
        folder = tmp_path / str(step)
        assert losses(folder) == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
        for file in ("model.safetensors", "optimizer.safetensors"):
            found, expected = (
                load_file(each / last / file) for each in (folder, tmp_path / "whole")
            )
            assert found.keys() == expected.keys()
            off = {name: (found[name] - expected[name]).abs().max().item() for name in found}
            assert max(off.values()) < 1e-5, (step, file, max(off, key=lambda name: off[name]))
    # One process evaluates what two ranks have trained on shards.
    done = mtl("eval", str(tmp_path / "whole"), "--json", str(tmp_path / "scores.json"))
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "scores.json") == scores(tmp_path / "whole" / "results.json")
    assert "fsdp" in (tmp_path / "whole" / "config.yaml").read_text()


def test_one_device_has_nothing_to_share(tmp_path: Path) -> None:
    done = mtl("train", *SMALL, "runner.engine=fsdp", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "runner.engine: fsdp shares a model out over several devices" in done.stderr
