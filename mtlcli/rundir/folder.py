"""The run folder: everything that one run leaves behind, in the formats that other programs rely
on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mtlcli
from mtlcli import commands
from mtlcli.config import Config
from mtlcli.config.environment import hide
from mtlcli.config.snapshot import save_config
from mtlcli.disk import append, flush, make_numbered, write_whole, writing
from mtlcli.errors import Problem, RunError, UserError, count_of
from mtlcli.models.files import BackboneFiles
from mtlcli.rundir import checkpoint
from mtlcli.rundir.checkpoint.rotation import clean
from mtlcli.rundir.lock import NAME, Owner

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "hydra-core",
    "omegaconf",
    "numpy",
    "safetensors",
    "scikit-learn",
    "scipy",
)


class RunFolder:
    """Paths and writers of a run folder. Only rank 0 writes. Every writer raises RunError when the
    disk does not take it."""

    def __init__(self, path: Path) -> None:
        self._place(path)
        self._new: list[Path] = []
        self.begun = False
        """Whether status.json says `running` because of this object."""

    def _place(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.backbone = path / "backbone"
        self.log = path / "log.txt"
        self.owner = Owner(path)
        self.begun = False
        """Whether status.json says `running` because of this object."""

    def create(self, *, restart: bool = False, numbered: bool = False) -> None:
        """Make the folder and own it.

        `restart`: take one in which a run ended before its first checkpoint. `numbered`: nobody has
        chosen the name, so the next free one is taken (`NAME_2`, `NAME_3`, ...) when another run
        has it. Raises UserError when the folder is used already or cannot be made.
        """
        with writing("the run folder", self.path, "or give another run_dir=", kind=UserError):
            above = [folder for folder in self.path.parents if not folder.exists()]
            if numbered:
                self._place(make_numbered(self.path))
                self._new = [self.path, *above]
            elif not self.path.exists():
                self._new = [self.path, *above]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                for made in self._new:
                    flush(made.parent)
                if restart:
                    checkpoint.refuse_links(self.path)
                used = [path.name for path in self.path.iterdir()]
                # A folder of something else gets no lock: nothing is left in it.
                if not used or NAME in used or (restart and "status.json" in used):
                    self.owner.take()
                    # status.json is the first file of a run: one that was killed before it was in
                    # place has left no more than these two.
                    used = [
                        path.name
                        for path in self.path.iterdir()
                        if path.name not in (NAME, ".status.json.tmp")
                    ]
            except OSError:
                self.discard()
                raise
        # Whoever has put something there owns it.
        self._new = [] if used else self._new or [self.path]
        if restart and "status.json" in used and not checkpoint.folders(self.checkpoints):
            if self._has_saved():
                self.owner.release()
                raise UserError(
                    "the run has saved checkpoints, and there is none now",
                    where=str(self.checkpoints),
                    fix="bring them back; to start again from zero, give another run_dir=",
                )
            for name in ("metrics.jsonl", "results.json"):
                (self.path / name).unlink(missing_ok=True)
            clean(self.checkpoints)
        elif used:
            self.owner.release()
            resume = (
                f"type {commands.setting('resume', self.path)} to go on with its run, or "
                if "config.yaml" in used
                else ""
            )
            raise UserError(
                "the run folder is not empty",
                where=str(self.path),
                fix=f"{resume}type another run_dir=",
            )

    def reopen(self) -> None:
        """Own a folder that a run was made in. Raises UserError when another process does, or it
        cannot be written."""
        with writing("the run folder", self.path, "then resume", kind=UserError):
            self.owner.take()
        with writing("the folder", self.checkpoints, "then resume", kind=UserError):
            clean(self.checkpoints)
            if self.checkpoints.is_dir():
                tempfile.TemporaryFile(dir=self.checkpoints).close()

    def discard(self) -> None:
        """Take back what `create` has made and all that came into it: the run has not begun, and
        the name stays free."""
        self.owner.release()
        for folder in self._new:
            if folder == self.path:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(OSError):  # Somebody else uses it by now.
                    folder.rmdir()

    def discard_unused(self) -> None:
        """`discard`, unless the run has come as far as a first row of metrics or a checkpoint."""
        if not (self.path / "metrics.jsonl").exists() and not checkpoint.folders(self.checkpoints):
            self.discard()

    def again(self) -> str:
        """How a run that has failed here is gone on with."""
        if checkpoint.folders(self.checkpoints):
            return f"then go on: {commands.resume(self.path)}"
        return f"then start again in the same folder: {commands.start_again(self.path)}"

    def write_config(self, config: Config) -> None:
        """config.yaml: the full resolved config."""
        with self._writing("config.yaml"):
            save_config(config, self.path / "config.yaml")

    def write_backbone(self, files: BackboneFiles) -> None:
        """backbone/: architecture and tokenizer."""
        with self._writing("backbone"):
            files.save(self.backbone)

    def write_environment(self, *, command: list[str], data: dict[str, Any], seed: int) -> None:
        """environment.json: what the run was made with."""
        versions = {"mtl": mtlcli.__version__, "python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        self._write(
            "environment.json",
            {
                "versions": versions,
                "commit": _commit(),
                "host": {
                    "name": platform.node(),
                    "system": platform.platform(),
                    "processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                },
                "data": hidden(data),
                "seed": seed,
                "command": [hide(word) for word in command],
                "started": _now(),
            },
        )

    def write_status(self, status: str, **more: Any) -> None:
        """status.json: running, finished, failed or interrupted, with the reason."""
        more = {
            name: hide(value) if isinstance(value, str) else value for name, value in more.items()
        }
        content = {"status": status, "time": _now(), "pid": os.getpid(), **more}
        if "LOCAL_RANK" in os.environ:
            content["launcher"] = os.getppid()
        try:
            self._write("status.json", content)
        except RunError:
            # A disk without any room still takes new bytes in a block that the file has: a dead run
            # shall not say that it runs.
            if not _overwrite(self.path / "status.json", _json(content)):
                raise
        self.begun = status == "running"

    def note_end(self, status: str, reason: str) -> None:
        """Write the status of a run that ends without its results, if it had begun: here, or in a
        rank that this process has launched."""
        if self.begun or self.status().get("launcher") == os.getpid():
            self.write_status(status, reason=reason)

    def status(self) -> dict[str, Any]:
        """status.json; empty when there is none that can be read."""
        try:
            found = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """results.json, format 1."""
        self._write("results.json", results)

    def missing_rows(
        self, state: dict[str, Any], every: int, *, allowed: bool
    ) -> tuple[list[Problem], list[str]]:
        """What metrics.jsonl lacks of the rows up to the step of a checkpoint's `state`, and what
        to say of the rows that it has.

        `every`: the steps between two rows, as far as that has not been changed. `allowed`: that
        rows are missing is meant. Raises UserError when it holds something else.
        """
        try:
            rows, doubled = self._rows(state["step"])
            window = sum(task["examples"] for task in state["window"]["tasks"].values())
            trained, told = (
                state["totals"]["examples"] - window,
                sum(task["examples"] for row in rows.values() for task in row["tasks"].values()),
            )
        except (KeyError, TypeError, AttributeError):
            return [], []  # No state of a run: restoring it says what is wrong.
        notes = (
            [f"metrics.jsonl: {count_of(doubled, 'second row')} of a step left out"]
            if doubled
            else []
        )
        if trained == told:
            return [], notes
        steps = [step for step in range(every, state["step"] + 1, every) if step not in rows]
        which = f"rows are missing ({_ranges(steps)})" if steps else "rows are missing or changed"
        what = (
            f"{which}: those up to step {state['step']} are of {told:,} examples, the "
            f"checkpoint of {trained:,}"
        )
        if allowed:
            return [], [*notes, f"warning: metrics.jsonl: {what}; the run goes on, as allowed"]
        return [
            Problem(
                what,
                str(self.path / "metrics.jsonl"),
                "bring the file back, or type allow=[metrics.jsonl] to go on without them",
            )
        ], notes

    def cut_metrics(self, step: int) -> None:
        """Leave one row of metrics.jsonl for each step up to `step`: those after it will be written
        again."""
        rows, _ = self._rows(step)
        with self._writing("metrics.jsonl"):
            write_whole(
                self.path / "metrics.jsonl",
                "".join(json.dumps(row) + "\n" for row in rows.values()),
            )

    def _rows(self, step: int) -> tuple[dict[int, dict[str, Any]], int]:
        """The rows of metrics.jsonl up to a step, by step, and how many more there are of the same
        steps."""
        file = self.path / "metrics.jsonl"
        with self._writing(file.name):
            lines = (
                file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                if file.exists()
                else []
            )
        rows: dict[int, dict[str, Any]] = {}
        doubled = 0
        try:
            # A row that a kill or a full disk has torn can only be the last, and has no end of
            # line.
            for row in (json.loads(line) for line in lines if line.endswith("\n")):
                if row["step"] <= step:
                    doubled += row["step"] in rows
                    rows.setdefault(row["step"], row)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fix = "move the file away and type allow=[metrics.jsonl]: the run goes on"
            raise UserError(
                "the file holds a row that no run has written", where=str(file), fix=fix
            ) from error
        return rows, doubled

    def note_resumed(self, step: int, command: list[str], changes: list[str]) -> None:
        """Add to environment.json from where, when and how the run went on."""
        environment = self.environment()
        words, told = [hide(word) for word in command], [hide(change) for change in changes]
        entry = {
            "step": step,
            "command": words,
            "changes": told,
            "host": platform.node(),
            "time": _now(),
        }
        self._write(
            "environment.json", environment | {"resumed": [*environment.get("resumed", []), entry]}
        )

    def note_saved(self, step: int) -> None:
        """Add to environment.json that there is a checkpoint: from now on the run never begins anew
        here."""
        environment = self.environment()
        if "first_checkpoint" not in environment:
            self._write("environment.json", environment | {"first_checkpoint": step})

    def _has_saved(self) -> bool:
        try:
            return (
                self.status().get("status") == "finished"
                or "first_checkpoint" in self.environment()
            )
        except UserError:  # Killed before it was written.
            return False

    def best_fault(self, step: int | None) -> str | None:
        """Return why the best checkpoint, which `mtl eval RUN` reads, cannot be used; None when it
        can."""
        if step is None:
            return None
        place = self.checkpoints / f"step_{step:08d}"
        found = checkpoint.fault(place)
        return (
            None if found is None else f"the best checkpoint, {place.name}, cannot be used: {found}"
        )

    def environment(self) -> dict[str, Any]:
        """environment.json. Raises UserError when it cannot be read."""
        try:
            content: dict[str, Any] = json.loads(
                (self.path / "environment.json").read_text(encoding="utf-8")
            )
            if not _says_what_was_read(content["data"]):
                raise ValueError("no fingerprints of the data")
            if not isinstance(content.get("resumed", []), list):
                raise ValueError("'resumed' is no list")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"the file cannot be read: {reason}",
                str(self.path / "environment.json"),
                "give a run folder that is complete",
            ) from error
        return content

    def append_metrics(self, row: dict[str, Any]) -> None:
        """One more object in metrics.jsonl."""
        with self._writing("metrics.jsonl"):
            append(self.path / "metrics.jsonl", json.dumps(row) + "\n")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        text = _json(content)
        with self._writing(name, len(text)):
            write_whole(self.path / name, text)

    @contextmanager
    def _writing(self, name: str, needed: int | None = None) -> Iterator[None]:
        with writing("the file", self.path / name, self.again(), needed=needed):
            yield


def _ranges(steps: list[int]) -> str:
    """Steps in short."""
    shown = ", ".join(map(str, steps[:8]))
    return f"{'step' if len(steps) == 1 else 'steps'} {shown}" + (
        f" and {len(steps) - 8} more" if len(steps) > 8 else ""
    )


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _overwrite(file: Path, text: str) -> bool:
    """Write over a file that exists, in its place; whether the disk took it."""
    try:
        with file.open("r+b", buffering=0) as stream:
            written = stream.write(text.encode())
            stream.truncate()
    except OSError:
        return False
    return written == len(text.encode())


def hidden(value: Any) -> Any:
    """A value whose texts hold nothing that came from the environment: a path may."""
    if isinstance(value, dict):
        return {key: hidden(inner) for key, inner in value.items()}
    return hide(value) if isinstance(value, str) else value


def _says_what_was_read(data: Any) -> bool:
    """Whether the `data` of an environment.json has the form of `DataSource.record` below
    `tasks`."""
    return all(
        isinstance(task["source"], str)
        and all(isinstance(split["fingerprint"], str) for split in task["splits"].values())
        for task in data["tasks"].values()
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _commit() -> str | None:
    """Commit of the source tree that this package runs from; None when it is installed from a
    wheel, or there is no git."""
    here = Path(__file__).parent
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout.strip()

    # An installed package may lie inside a repository that is not its own.
    return git("rev-parse", "HEAD") or None if git("ls-files", Path(__file__).name) else None
