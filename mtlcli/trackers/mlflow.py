"""MLflow: a server, or a store on this machine, as MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

from mtlcli.trackers.base import About, Ending, Tracker

T = TypeVar("T")
LONGEST = 6000
"""The most characters of a parameter that MLflow takes; config.yaml has all of it."""
STATES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
"""MLflow's words for how a run has ended."""


class MLflow(Tracker):
    """A run of MLflow, through its client, which keeps no state of the process."""

    takes_back = False

    def open(self, about: About, identity: str, step: int | None) -> str:
        """Start a run in the experiment, or go on with one.

        Raises RuntimeError when the store needs packages that are missing, and MLflow's own errors,
        for instance when the run of before is in another store.
        """
        import mlflow

        # Its notes on the tables of a new store would tear the live view.
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.WARNING)
        address = mlflow.get_tracking_uri()
        if address.startswith("sqlite:"):
            missing = [name for name in ("sqlalchemy", "alembic") if find_spec(name) is None]
            if missing:
                raise RuntimeError(
                    f"the store {address} needs {' and '.join(missing)}: type pip install "
                    "'mtlcli[mlflow]'"
                )
        self._client: Any = mlflow.MlflowClient()
        self._address = address
        if identity:
            self._client.update_run(identity, status="RUNNING")
            self._run = identity
            return identity
        name = about.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "mtl"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"mtl.folder": str(about.folder), "mtl.group": about.group}
        made = self._client.create_run(experiment, run_name=about.name, tags=tags)
        self._run = str(made.info.run_id)
        params = [
            mlflow.entities.Param(
                key, (value if isinstance(value, str) else json.dumps(value))[:LONGEST]
            )
            for key, value in about.flat_config().items()
        ]
        for part in _parts(params, 100):
            self._client.log_batch(self._run, params=part)
        return self._run

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, value in values.items()]
        for part in _parts(points, 1000):
            self._client.log_batch(self._run, metrics=part)

    def scores(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        self.metrics(step, values)

    def finish(self, ending: Ending) -> None:
        """Log the final table and the small files, note the paths of all, and close."""
        if table := ending.markdown():
            self._client.log_text(self._run, table + "\n", "results.md")
        for path in ending.small_files():
            self._client.log_artifact(self._run, str(path))
        for name, path in ending.files.items():
            self._client.set_tag(self._run, f"mtl.files.{name}", str(path))
        self._client.set_terminated(self._run, STATES[ending.status])

    def advice(self) -> str:
        """Return the store and the run's number in it."""
        return f"run {self._run} in {self._address}"


def _parts(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Return the items in parts of at most `most`, which is what one request may hold."""
    return [items[begin : begin + most] for begin in range(0, len(items), most)]
