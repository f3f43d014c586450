"""All trackers of a run, kept apart from its training.

Each tracker works in a thread of its own, which the training never waits for until the run ends,
and then for a limited time. A tracker that raises an error is left out from then on: a warning
names it at once, and another one at the end. When the run is resumed it gets what it lacks.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml  # type: ignore[import-untyped]

from mtlcli.config import Config
from mtlcli.config.environment import hide
from mtlcli.config.snapshot import config_text
from mtlcli.disk import write_whole
from mtlcli.errors import Interrupted, RunError
from mtlcli.pulse import doing
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.trackers.base import About, Ending, Tracker, row_values, score_values

CLASSES = {
    "csv": "csv_files:CsvFiles",
    "tensorboard": "tensorboard:TensorBoard",
    "wandb": "wandb:Wandb",
    "mlflow": "mlflow:MLflow",
}
"""The module and class of each tracker, imported when a run has asked for it."""
STATE = "trackers.json"
"""The file of the run folder that says by which names its trackers know the run, and how far they
have been told about it."""
WAITING = 10_000
"""The number of messages that may wait for a tracker; one that is further behind is left out."""
PATIENCE = {"finished": 60.0, "interrupted": 5.0, "failed": 5.0}
"""Seconds that the end of a run waits for its trackers. Whoever interrupts a run, a scheduler for
instance, does not wait long for it."""
FILES = ("config.yaml", "environment.json", "metrics.jsonl", "results.json", "log.txt")
"""The files of a run folder that trackers are given at the end."""


class Tracking:
    """The trackers of a run. Every method returns at once, but for the end of the context."""

    def __init__(self, folder: RunFolder, console: Console, *, main: bool) -> None:
        """`main`: whether this is the first rank; the others track nothing."""
        self._folder, self._console, self._main = folder, console, main
        self._threads: list[_Thread] = []
        self._told: set[str] = set()

    def begin(self, config: Config, step: int | None) -> None:
        """Start the trackers that `config.logger` names, once nothing can refuse the run any more.
        `step`: the step from which the run resumes; None for a run that starts.

        What metrics.jsonl has up to `step`, and a tracker lacks, is told to it.
        """
        if not self._main or not config.logger.trackers:
            return
        text = config_text(config)
        about = About(
            self._folder.path.absolute(), config.logger.project, text, yaml.safe_load(text)
        )
        try:
            state = _State(self._folder.path / STATE, anew=step is None)
        except (OSError, ValueError) as error:
            place = self._folder.path / STATE
            self._console.say(f"warning: no tracker follows the run: {place}: {_first_line(error)}")
            return
        rows = [] if step is None else list(self._folder.metrics_rows(step))
        for name in config.logger.trackers:
            thread = _Thread(name, state, about, step)
            for row in rows:
                thread.tell("metrics", row["step"], row_values(row))
            self._threads.append(thread)

    def metrics(self, row: dict[str, Any]) -> None:
        """Tell the trackers a metrics row."""
        self._tell("metrics", row["step"], row_values, row)

    def scores(self, step: int, results: dict[str, Any]) -> None:
        """Tell the trackers the results of an evaluation."""
        self._tell("scores", step, score_values, results)

    def _tell(
        self,
        what: str,
        step: int,
        numbers: Callable[[dict[str, Any]], dict[str, float]],
        values: dict[str, Any],
    ) -> None:
        if self._threads:
            told = numbers(values)
            for thread in self._threads:
                thread.tell(what, step, told)
            self._warn()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._threads:
            return
        # What ends the run is the message that counts, also where no other can be written.
        with suppress(RunError) if error is not None else nullcontext():
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        status = "finished" if error is None else "failed"
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            status = "interrupted"
        for thread in self._threads:
            thread.end(partial(self._ending, status))
        doing("waiting for trackers")
        latest = time.monotonic() + PATIENCE[status]
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))
        doing("")
        self._warn()
        for thread in self._threads:
            if thread.fault is not None:
                self._console.say(f"warning: {thread.name} has only a part of this run")
            elif thread.is_alive():
                self._console.say(
                    f"warning: {thread.name} has only a part of this run: it did not answer within "
                    f"{PATIENCE[status]:.0f} s"
                )
            else:
                self._console.say(f"{thread.name}: {thread.advice}")

    def _ending(self, status: str) -> Ending:
        folder = self._folder.path.absolute()
        files = {name: folder / name for name in FILES if (folder / name).is_file()}
        results = json.loads(files["results.json"].read_bytes()) if "results.json" in files else {}
        if results:
            files["best_checkpoint"] = folder / "checkpoints" / f"step_{results['step']:08d}"
        return Ending(status, results, files)

    def _warn(self) -> None:
        """Name the trackers that have failed since the last call."""
        for thread in self._threads:
            if thread.fault is not None and thread.name not in self._told:
                self._told.add(thread.name)
                what, trace = thread.fault
                self._console.say(
                    f"warning: the tracker {thread.name} failed, and the run goes on without it: "
                    f"{what}"
                )
                self._console.note(trace)


class _State:
    """The content of trackers.json: for each tracker its name of the run, and the newest steps that
    it was told of."""

    def __init__(self, file: Path, *, anew: bool) -> None:
        self._file, self._lock = file, threading.Lock()
        self._values: dict[str, dict[str, Any]] = {}
        if anew:
            file.unlink(missing_ok=True)
        elif file.exists():
            self._values = json.loads(file.read_bytes())

    def get(self, name: str) -> dict[str, Any]:
        """Return what is known of a tracker."""
        return dict(self._values.get(name, {"run": "", "metrics": 0, "scores": 0}))

    def set(self, name: str, values: dict[str, Any]) -> None:
        """Write what is known of a tracker."""
        with self._lock:
            self._values[name] = dict(values)
            write_whole(self._file, json.dumps(self._values, indent=2) + "\n")


class _Over(Exception):  # noqa: N818 (no error)
    """The end of a tracker's messages."""


