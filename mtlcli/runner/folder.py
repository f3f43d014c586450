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
from mtlcli.config import Config
from mtlcli.config.snapshot import save_config
from mtlcli.errors import UserError

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "hydra-core", "omegaconf", "numpy", "safetensors", "scikit-learn", "scipy")


class RunFolder:
    """Paths and writers of a run folder. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.backbone = path / "backbone"
        self.log = path / "log.txt"

    def create(self) -> None:
        """Make the folder. Raises UserError when it is used already or cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder cannot be made: {error.strerror}", where=str(self.path), fix="type another run_dir=") from error
        if any(self.path.iterdir()):
            raise UserError("the run folder is not empty", where=str(self.path), fix="type another run_dir=, or delete the folder")

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

    def append_metrics(self, row: dict[str, Any]) -> None:
        """One more object in metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        # Renamed into place: a reader never sees half a file.
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
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
