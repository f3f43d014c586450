"""Sums over memory that ranks share: those of gloo, also as it grows; where ranks cannot share
memory, gloo does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import TCPStore

CODE = """
import os, sys, torch
import torch.distributed as dist
from mtlcli.config import Runner
from mtlcli.distributed import process_group as distributed
from mtlcli.fast import shared_memory as shared
rank = int(os.environ["RANK"])
if sys.argv[1] == "broken" and rank == 1:
    def refuse(*arguments, **options):
        raise RuntimeError("unable to open file")
    shared.torch.from_file = refuse
if sys.argv[1] == "no memfd":
    del os.memfd_create
with distributed.connect(Runner(device="cpu", timeout=60)) as ranks:
    ranks = shared.share_memory(ranks)
    assert isinstance(ranks.sum_flat, shared.SharedSum) == (sys.argv[1] == "fine")
    generator = torch.Generator().manual_seed(rank)
    for size in (1, 5, 1000, 7, 100_000, 99_999):
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((size,), (3, 2))]
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        expected = [parameter.grad.clone() for parameter in parameters]
        for each in expected:
            dist.all_reduce(each)
        ranks.reduce_gradients(parameters, {})
        for parameter, each in zip(parameters, expected):
            torch.testing.assert_close(parameter.grad, each, rtol=1e-6, atol=1e-6)
        # The same bits everywhere.
        whole = ranks.all_gather(parameters[0].grad).view(ranks.world_size, -1)
        assert (whole == whole[0]).all()
    print("done", flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("how", "world"), [("fine", 2), ("fine", 3), ("broken", 2), ("no memfd", 2)]
)
def test_gradients_are_summed_whatever_the_way(how: str, world: int) -> None:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    common = {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    common |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, how],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for rank in range(world)
    ]
    for process in started:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and "done" in out, errors