class _Thread(threading.Thread):
    """A tracker, and the thread in which it works through its messages."""

    def __init__(self, name: str, state: _State, about: About, step: int | None) -> None:
        super().__init__(name=name, daemon=True)
        self.fault: tuple[str, list[str]] | None = None
        """Why the tracker has failed, in a line, and the traceback."""
        self.advice = ""
        """How the user can look at what the tracker has."""
        self._state, self._about, self._step = state, about, step
        self._messages: queue.Queue[Callable[[Tracker], None]] = queue.Queue(WAITING)
        self.start()

    def tell(self, what: str, step: int, values: dict[str, float]) -> None:
        """Queue a message for the tracker's method `what`."""
        self._put(lambda tracker: self._send(tracker, what, step, values))

    def end(self, ending: Callable[[], Ending]) -> None:
        """Queue the last message."""

        def finish(tracker: Tracker) -> None:
            tracker.finish(ending())
            self.advice = tracker.advice()
            raise _Over

        self._put(finish)

    def _put(self, message: Callable[[Tracker], None]) -> None:
        if self.fault is not None:
            return
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self.fault = f"{WAITING:,} messages wait for it", []

    def run(self) -> None:
        """Work until the last message, or until the tracker fails."""
        try:
            module, cls = CLASSES[self.name].split(":")
            tracker = getattr(import_module(f"mtlcli.trackers.{module}"), cls)()
            self._open(tracker)
            while self.fault is None:
                self._messages.get()(tracker)
        except _Over:
            return
        except BaseException as error:  # noqa: BLE001 (nothing that a tracker does stops the run)
            lines = traceback.format_exception(error)
            self.fault = hide(_first_line(error)), [hide(line.rstrip("\n")) for line in lines]

    def _open(self, tracker: Tracker) -> None:
        self._known = self._state.get(self.name)
        self._known["run"] = tracker.open(self._about, self._known["run"], self._step)
        if tracker.takes_back:
            for what in ("metrics", "scores"):
                self._known[what] = min(self._known[what], self._step or 0)
        self._state.set(self.name, self._known)

    def _send(self, tracker: Tracker, what: str, step: int, values: dict[str, float]) -> None:
        """Tell a step that the tracker does not have yet. The step is noted before: after a kill in
        between the tracker lacks a step, where it would otherwise have it twice."""
        before = self._known[what]
        if step <= before:
            return
        self._known[what] = step
        self._state.set(self.name, self._known)
        try:
            getattr(tracker, what)(step, values)
        except BaseException:
            self._known[what] = before
            self._state.set(self.name, self._known)
            raise


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
