"""Resume gives the uninterrupted run to the bit, for every sampling, weighting and sharing that is
registered.

A method that forgets some of its state fails here by itself: nobody has to think of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mtlcli.config import optims, samplings, sharings, weightings
from mtlcli.rundir import checkpoint
from tests.small_run import STEPS, cut_off, differences, resume, start

MORE = {
    "annealed": ["weighting.tasks.rte.start=3"],
    "dwa": ["weighting.every=3"],
    "cagrad": ["logger.probe=1"],
    "hierarchical": [
        *(
            "model.layers=2",
            "sharing.tasks.cola=0",
            "sharing.mix=true",
            "sharing.successive=0.1",
            "sharing.successive_every=3",
        ),
    ],
    "adapters": ["sharing.shared=true"],
    "lora": ["sharing.shared=true", "sharing.frozen=true"],
    "static": ["logger.probe=2", "logger.affinity=3"],
}
UNFREEZING = [
    "optim.unfreeze_every=3",
    "optim.layer_decay=0.5",
    "sharing=soft",
    "sharing.layers=[0]",
    "sharing.distance=pretrained",
]
CASES = [
    *([f"sampling={name}", "weighting=uncertainty"] for name in samplings),
    *([f"weighting={name}", "sampling=all", *MORE.get(name, [])] for name in weightings),
    *([f"sharing={name}", "weighting=uncertainty", *MORE.get(name, [])] for name in sharings),
    ["weighting=mgda", "weighting.every=3", "sampling=all"],
    *(
        [f"optim={name}", "weighting=uncertainty", "optim.schedule=wsd"]
        for name in optims
        if name not in ("adamw", "adamw_8bit")
    ),
    ["runner.max_tokens=100", "sampling=temperature"],
    UNFREEZING,
]
EVERY_PLACE = [
    ["sampling=proportional", "weighting=uncertainty"],
    ["weighting=mgda", "weighting.every=3", "sampling=all"],
    UNFREEZING,
]


@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_resumed_and_whole_runs_end_alike(tmp_path: Path, options: list[str]) -> None:
    whole = start(tmp_path / "whole", *options)
    places = [folder.name for folder in checkpoint.folders(whole / "checkpoints")]
    assert len(places) >= STEPS // 2
    # All places for one case of each kind. Else one in the first epoch of every task, one in the
    # last.
    for name in places[:-1] if options in EVERY_PLACE else (places[1], places[-3]):
        broken = cut_off(whole, name, tmp_path / "broken")
        resume(broken)
        assert differences(whole, broken) == [], name
        shutil.rmtree(broken)
