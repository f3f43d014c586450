"""Resume on two gloo ranks from every checkpoint gives the uninterrupted run to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.small_run import STEPS, differences
from tests.warm import start

SHORT = ["runner.steps=8", "runner.save_every=1", "runner.eval_every=3", "data.max_train_rows=10"]
"""Seven points within eight steps; the second epoch begins after six."""
CASES = [
    (8, [*SHORT, "weighting=uncertainty"]),
    pytest.param(
        STEPS, ["weighting=mgda", "weighting.every=3", "sampling=all"], marks=pytest.mark.long
    ),
    pytest.param(
        STEPS,
        ["weighting=gradnorm", "sampling=all", "sharing=soft", "sharing.layers=[0]"],
        marks=pytest.mark.long,
    ),
]


@pytest.mark.parametrize(("steps", "options"), CASES)
def test_every_checkpoint_leads_to_the_same_end(
    tmp_path: Path, steps: int, options: list[str]
) -> None:
    # The ranks connect once for each run: the store that they meet at must outlive them all, as
    # torchrun's does.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    ranks = [
        start(
            before="from tests.runs.resume.two_ranks import main\n"
            f"main(*{[str(tmp_path), *options]!r})",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="localhost",
            MASTER_PORT=str(store.port),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        assert rank.wait(250) == 0, [each.stderr for each in ranks]
    resumed = sorted(tmp_path.glob("from_step_*"))
    assert len(resumed) >= 7
    for folder in resumed:
        assert differences(tmp_path / "whole", folder, steps) == [], folder.name
    assert "2 x cpu" in ranks[0].stdout and ranks[1].stdout == ""
