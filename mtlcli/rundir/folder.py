"""The run folder: everything that one run leaves behind, in the formats that other programs rely
on."""

from __future__ import annotations

import json
import math
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
from mtlcli.rundir.lock import NAME, FolderLock

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
    disk cannot hold the file."""

    def __init__(self, path: Path, named: str = "run_dir=") -> None:
        """`named`: how the user names another folder, for messages."""
        self._named = named
        self._place(path)
        self._new: list[Path] = []
        self.begun = False
        """Whether status.json says `running` because of this object."""

    def _place(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.backbone = path / "backbone"
        self.predictions = path / "predictions"
        self.log = path / "log.txt"
        self.lock = FolderLock(path, self._named)
        self.begun = False
        """Whether status.json says `running` because of this object."""

    def create(self, *, restart: bool = False, numbered: bool = False) -> None:
        """Make the run folder and take its folder lock.

        `restart`: accept a folder in which a run ended before its first checkpoint. `numbered`: the
        user has not chosen the name, so use the next free one (`NAME_2`, `NAME_3`, ...) when
        another run has it. Raises UserError when the folder is already used or cannot be made.
        """
        with writing("the run folder", self.path, f"or give another {self._named}", kind=UserError):
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
                # Lock only an empty folder or one of a run, so that nothing is left in a folder of
                # another program.
                if not used or NAME in used or (restart and "status.json" in used):
                    self.lock.take()
                    # A run writes status.json first: a run that was killed earlier has left no more
                    # than these two files.
                    used = [
                        path.name
                        for path in self.path.iterdir()
                        if path.name not in (NAME, ".status.json.tmp")
                    ]
            except OSError:
                self.discard()
                raise
        # A folder that held files belongs to whoever put them there, so `discard` must not delete
        # it.
        self._new = [] if used else self._new or [self.path]
        if restart and "status.json" in used and not checkpoint.folders(self.checkpoints):
            if self._has_saved():
                self.lock.release()
                raise UserError(
                    "the run has saved checkpoints, and there is none now",
                    where=str(self.checkpoints),
                    fix=f"bring them back; to start again from zero, give another {self._named}",
                )
            for name in ("metrics.jsonl", "scores.jsonl", "results.json"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.predictions, ignore_errors=True)
            clean(self.checkpoints)
        elif used:
            self.lock.release()
            resume = (
                f"type {commands.setting('resume', self.path)} to go on with its run, or "
                if "config.yaml" in used
                else ""
            )
            raise UserError(
                "the run folder is not empty",
                where=str(self.path),
                fix=f"{resume}type another {self._named}",
            )

    def reopen(self) -> None:
        """Take the folder lock of an existing run. Raises UserError when another process holds the
        lock or the folder cannot be written."""
        with writing("the run folder", self.path, "then resume", kind=UserError):
            self.lock.take()
        with writing("the folder", self.checkpoints, "then resume", kind=UserError):
            clean(self.checkpoints)
            if self.checkpoints.is_dir():
                tempfile.TemporaryFile(dir=self.checkpoints).close()

    def discard(self) -> None:
        """Release the lock and delete the folders that `create` has made, with all their files: the
        run has not begun, and its name stays free."""
        self.lock.release()
        for folder in self._new:
            if folder == self.path:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(OSError):  # Another process uses the folder by now.
                    folder.rmdir()

    def discard_unused(self) -> None:
        """Call `discard`, unless the run has written its first metrics row or a checkpoint."""
        if not (self.path / "metrics.jsonl").exists() and not checkpoint.folders(self.checkpoints):
            self.discard()

    def resume_advice(self) -> str:
        """Return the advice to the user on how to continue the run after a failure."""
        if checkpoint.folders(self.checkpoints):
            return f"then go on: {commands.resume(self.path)}"
        return f"then start again in the same folder: {commands.start_again(self.path)}"

    def write_config(self, config: Config) -> None:
        """Write config.yaml: the full resolved config."""
        with self._writing("config.yaml"):
            save_config(config, self.path / "config.yaml")

    def write_backbone(self, files: BackboneFiles) -> None:
        """Write backbone/: architecture and tokenizer."""
        with self._writing("backbone"):
            files.save(self.backbone)

    def write_environment(
        self,
        *,
        command: list[str],
        data: dict[str, Any],
        seed: int,
        methods: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Write environment.json: versions, machine, data, seed and command of the run, and the
        files of the user that its methods come from (see `config/own_code.py`). `more`: other
        entries."""
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
                "methods": methods,
                "started": _now(),
                **hidden(more),
            },
        )

    def write_status(self, status: str, **more: Any) -> None:
        """Write status.json: running, finished, pruned, failed or interrupted, with
        the reason."""
        more = {
            name: hide(value) if isinstance(value, str) else value for name, value in more.items()
        }
        content = {"status": status, "time": _now(), "pid": os.getpid(), **more}
        if "LOCAL_RANK" in os.environ:
            content["launcher"] = os.getppid()
        try:
            self._write("status.json", content)
        except RunError:
            # A full disk still accepts new bytes in a block that the file has already: status.json
            # must not say "running" after the run has ended.
            if not _overwrite(self.path / "status.json", _json(content)):
                raise
        self.begun = status == "running"

    def note_end(self, status: str, reason: str) -> None:
        """Write the status of a run that ends without results, if that run had begun in this
        process or in a rank that this process has launched."""
        if self.begun or self.status().get("launcher") == os.getpid():
            self.write_status(status, reason=reason)

    def status(self) -> dict[str, Any]:
        """Return the content of status.json; empty when the file is missing or cannot be read."""
        try:
            found = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, format 1."""
        self._write("results.json", results)

    def missing_rows(
        self, state: dict[str, Any], every: int, *, allowed: bool
    ) -> tuple[list[Problem], list[str]]:
        """Return the problems with metrics rows that are missing up to the step of a checkpoint's
        `state`, and notes for the user about the rows that exist.

        `every`: the number of steps between two metrics rows, if the user has not changed it.
        `allowed`: the user permits missing metrics rows. Raises UserError when metrics.jsonl holds
        something other than metrics rows.
        """
        try:
            rows, doubled = self._rows(state["step"])
            window = sum(task["examples"] for task in state["window"]["tasks"].values())
            trained, recorded = (
                state["totals"]["examples"] - window,
                sum(task["examples"] for row in rows.values() for task in row["tasks"].values()),
            )
        except (KeyError, TypeError, AttributeError):
            return [], []  # Not the state of a run: restoring it reports the fault.
        notes = (
            [f"metrics.jsonl: {count_of(doubled, 'second row')} of a step left out"]
            if doubled
            else []
        )
        if trained == recorded:
            return [], notes
        steps = [step for step in range(every, state["step"] + 1, every) if step not in rows]
        which = f"rows are missing ({_ranges(steps)})" if steps else "lines are missing or changed"
        what = (
            f"{which}: those up to step {state['step']} are of {recorded:,} examples, the "
            f"checkpoint of {trained:,}"
        )
        if allowed:
            return [], [*notes, f"warning: metrics.jsonl: {what}; the run goes on, as allowed"]
        return [
            Problem(
                what,
                str(self.path / "metrics.jsonl"),
                "bring the file back, or type 'allow=[metrics.jsonl]' to go on without them",
            )
        ], notes

    def cut_metrics(self, step: int) -> None:
        """Keep one metrics row for each step up to `step`, and the scores up to there: the run will
        write the later ones again."""
        rows, _ = self._rows(step)
        with self._writing("metrics.jsonl"):
            write_whole(
                self.path / "metrics.jsonl",
                "".join(json.dumps(row) + "\n" for row in rows.values()),
            )
        file = self.path / "scores.jsonl"
        with self._writing(file.name):
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            write_whole(file, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def metrics_rows(self, step: int) -> list[dict[str, Any]]:
        """Return the metrics rows up to a step."""
        return list(self._rows(step)[0].values())

    def _rows(self, step: int) -> tuple[dict[int, dict[str, Any]], int]:
        """Return the metrics rows up to a step, by step, and the number of further rows of the same
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
            # Only the last metrics row can be torn by a kill or a full disk; such a row has no line
            # end.
            for row in (json.loads(line) for line in lines if line.endswith("\n")):
                if row["step"] <= step:
                    doubled += row["step"] in rows
                    rows.setdefault(row["step"], row)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fix = "move the file away and type 'allow=[metrics.jsonl]': the run goes on"
            raise UserError(
                "the file holds a line that no run has written", where=str(file), fix=fix
            ) from error
        return rows, doubled

    def note_resumed(
        self,
        step: int,
        command: list[str],
        changes: list[str],
        methods: dict[str, Any] | None = None,
    ) -> None:
        """Add to environment.json the step, time, machine, command and changes with which the run
        was resumed, and write the files of the user that its methods come from now."""
        environment = self.environment()
        entry = {
            "step": step,
            "command": [hide(word) for word in command],
            "changes": [hide(change) for change in changes],
            "host": platform.node(),
            "time": _now(),
        }
        resumed = [*environment.get("resumed", []), entry]
        self._write("environment.json", environment | {"methods": methods, "resumed": resumed})

    def methods(self) -> Any:
        """Return what environment.json says of the user's files that the run's methods come from;
        None where it says nothing or cannot be read, which later checks report."""
        try:
            return self.environment().get("methods")
        except UserError:
            return None

    def note_saved(self, step: int) -> None:
        """Add to environment.json that a checkpoint exists: from now on, no run may start from zero
        in this folder."""
        if "first_checkpoint" not in self.environment():
            self.note("first_checkpoint", step)

    def note(self, key: str, value: Any) -> None:
        """Add an entry to environment.json."""
        self._write("environment.json", self.environment() | {key: value})

    def _has_saved(self) -> bool:
        try:
            return (
                self.status().get("status") == "finished"
                or "first_checkpoint" in self.environment()
            )
        except UserError:  # The run was killed before it wrote environment.json.
            return False

    def best_fault(self, step: int | None) -> str | None:
        """Return why the best checkpoint, which `mtl eval RUN` reads, cannot be used; None when it
        can be used."""
        if step is None:
            return None
        place = self.checkpoints / f"step_{step:08d}"
        found = checkpoint.fault(place)
        return (
            None if found is None else f"the best checkpoint, {place.name}, cannot be used: {found}"
        )

    def environment(self) -> dict[str, Any]:
        """Return the content of environment.json. Raises UserError when the file cannot be read."""
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
        """Append one metrics row to metrics.jsonl."""
        with self._writing("metrics.jsonl"):
            append(self.path / "metrics.jsonl", json.dumps(row) + "\n")

    def append_scores(self, step: int, results: dict[str, Any]) -> None:
        """Append the main scores of an evaluation to scores.jsonl."""
        row = {
            "step": step,
            "average": results["average"],
            "tasks": {name: entry["main"] for name, entry in results["tasks"].items()},
        }
        with self._writing("scores.jsonl"):
            append(self.path / "scores.jsonl", json.dumps(row) + "\n")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        text = _json(content)
        with self._writing(name, len(text)):
            write_whole(self.path / name, text)

    @contextmanager
    def _writing(self, name: str, needed: int | None = None) -> Iterator[None]:
        with writing("the file", self.path / name, self.resume_advice(), needed=needed):
            yield


