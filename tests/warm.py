"""`mtl` as a process of its own, without paying for the imports each time.

A server process imports everything once and then forks: the child changes to its folder, gets its
arguments and environment, runs `main` as the console script does, waits for threads, runs what is
registered for the end and flushes its output. It is a real process with its own pid: it can be
killed, stopped and signalled. What a test must have from the very start (what gets imported) or to
the very end (the interpreter that takes all objects apart) needs the command itself, not this.
"""

from __future__ import annotations

import atexit
import base64
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.pinned import ENVIRONMENT, arguments_of

ROOT = Path(__file__).parents[1]
Before = Callable[[], Any] | tuple[Callable[[], Any], ...]
"""What a process does first, to break something in itself: functions of modules, or `partial`s of
them, since they are called by name in the process."""


class Process:
    """One running `mtl`, as far as a test needs it. Its output lies in files, so it never
    blocks."""

    def __init__(
        self,
        server: subprocess.Popen[str],
        arguments: list[str],
        before: Before,
        cwd: Path,
        env: dict[str, str],
    ) -> None:
        self._server = server
        self._folder = Path(tempfile.mkdtemp(dir=ENVIRONMENT.get("TMPDIR")))
        self.returncode: int | None = None
        self.pid = self._ask(
            do="start",
            arguments=arguments,
            before=base64.b64encode(pickle.dumps(before)).decode(),
            cwd=str(cwd),
            env=env,
            stdout=str(self._folder / "out"),
            stderr=str(self._folder / "err"),
        )

    def poll(self) -> int | None:
        """The exit code (minus the signal that killed it), or None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask(do="poll", pid=self.pid)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """The exit code. Kills it and raises TimeoutError when it takes longer."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(
                    f"still running after {timeout} s:\n{self.stdout}\n{self.stderr}"
                )
            time.sleep(0.01)
        return code

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return (self._folder / "out").read_text()

    @property
    def stderr(self) -> str:
        """What it has complained of so far."""
        return (self._folder / "err").read_text()

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def _ask(self, **request: object) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: int = json.loads(self._server.stdout.readline())
        return answer


def start(*arguments: str, before: Before = (), cwd: Path = ROOT, **environment: str) -> Process:
    """Begin `mtl ARGUMENTS`. Call it from one thread."""
    return Process(_server(), arguments_of(arguments), before, cwd, ENVIRONMENT | environment)


def mtl(
    *arguments: str,
    before: Before = (),
    cwd: Path = ROOT,
    timeout: float = 200,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `mtl ARGUMENTS` to its end."""
    process = start(*arguments, before=before, cwd=cwd, **environment)
    code = process.wait(timeout)
    return subprocess.CompletedProcess(["mtl", *arguments], code, process.stdout, process.stderr)


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from tests.warm import serve; serve()"]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def serve() -> None:
    """The server: answer requests until standard input ends. Returns from `main` in a child, which
    then ends like any program."""
    import pytest  # noqa: F401  What is to be done first lies in modules of tests.
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401

    import mtlcli.cli.train
    import mtlcli.evaluation.evaluate
    import mtlcli.models.build
    import mtlcli.runner.job
    import mtlcli.tasks.classification.task
    import mtlcli.training.trainer  # noqa: F401
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.data.sample import sample_paths, sample_table

    # What a process keeps once it has done it is kept for all children: the validator, what Hydra
    # has registered, the sample world.
    preflight(read_arguments(["task=sample", "data=sample", "model=tiny"]))
    for path, (first, *_) in sample_paths().items():
        sample_table(path, first, 0)

    # No child has to look through what was imported for garbage: that takes two seconds at its end.
    gc.collect()
    gc.freeze()
    # A pipe of its own, so that nothing a child prints can be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    codes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer: int | None = os.fork()
            if answer == 0:
                _become(request, answers)
        else:
            pid = request["pid"]
            if (
                pid not in codes
                and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            ):
                codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answer = codes.get(pid)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _become(request: dict[str, object], answers: IO[str]) -> None:
    """In the child: be `mtl`, and end as it does."""
    from mtlcli.__main__ import main

    # By the object: its own end would close the number a second time, whatever file has it by then.
    answers.close()
    for number, name in ((0, os.devnull), (1, str(request["stdout"])), (2, str(request["stderr"]))):
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    # As in a terminal, also when the tests run in the background or under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(str(request["cwd"]))
    environment = request["env"]
    assert isinstance(environment, dict) and isinstance(request["arguments"], list)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mtl", *request["arguments"]]
    try:
        before: Before = pickle.loads(base64.b64decode(str(request["before"])))  # noqa: S301
        for each in before if isinstance(before, tuple) else (before,):
            each()
        code: object = main()
    except SystemExit as end:
        code = end.code or 0
    if not isinstance(code, int):
        sys.exit(code)  # type: ignore[arg-type]
    _end(code)


def _end(code: int) -> None:
    """End as the interpreter does, but leave its objects as they are: to take them apart, a fork
    would copy the memory of all that was imported, which takes half a second of CPU."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            code = 120
    os._exit(code)
