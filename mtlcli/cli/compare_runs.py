"""The runs of a comparison, carried out: announced, trained as far as they are missing, and read as
methods."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli.cli.compare_plan import Planned
from mtlcli.cli.report import read_runs
from mtlcli.config.section import replaced
from mtlcli.errors import Interrupted, count_of
from mtlcli.report.methods import Method


@dataclass
class Runs:
    """Carries out runs of one comparison."""

    folder: Path
    """The folder of the comparison."""
    config_dir: Path | None
    """The folder behind `-cd`."""
    again: str
    """The command that goes on with the comparison."""

    @property
    def own(self) -> list[str]:
        """The options of `mtl train` for the user's own files."""
        return [] if self.config_dir is None else ["-cd", str(self.config_dir)]

    def finish(self, planned: Sequence[Planned]) -> None:
        """Say what will be trained and what is there, and train it."""
        different = list({run.folder: run for run in planned}.values())
        new = sum(run.state != "has finished" for run in different)
        count = count_of(len(different), "run")
        print(f"mtl compare: {count} in {self.folder}, {new} of them to train")
        for run in different:
            print(f"  {run.label}, seed {run.seed}: {run.state} ({run.folder.name})")
        sys.stdout.flush()
        self.train(different)

    def train(self, planned: Sequence[Planned]) -> None:
        """Train the runs that have not finished, one after another. Raises Interrupted, with the
        command to go on with, when a signal comes."""
        from mtlcli.cli.arguments import read_arguments
        from mtlcli.cli.preflight import preflight
        from mtlcli.cli.train import run_job

        waiting = [run for run in planned if run.state != "has finished"]
        for number, run in enumerate(waiting, start=1):
            print(f"\nrun {number} of {len(waiting)}: {run.label}, seed {run.seed}", flush=True)
            resumes, config = run.folder if run.state == "goes on" else None, run.config
            if resumes is not None:
                config = preflight(read_arguments([*self.own, *run.overrides]), resumes).configs[0]
            else:
                config = replaced(config, {"run_dir": str(run.folder), "resume": "auto"})
            command = ["mtl", "train", *self.own, *run.overrides]
            try:
                run_job(config, run.folder, command, resumes=resumes)
            except Interrupted as error:
                error.go_on_with(self.again)
                raise

    def method(self, label: str, planned: Sequence[Planned]) -> Method:
        """Return the method that some finished runs are: seeds, each in one run or in several that
        share the tasks out."""
        method = Method(label, {})
        finished = read_runs([run.folder for run in planned], self.config_dir)
        for run, each in zip(planned, finished, strict=True):
            method.runs.setdefault(run.seed, []).append(each)
        return method