def _step_of(line: str) -> float:
    """Return the step of a line of scores.jsonl; infinity for a line that a kill has cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def _ranges(steps: list[int]) -> str:
    """Return a text that names at most eight of the steps and the number of the others."""
    shown = ", ".join(map(str, steps[:8]))
    return f"{'step' if len(steps) == 1 else 'steps'} {shown}" + (
        f" and {len(steps) - 8} more" if len(steps) > 8 else ""
    )


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _overwrite(file: Path, text: str) -> bool:
    """Overwrite an existing file in its place. Return whether the disk accepted the whole text."""
    try:
        with file.open("r+b", buffering=0) as stream:
            written = stream.write(text.encode())
            stream.truncate()
    except OSError:
        return False
    return written == len(text.encode())


def hidden(value: Any) -> Any:
    """Return a value in whose texts everything that came from environment variables is hidden;
    paths may contain such parts."""
    if isinstance(value, dict):
        return {key: hidden(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hidden(inner) for inner in value]
    return hide(value) if isinstance(value, str) else value


def _says_what_was_read(data: Any) -> bool:
    """Return whether the `data` of an environment.json has the form of `DataSource.record` below
    `tasks`."""
    return all(
        isinstance(task["source"], str)
        and all(isinstance(split["fingerprint"], str) for split in task["splits"].values())
        for task in data["tasks"].values()
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _commit() -> str | None:
    """Return the commit of the source tree that this package runs from; None when the package is
    installed from a wheel, or git is missing."""
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
