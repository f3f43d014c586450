"""Two ranks in processes of their own, with the real launcher, where a test can afford them: forked
instead of started anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

from torch.distributed import TCPStore

from mtlcli.cli import train
from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.snapshot import load_config, save_config
from mtlcli.distributed import launch
from mtlcli.distributed.process_group import Ranks
from mtlcli.distributed.signals import AT_ONCE, SIGNALS
from mtlcli.runner import worker
from mtlcli.training import trainer
from tests.warm import ENVIRONMENT, Before, Process, start

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


TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    *("-m", "mtlcli"),
]
"""`mtl` on two ranks that torchrun starts."""


class Forked:
    """What the launcher needs of subprocess.Popen. The rank is a fork of the launcher, which has
    imported everything."""

    def __init__(self, command: list[str], env: dict[str, str], pass_fds: tuple[int, ...]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
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

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


def fork_ranks() -> None:
    """Make the launcher fork its ranks."""
    launch.subprocess = SimpleNamespace(Popen=Forked)  # type: ignore[assignment]


def signal_self(number: int) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def wait_for(file: Path) -> None:
    """Wait until a file exists."""
    while not file.exists():
        time.sleep(0.01)


def at_step(step: int, rank: int, *actions: Callable[[], object]) -> Callable[[], None]:
    """Make rank `rank` do something in step `step`, before its forward passes. More than one of
    these may be given."""
    return partial(_break_step, step, rank, actions)


def _break_step(step: int, rank: int, actions: tuple[Callable[[], object], ...]) -> None:
    whole = trainer.seed_dropout

    def seed_dropout(seed: int, at: int, ranks: Ranks) -> None:
        if (at, ranks.rank) == (step, rank):
            for action in actions:
                action()
        whole(seed, at, ranks)

    trainer.seed_dropout = seed_dropout


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
    file = Path(tempfile.mkdtemp(dir=ENVIRONMENT.get("TMPDIR"))) / "config.yaml"
    save_config(preflight(read_arguments([*RUN, *options])).configs[0], file)
    return file


def begin(
    folder: Path, *options: str, before: Before = (), devices: int = 2, **environment: str
) -> Process:
    """Start a run of `devices` ranks in `folder`: what `mtl train` does once it has composed the
    config."""
    config = composed(f"runner.devices={devices}", *options)
    more = before if isinstance(before, tuple) else (before,)
    ready = (fork_ranks, partial(_train_composed, config, folder))
    return start("train", before=(*ready, *more), **environment)


def _train_composed(config: Path, folder: Path) -> None:
    def train_main(argv: list[str]) -> int:
        train.run_job(load_config(config), folder, ["mtl"])
        return 0

    train.train_main = train_main


_launches = count()


@cache
def _store() -> TCPStore:
    """Where ranks from outside meet: it outlives them, as torchrun's does."""
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def launched(world: int) -> list[dict[str, str]]:
    """The environment that torchrun gives to each of `world` ranks on one machine."""
    common = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(_store().port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        # Nothing that the ranks of another test have left in the store is met.
        "TORCHELASTIC_RESTART_COUNT": str(next(_launches)),
    }
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def outside(folder: Path, *options: str, before: Before = ()) -> list[Process]:
    """Start a run of two ranks, each from outside, as torchrun and SLURM do."""
    return [
        begin(folder, *options, before=before, devices=1, **environment)
        for environment in launched(2)
    ]


def ranks_of(process: Process | subprocess.Popen[str]) -> list[int]:
    """The processes of a launcher's ranks, in order."""
    children = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    return sorted(children)


def gone(pids: list[int], seconds: float = 60) -> float | None:
    """Seconds until no process of `pids` was left; None when that took longer than `seconds`."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        if not any(alive(pid) for pid in pids):
            return time.monotonic() - begun
        time.sleep(0.02)
    return None


def hears(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def alive(pid: int) -> bool:
    """Whether a process runs, or is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
