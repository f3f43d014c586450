"""The run folder: everything that one run leaves behind, in the formats that other programs rely on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mtlcli
from mtlcli import checkpoint
from mtlcli.config import Config
from mtlcli.config.snapshot import save_config
from mtlcli.errors import UserError
from mtlcli.runner.owner import NAME, Owner

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "hydra-core", "omegaconf", "numpy", "safetensors", "scikit-learn", "scipy")


class RunFolder:
    """Paths and writers of a run folder. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.backbone = path / "backbone"
        self.log = path / "log.txt"
        self.owner = Owner(path)

    def create(self, *, restart: bool = False) -> None:
        """Make the folder and own it. `restart`: take one in which a run ended before its first checkpoint.

        Raises UserError when it is used already or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.owner.take()
        except OSError as error:
            raise UserError(f"the folder cannot be made: {error.strerror}", where=str(self.path), fix="type another run_dir=") from error
        # status.json is the first file of a run: a process that was killed before it was in place has left no more than these two.
        used = [path.name for path in self.path.iterdir() if path.name not in (NAME, ".status.json.tmp")]
        if restart and "status.json" in used and not checkpoint.folders(self.checkpoints):
            for name in ("metrics.jsonl", "results.json"):
                (self.path / name).unlink(missing_ok=True)
            checkpoint.clean(self.checkpoints)
        elif used:
            resume = f"type resume={self.path} to go on with its run, or " if "config.yaml" in used else ""
            raise UserError("the run folder is not empty", where=str(self.path), fix=f"{resume}type another run_dir=")

    def reopen(self) -> None:
        """Own a folder that a run was made in. Raises UserError when another process does."""
        self.owner.take()
        checkpoint.clean(self.checkpoints)

    def write_config(self, config: Config) -> None:
        """config.yaml: the full resolved config."""
        save_config(config, self.path / "config.yaml")

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
                "data": data,
                "seed": seed,
                "command": command,
                "started": _now(),
            },
        )

    def write_status(self, status: str, **more: Any) -> None:
        """status.json: running, finished, failed or interrupted, with the reason."""
        self._write("status.json", {"status": status, "time": _now(), "pid": os.getpid(), **more})

    def write_results(self, results: dict[str, Any]) -> None:
        """results.json, format 1."""
        self._write("results.json", results)

    def cut_metrics(self, step: int) -> None:
        """Leave the rows of metrics.jsonl up to a step: those after it will be written again."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        # A row that a kill has torn can only be the last, and has no end of line.
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        self._write_text("metrics.jsonl", "".join(kept))

    def note_resumed(self, step: int, command: list[str], changes: list[str]) -> None:
        """Add to environment.json from where, when and how the run went on."""
        environment = self.environment()
        entry = {"step": step, "command": command, "changes": changes, "host": platform.node(), "time": _now()}
        self._write("environment.json", environment | {"resumed": [*environment.get("resumed", []), entry]})

    def environment(self) -> dict[str, Any]:
        """environment.json. Raises UserError when it cannot be read."""
        try:
            content: dict[str, Any] = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot be read: {error}", str(self.path / "environment.json"), "give a run folder that is complete"
            ) from error
        return content

    def append_metrics(self, row: dict[str, Any]) -> None:
        """One more object in metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._write_text(name, json.dumps(content, indent=2) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        # Renamed into place: a reader never sees half a file.
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _commit() -> str | None:
    """Commit of the source tree that this package runs from; None when it is installed from a wheel, or there is no git."""
    here = Path(__file__).parent
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=False).stdout.strip()

    # An installed package may lie inside a repository that is not its own.
    return git("rev-parse", "HEAD") or None if git("ls-files", Path(__file__).name) else None
