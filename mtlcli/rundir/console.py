"""The output of a run: a live view in a terminal, plain lines elsewhere, and the same lines without
colours in log.txt."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mtlcli import commands
from mtlcli.config.environment import hide
from mtlcli.disk import append, writing
from mtlcli.errors import RunError, RunWarning, count_of
from mtlcli.output import news
from mtlcli.pulse import doing, present, pulse
from mtlcli.screen import NO_WINDOW, Column, FittingTable, screen

PLAIN_SECONDS = 5.0
"""Seconds between two plain progress lines."""

SHOWN_METRICS = 2
"""The number of metrics beside the main one in the final table; results.json has all metrics."""


class Console:
    """The output of a run on the terminal and in log.txt. It is silent on every rank but the
    first."""

    def __init__(self, mode: str, log: Path | None, *, silent: bool = False) -> None:
        self._terminal = screen(quiet=silent)
        self._file = None if silent else log
        self._live_wanted = not silent and (
            mode == "live" or (mode == "auto" and self._terminal.is_terminal)
        )
        self._silent = silent
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._tasks: dict[str, dict[str, Any]] = {}
        self._speed: dict[str, Any] = {}
        self._last_line = 0.0
        self._pulse = None if silent else pulse()
        if self._pulse is not None:
            self._pulse.through(self.say)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def say(self, message: RenderableType) -> None:
        """Print a message on the terminal and add it to log.txt. Raises RunError when one of them
        cannot be written."""
        self._show(message)
        self._record(message)

    def note(self, lines: list[str]) -> None:
        """Add lines to log.txt alone."""
        if lines:
            self._record("\n".join(lines))

    def _show(self, message: RenderableType) -> None:
        if self._pulse is not None:
            self._pulse.spoken()
        try:
            self._terminal.print(message, soft_wrap=isinstance(message, str))
        except BrokenPipeError:
            raise
        except OSError as error:
            # The user has redirected the output into a file whose path and disk this process does
            # not know.
            what = f"the output cannot be written: {error.strerror}"
            raise RunError(
                what,
                where="standard output",
                fix="make room where it goes, or send it elsewhere, then resume",
            ) from error

    def _record(self, message: RenderableType) -> None:
        if self._file is not None:
            for stream in news():
                self._record(
                    f"warning: nobody reads {stream} any more; the run goes on, and this file has "
                    "all of it"
                )
            text = io.StringIO()
            screen(file=text, width=NO_WINDOW, no_color=True).print(
                hide(message) if isinstance(message, str) else message,
                soft_wrap=isinstance(message, str),
            )
            # Open the file for every message: text left in a buffer would fail once more when the
            # process ends, and hide the first failure.
            with writing(
                "the log", self._file, f"then go on: {commands.resume(self._file.parent)}"
            ):
                append(self._file, text.getvalue())

    @contextmanager
    def hearing_warnings(self) -> Iterator[None]:
        """Show every RunWarning to the user as a line inside the context; other warnings are shown
        as before."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", RunWarning)
            others = warnings.showwarning

            def show(
                message: Warning | str, category: type[Warning], *rest: Any, **more: Any
            ) -> None:
                if issubclass(category, RunWarning):
                    self.say(f"warning: {message}")
                else:
                    others(message, category, *rest, **more)

            warnings.showwarning = show
            yield

    def panel(self, title: str, lines: list[str]) -> None:
        """Print several lines with a frame around them."""

        def framed(text: str) -> Panel:
            return Panel(
                Text(text, overflow="fold"), title=Text(title), title_align="left", expand=False
            )

        text = "\n".join(lines)
        self._show(framed(text))
        self._record(framed(hide(text)))

    def start(self, tasks: list[str], step: int, steps: int) -> None:
        """Begin the view of the training, in which `step` of `steps` steps are done."""
        self._tasks = {
            name: {"loss": None, "weight": None, "score": None, "best": None, "majority": None}
            for name in tasks
        }
        self._steps = steps
        doing("training", step, steps, "step")
        if not self._live_wanted:
            return
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._terminal,
        )
        self._bar = self._progress.add_task("training", total=steps, completed=step)
        if self._pulse is not None:
            self._pulse.pause(True)
        self._live = Live(
            get_renderable=self._view, console=self._terminal, refresh_per_second=4, transient=True
        )
        self._live.start()

    def stop(self) -> None:
        """End the live view; later messages are plain lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            if self._pulse is not None:
                self._pulse.pause(False)

    def progress(self, step: int) -> None:
        """Show that a step is done. This call is cheap enough for every step."""
        doing("training", step, self._steps, "step")
        if self._progress is not None:
            self._progress.update(self._bar, completed=step)

    def metrics(self, row: dict[str, Any]) -> None:
        """Show a metrics row: update the live view, or print a line from time to time."""
        for name, entry in row["tasks"].items():
            self._tasks[name] |= {"loss": entry["loss"], "weight": entry["weight"]}
        self._speed = {
            "examples/s": row["examples_per_s"],
            "tokens/s": row["tokens_per_s"],
            "lr": row["lr"],
        }
        now = time.monotonic()
        if now - self._last_line < PLAIN_SECONDS and row["step"] < self._steps:
            return
        self._last_line = now
        losses = "  ".join(
            f"{name} {value['loss']:.3f}"
            for name, value in self._tasks.items()
            if value["loss"] is not None
        )
        left = row["seconds_left"]
        line = (
            f"step {row['step']}/{self._steps}  {losses}  lr {row['lr']:.2e}  "
            f"{row['examples_per_s']:.0f} examples/s  {int(left // 60)}:{int(left % 60):02d} left"
        )
        if self._live is None:
            self._show(line)
        self._record(line)

    def evaluating(self, task: str, split: str) -> None:
        """Show that a split of a task is being evaluated."""
        if self._live is not None:
            self._tasks[task]["score"] = "..."

    def scores(self, step: int, results: dict[str, Any], *, best: bool) -> None:
        """Show the scores of an evaluation."""
        parts = []
        for name, entry in results["tasks"].items():
            if entry["main"] is None:
                continue
            parts.append(f"{name} {entry['main']:.4f}")
            known = self._tasks[name]
            known |= {
                "score": entry["main"],
                "majority": entry["majority"],
                "best": max(entry["main"], known["best"] or entry["main"]),
            }
        if results["average"] is not None:
            parts.append(f"average {results['average']:.4f}")
        self.say(f"step {step}: " + "  ".join(parts) + (" (best so far)" if best else ""))

    def _view(self) -> Group:
        titles = ("loss", "weight", "score", "best", "majority")
        goes = {"weight": 2, "best": 3, "majority": 4, "loss": 1}
        columns = [
            Column("task", fold=20),
            *(Column(title, right=True, goes=goes.get(title, 0)) for title in titles),
        ]
        table = FittingTable(columns, style={"box": None, "padding": (0, 2, 0, 0)})
        for name, entry in self._tasks.items():
            cells = [entry[key] for key in titles]
            table.add_row(
                name,
                *(
                    value if isinstance(value, str) else "-" if value is None else f"{value:.4f}"
                    for value in cells
                ),
            )
        speed = "  ".join(
            f"{value:.3g} {key}" if key == "lr" else f"{value:.0f} {key}"
            for key, value in self._speed.items()
        )
        parts: list[RenderableType] = [table, Text(speed), Text(present())]
        return Group(*([self._progress] if self._progress is not None else []), *parts)


def results_table(results: dict[str, Any], whole: str = "results.json") -> FittingTable:
    """Return the final table: every task's main score beside the score of the best constant
    prediction, and its next metrics. `whole`: the file that holds all metrics."""
    table = FittingTable(
        [
            Column("task", fold=27),
            Column("main metric", goes=2),
            Column("score", right=True),
            Column("majority", right=True, goes=1),
            Column("points above", right=True, goes=3),
            Column("rows", right=True, goes=4),
            Column("also", goes=5),
        ],
        title=f"{results['split']} at step {results['step']} (data: {results['data_source']})",
        whole=whole,
    )
    for name, entry in results["tasks"].items():
        if entry["main"] is None:
            table.add_row(name, "", "no labels", "", "", _rows(entry))
            continue
        others = [
            f"{key} {value:.4f}"
            for key, value in entry["metrics"].items()
            if key != entry["main_metric"]
        ]
        more = ["..."] if len(others) > SHOWN_METRICS else []
        table.add_row(
            name,
            entry["main_metric"],
            f"{entry['main']:.4f}",
            f"{entry['majority']:.4f}",
            f"{100 * (entry['main'] - entry['majority']):+.1f}",
            _rows(entry),
            "\n".join(others[:SHOWN_METRICS] + more),
        )
    if results["average"] is not None:
        table.add_line()
        table.add_row("average", "", f"{results['average']:.4f}")
    if "glue_average" in results:
        # In GLUE's average, MRPC, QQP, STS-B and MNLI count with the mean of two scores.
        table.add_row("GLUE's own average", "", f"{results['glue_average']:.4f}")
    return table


def _rows(entry: dict[str, Any]) -> str:
    """Return the number of scored table rows, with the total where a limit applies. The table rows
    are those of a task's first split."""
    of = next(iter(entry["rows"].values()))["of"]
    return f"{entry['examples']:,}" + (f" of {of:,}" if of != entry["examples"] else "")


def findings(results: dict[str, Any]) -> list[str]:
    """Return sentences about what a run has found out about its tasks."""
    lines = []
    failures = results["weighting"].get("solver_failures")
    if failures:
        solver = f"the solver of {results['weighting']['name']}"
        lines.append(
            f"warning: {solver} failed in {count_of(failures, 'step')}, which used earlier weights "
            "or the plain sum"
        )
    if results["gradients"]:
        lines.append(results["gradients"]["verdict"])
    if results["affinity"]:
        groups = " | ".join("+".join(group) for group in results["affinity"]["grouping"])
        lines.append(
            f"affinity, measured in {count_of(results['affinity']['measured'], 'step')}, suggests "
            f"to train together: {groups}"
        )
    return lines
