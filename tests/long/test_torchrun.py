"""Ranks that torchrun starts: on two nodes, and for the jobs of a sweep."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.pinned import ENVIRONMENT
from tests.ranks import TORCHRUN, fork_ranks
from tests.runs.ddp.test_two_ranks import COMMON, losses
from tests.warm import mtl


def test_two_nodes_under_torchrun_equal_two_ranks(tmp_path: Path) -> None:
    """Two nodes of one rank each: two torchrun processes, which meet over the network."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    short = [*COMMON, "runner.steps=6", "data.max_train_rows=100"]
    nodes = ["--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d"]
    nodes += [f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=mtl"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *nodes, "-m", "mtlcli"]
    started = [
        subprocess.Popen(
            [*launcher, *short, f"run_dir={tmp_path / 'nodes'}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for _ in range(2)
    ]
    output = ""
    for process in started:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        output += out
    assert output.count("run folder:") == 1 and "2 x cpu" in output
    own = mtl(*short, "runner.devices=2", f"run_dir={tmp_path / 'own'}", before=fork_ranks)
    assert own.returncode == 0, own.stderr
    assert losses(tmp_path / "nodes") == losses(tmp_path / "own")


def test_a_sweep_under_torchrun_equals_one_by_our_launcher(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    short = [*COMMON, "runner.steps=4", "data.max_train_rows=60", "data.max_eval_rows=20"]
    options = [*short, "-m", "seed=0,1", f"run_dir={sweep}"]
    done = subprocess.run(
        [*TORCHRUN, *options], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second = sorted(path for path in sweep.iterdir() if path.is_dir())
    # Here the launcher starts its ranks anew, as in every run of a user; other tests fork them.
    own = mtl(*short, "runner.devices=2", f"run_dir={tmp_path / 'own'}")
    assert own.returncode == 0, own.stderr
    assert losses(first) == losses(tmp_path / "own") != losses(second)
    assert done.stdout.count("run folder:") == 2, "only the first rank talks"
