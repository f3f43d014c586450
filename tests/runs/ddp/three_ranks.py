"""One rank of tests/runs/ddp/test_three_ranks.py. Not a test itself."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from mtlcli.config import Runner
from mtlcli.distributed.process_group import connect
from tests.long.ranks_every_method import one_task
from tests.small import small_data
from tests.trajectory import make, optimizer_of, train

STEPS = 6


def main(place: str) -> None:
    """Train without a break, and with one after each number of steps; write the parameters of rank
    0. Ends the process."""
    _, _, features, _ = small_data()
    with connect(Runner(device="cpu", timeout=60)) as ranks:
        for pause in range(STEPS):
            model, weighting = make("static")
            optimizer = optimizer_of(model, weighting)
            for steps in (range(pause), range(pause, STEPS)):
                # The engine is made anew, as in a run that is resumed.
                train(model, weighting, optimizer, features, ranks, steps, plan=one_task)
            if ranks.is_main:
                values = {key: value.detach() for key, value in model.named_parameters()}
                save_file(values, Path(place) / f"{pause}.safetensors")
    os._exit(0)
