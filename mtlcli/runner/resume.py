"""Resuming a run: every obstacle is looked for first, and nothing is written before the checkpoint
is restored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtlcli.commands import setting
from mtlcli.config import Config, own_code
from mtlcli.config.changes import changes, draws_masks, filled
from mtlcli.config.environment import hide
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import config_text, load_config
from mtlcli.data.record import changed_data
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import UserError
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.rundir import checkpoint
from mtlcli.rundir.checkpoint.rotation import go_back, waiting
from mtlcli.rundir.console import Console
from mtlcli.rundir.differences import differing_files, differing_settings
from mtlcli.rundir.folder import RunFolder, hidden

DERIVED = {
    "merged": "merged out of other runs' (mtl merge)",
    "compressed": "made smaller out of another run's (mtl compress)",
}
"""Entries of environment.json of runs that have not trained -> where their model comes from."""


@dataclass
class Resumption:
    """The data with which a run is resumed. It holds JSON values only, so that it can be handed on
    to the ranks."""

    checkpoint: str
    """The name of the checkpoint's folder."""
    step: int
    """The step of the checkpoint."""
    best_step: int | None
    """The step of the best score so far."""
    config: str
    """The text of the config, including the changes."""
    command: list[str]
    """The command line."""
    changes: list[str]
    """The changed settings, without keys that do not affect the result."""
    lines: list[str]
    """Lines for the user."""

    def place(self, folder: RunFolder) -> Path:
        """Return the checkpoint's folder."""
        return folder.checkpoints / self.checkpoint

    def show(self, console: Console, folder: RunFolder, tasks: Iterable[str]) -> None:
        """Show where the run goes on."""
        place = [f"run     {folder.path}", f"step    {self.step}", f"tasks   {', '.join(tasks)}"]
        console.panel("resume", place)
        for line in self.lines:
            console.say(line)

    def begin(self, folder: RunFolder, config: Config) -> None:
        """Write the state from which the run resumes, after the checkpoint has been restored: from
        here on the run is under way again."""
        # Before the metrics rows are cut: no checkpoint may exist without its metrics rows.
        self.lines += go_back(
            folder.checkpoints, self.step, config.runner.keep, best=self.best_step
        )
        folder.cut_metrics(self.step)
        folder.write_config(config)
        folder.note_resumed(self.step, self.command, self.changes, own_code.record(config))
        folder.write_status("running")


def reopen(
    config: Config, folder: RunFolder, resumes: Path, command: list[str], interrupt: Interrupt
) -> tuple[Config, Prepared, Resumption]:
    """Take the lock of a run folder again, and check that the run can resume from one of its
    checkpoints: its data, its backbone, and the config if it has changed. Return the config, with
    the run's own values where `config` leaves them open, the prepared data and the Resumption.

    Raises UserError with every obstacle; nothing has been changed then.
    """
    folder.reopen()
    found, lines = (
        checkpoint.newest(folder.checkpoints)
        if resumes == folder.path
        else (checkpoint.read(resumes), [])
    )
    environment = folder.environment()
    backbone = BackboneFiles.load(folder.backbone)
    for key, made in DERIVED.items():
        if key in environment:
            what = f"the model was {made}, so no training can go on"
            # Matrices in 8 bits cannot be trained: the run that they were made of can.
            source = environment[key]["run"] if backbone.int8 else folder.path
            fix = f"begin a run with its weights: mtl train {setting('init.from', source)}"
            raise UserError(what, str(folder.path), fix)
    saved = load_config(folder.path / "config.yaml")
    before = load_config(found.config) if found.config is not None else saved
    config = filled(before, config)
    differences = changes(before, config)
    dropout = any(draws_masks(each, backbone.architecture) for each in (before, config))
    checks = [
        differing_settings(differences, before, saved, config, found, folder, dropout=dropout),
        differing_files(found, folder.path, config.allow),
        folder.missing_rows(
            found.state, saved.logger.every, allowed="metrics.jsonl" in config.allow
        ),
    ]
    config = replaced(config, {"resume": None, "allow": []})
    with interrupt.at_once():
        prepared = prepare(config, files=backbone)
    problems = [problem for refused, _ in checks for problem in refused]
    problems += changed_data(environment["data"]["tasks"], hidden(prepared.source.record()))
    if problems:
        raise UserError(problems)
    from mtlcli.models.build import check_size

    check_size(config, prepared.tasks, prepared.files, found.folder)
    lines += [line for _, notices in checks for line in notices]
    if (fault := folder.best_fault(found.best_step)) is not None:
        lines.append(f"warning: {fault}")
    resumption = Resumption(
        checkpoint=found.folder.name,
        step=found.step,
        best_step=found.best_step,
        config=config_text(config),
        command=command,
        changes=[hide(str(change)) for change in differences if not change.free],
        lines=[*lines, *waiting(folder.checkpoints, found.step), *prepared.notices],
    )
    return config, prepared, resumption
