"""Two ranks in processes of their own, with the real launcher, where a test can afford them: forked
instead of started anew."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

from torch.distributed import TCPStore

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.snapshot import save_config
from tests.warm import Process, start

RUN = [
    *(
        "task=[cola,rte]",
        "data=sample",
        "model=tiny",
        "model.layers=1",
        "model.hidden=16",
        "model.heads=2",
        "model.dropout=0.1",
    ),
    *(
        "data.max_length=32",
        "data.max_train_rows=60",
        "data.max_eval_rows=16",
        "runner.batch_size=6",
        "runner.accumulation=2",
    ),
    *(
        "runner.eval_every=20",
        "runner.save_every=10",
        "logger.every=1",
        "logger.console=plain",
        "runner.device=cpu",
    ),
    "runner.precision=fp32",
]
FORKED = """
import os, signal, sys, types
from mtlcli.runner import launch, worker
from mtlcli.distributed.signals import AT_ONCE, SIGNALS

class Forked:
    # What the launcher needs of subprocess.Popen. The rank is a fork of the launcher, which has
    # imported everything.
    def __init__(self, command, env, pass_fds):
        self.returncode = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in map(int, os.listdir("/proc/self/fd")):
                if descriptor > 2 and descriptor not in pass_fds:
                    os.dup2(null, descriptor)
            for number in (*SIGNALS, AT_ONCE):
                signal.signal(number, signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(env)
            sys.argv = command[3:]
            worker.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

launch.subprocess = types.SimpleNamespace(Popen=Forked)
"""


def at_step(step: int, rank: int, code: str) -> str:
    """Code that makes rank `rank` run `code` in step `step`, before its forward passes. More than
    one of these may be given."""
    body = code.replace("\n", "\n            ")
    return f"""
import os, signal, sys, time
from mtlcli.training import trainer
def breaking(seeding):
    def seed_dropout(seed, at, number):
        if (at, number) == ({step}, {rank}):
            {body}
        seeding(seed, at, number)
    return seed_dropout
trainer.seed_dropout = breaking(trainer.seed_dropout)
"""


def until(process: Process, condition: Callable[[], bool], timeout: float = 100) -> None:
    """Return when the condition holds. Fails when the process has ended or it takes longer."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, (
            process.stdout + process.stderr
        )
        time.sleep(0.005)


def rows(folder: Path) -> int:
    """How many rows metrics.jsonl has, which are steps with `logger.every=1`."""
    file = folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


@cache
def composed(*options: str) -> Path:
    """The file of a config that a run starts from: composing it takes longer than all else that a
    run does here."""
    file = Path(tempfile.mkdtemp(prefix="composed-")) / "config.yaml"
    save_config(preflight(read_arguments([*RUN, *options])).configs[0], file)
    return file


def begin(
    folder: Path, *options: str, before: str = "", devices: int = 2, **environment: str
) -> Process:
    """Start a run of `devices` ranks in `folder`: what `mtl train` does once it has composed the
    config."""
    config = composed(f"runner.devices={devices}", *options)
    ready = f"""
from pathlib import Path
from mtlcli.cli import train
from mtlcli.config.snapshot import load_config
def train_main(argv):
    train.run_job(load_config(Path({str(config)!r})), Path({str(folder)!r}), ["mtl"])
    return 0
train.train_main = train_main
"""
    return start("train", before=FORKED + ready + before, **environment)


_launches = count()


@cache
def _store() -> TCPStore:
    """Where ranks from outside meet: it outlives them, as torchrun's does."""
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def outside(folder: Path, *options: str, before: str = "") -> list[Process]:
    """Start a run of two ranks, each from outside, as torchrun and SLURM do."""
    common = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(_store().port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    # Nothing that the ranks of another test have left in the store is met.
    common |= {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RESTART_COUNT": str(next(_launches)),
    }
    return [
        begin(
            folder,
            *options,
            before=before,
            devices=1,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **common,
        )
        for rank in (0, 1)
    ]


def ranks_of(process: Process | subprocess.Popen[str]) -> list[int]:
    """The processes of a launcher's ranks, in order."""
    children = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    return sorted(children)


def gone(pids: list[int], seconds: float) -> float | None:
    """Seconds until no process of `pids` was left; None when that took longer than `seconds`."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        if not any(alive(pid) for pid in pids):
            return time.monotonic() - begun
        time.sleep(0.02)
    return None


def alive(pid: int) -> bool:
    """Whether a process runs, or is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
