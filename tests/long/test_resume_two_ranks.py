"""Resume on two gloo ranks from every checkpoint gives the uninterrupted run to the bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.long.resume_two_ranks import main
from tests.ranks import launched
from tests.small_run import differences
from tests.warm import start

STEPS = 8
SHORT = [f"runner.steps={STEPS}", "runner.eval_every=3", "data.max_train_rows=10"]
"""The second epoch begins after six steps."""


@pytest.mark.parametrize(
    ("every", "options"),
    [
        (2, ["weighting=uncertainty"]),
        (3, ["weighting=mgda", "weighting.every=3", "sampling=all"]),
        (3, ["weighting=gradnorm", "sampling=all", "sharing=soft", "sharing.layers=[0]"]),
        (
            3,
            [
                *("runner.engine=fsdp", "runner.precision=bf16", "weighting=uncertainty"),
                "sharing=soft",
            ],
        ),
    ],
)
def test_every_checkpoint_leads_to_the_same_end(
    tmp_path: Path, every: int, options: list[str]
) -> None:
    options = [*SHORT, f"runner.save_every={every}", *options]
    ranks = [
        start(before=partial(main, str(tmp_path), *options), **environment)
        for environment in launched(2)
    ]
    for rank in ranks:
        assert rank.wait(250) == 0, [each.stderr for each in ranks]
    resumed = sorted(tmp_path.glob("from_step_*"))
    # A run saves after each evaluation as well.
    assert len(resumed) == len({*range(every, STEPS, every), *range(3, STEPS, 3)})
    for folder in resumed:
        assert differences(tmp_path / "whole", folder, STEPS) == [], folder.name
    assert "2 x cpu" in ranks[0].stdout and ranks[1].stdout == ""
