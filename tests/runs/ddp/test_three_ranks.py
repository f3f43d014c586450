"""With three ranks, the order in which numbers are summed changes the rounding."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.ranks import launched
from tests.runs.ddp.three_ranks import STEPS, main
from tests.warm import start


def test_a_run_that_goes_on_sums_in_the_same_order(tmp_path: Path) -> None:
    """torch orders its buckets by the first pass that it sees, which is another one after a
    break."""
    ranks = [
        start(before=partial(main, str(tmp_path)), **environment) for environment in launched(3)
    ]
    for rank in ranks:
        assert rank.wait(250) == 0, [each.stderr for each in ranks]
    whole, *resumed = (load_file(tmp_path / f"{pause}.safetensors") for pause in range(STEPS))
    for pause, values in enumerate(resumed, start=1):
        assert all(torch.equal(value, whole[name]) for name, value in values.items()), pause
