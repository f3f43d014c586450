"""Weights & Biases: its server, or files that `wandb sync` sends later."""

from __future__ import annotations

import os
import shlex
import uuid
from typing import Any

from mtlcli.trackers.base import About, Ending, Tracker


class Wandb(Tracker):
    """A run of W&B, with its files below `RUN/wandb/`.

    W&B drops what is logged under a step of its own that it has passed. So steps are a value here,
    which all curves have as their x-axis.
    """

    takes_back = False

    def open(self, about: About, identity: str, step: int | None) -> str:
        """Start a run of W&B, or go on with one. Without an API key the run stays offline.

        Raises RuntimeError when WANDB_MODE asks for the server and there is no API key, and W&B's
        own errors.
        """
        import wandb

        # Its own messages would tear the live view; what goes wrong is raised.
        wandb.setup(wandb.Settings(silent=True))
        mode: Any = os.environ.get("WANDB_MODE")
        known = mode in ("offline", "disabled") or wandb.login(prompt=False)
        mode = mode or ("online" if known else "offline")
        if mode == "online" and not known:
            # W&B would ask for it on the terminal that shows the run.
            raise RuntimeError("there is no API key: type wandb login, or WANDB_MODE=offline")
        self._offline = mode == "offline"
        self._folder = about.folder
        self._run: Any = wandb.init(
            project=about.project or os.environ.get("WANDB_PROJECT") or "mtl",
            id=identity or uuid.uuid4().hex[:12],
            name=about.name,
            group=about.group,
            dir=str(about.folder),
            config=about.values,
            resume="allow",
            mode=mode,
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._run.config.update({"run_folder": str(about.folder)}, allow_val_change=True)
        return str(self._run.id)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        self._run.log({"step": step, **values})

    def scores(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        self._run.log({"step": step, **values})

    def finish(self, ending: Ending) -> None:
        """Log the final table, save the small files, and close."""
        import wandb

        if rows := ending.table():
            table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._run.log({"results": table})
        for path in ending.small_files():
            # "now": a copy, because the files of a run that is resumed change again.
            self._run.save(str(path), base_path=str(self._folder), policy="now")
        self._run.summary.update({f"files/{name}": str(at) for name, at in ending.files.items()})
        self._run.finish(exit_code=0 if ending.status == "finished" else 1)

    def advice(self) -> str:
        """Return the address of the run, or the command that sends it."""
        if self._offline:
            return f"kept offline; wandb sync {shlex.quote(str(self._folder / 'wandb'))}/offline-*"
        return str(self._run.url)
