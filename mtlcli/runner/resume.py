"""Resuming a run: every obstacle is looked for first, and nothing is written before the checkpoint
is restored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.changes import Change, changes, filled, has_dropout, judge, judge_unchanged
from mtlcli.config.environment import hide
from mtlcli.config.snapshot import config_text, load_config
from mtlcli.data.source import changed_data
from mtlcli.disk import size_text
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Problem, UserError
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.rundir import checkpoint
from mtlcli.rundir.checkpoint.rotation import (
    ASIDE,
    are_aside,
    drop_aside,
    retain,
    set_aside,
    step_aside,
)
from mtlcli.rundir.differences import differing_files, edited_problem
from mtlcli.rundir.folder import RunFolder, hidden

OTHERS = (*checkpoint.AROUND, "metrics.jsonl")
"""The names, beside keys, that `allow` can contain."""


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

    def begin(self, folder: RunFolder, config: Config) -> None:
        """Write the state from which the run resumes, after the checkpoint has been restored: from
        here on the run is under way again."""
        # The earlier process may have been killed between a save and the deletion of the
        # checkpoints that the save replaced.
        self.lines += drop_aside(folder.checkpoints, up_to=self.step)
        # Set later checkpoints aside before their metrics rows are cut: no checkpoint may exist
        # without its metrics rows.
        for place in set_aside(folder.checkpoints, self.step):
            name = place.name.removeprefix(ASIDE)
            self.lines.append(
                f"{name} is of a later step: it is renamed to {place.name}, and deleted when the "
                "next checkpoint is saved"
            )
        retain(folder.checkpoints, self.step, config.runner.keep, best=self.best_step)
        folder.cut_metrics(self.step)
        folder.write_config(config)
        folder.note_resumed(self.step, self.command, self.changes)
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
    saved = load_config(folder.path / "config.yaml")
    before = load_config(found.config) if found.config is not None else saved
    config = filled(before, config)
    differences = changes(before, config)
    backbone = BackboneFiles.load(folder.backbone)
    checks = [
        _judge(differences, before, saved, config, found, folder, backbone),
        differing_files(found, folder.path, config.allow),
        folder.missing_rows(
            found.state, saved.logger.every, allowed="metrics.jsonl" in config.allow
        ),
    ]
    config = replace(config, resume=None, allow=[])
    with interrupt.at_once():
        prepared = prepare(config, files=backbone)
    problems = [problem for refused, _ in checks for problem in refused]
    problems += changed_data(environment["data"]["tasks"], hidden(prepared.source.record()))
    if problems:
        raise UserError(problems)
    _check_size(found, config, prepared)
    lines += [line for _, notices in checks for line in notices]
    resumption = Resumption(
        checkpoint=found.folder.name,
        step=found.step,
        best_step=found.best_step,
        config=config_text(config),
        command=command,
        changes=[hide(str(change)) for change in differences if not change.free],
        lines=[*lines, *_best(found, folder), *prepared.notices],
    )
    return config, prepared, resumption


def _judge(
    differences: list[Change],
    before: Config,
    saved: Config,
    config: Config,
    found: checkpoint.Checkpoint,
    folder: RunFolder,
    backbone: BackboneFiles,
) -> tuple[list[Problem], list[str]]:
    """Return problems with the differences between `before`, the config of the checkpoint, and
    `config`, and lines about the differences that are allowed or do no harm.

    `saved`: the content of config.yaml, which a user may have edited since.
    """
    edited = [change.key for change in changes(before, saved) if change in differences]
    granted_before = _granted(folder.environment(), found.step)
    granted = [change.key for change in differences if hide(str(change)) in granted_before]
    keys = [key for key in config.allow if key not in OTHERS]
    dropout = any(has_dropout(each, backbone.architecture) for each in (before, config))
    problems, notices = judge(differences, [*keys, *granted], dropout=dropout)
    problems = [
        edited_problem(problem, folder.path, found) if problem.where in edited else problem
        for problem in problems
    ]
    differing = [change.key for change in differences]
    unknown, unneeded = judge_unchanged([key for key in keys if key not in differing], config)
    return [*problems, *unknown], [*notices, *unneeded]


def _check_size(found: checkpoint.Checkpoint, config: Config, prepared: Prepared) -> None:
    """Raise UserError when the run's files ask for a larger model than the checkpoint's, before
    memory for it is allocated."""
    from mtlcli.models.build import without_numbers

    model = without_numbers(config, prepared.tasks, prepared.files)
    asked = sum(tensor.nbytes for tensor in model.state_dict().values())
    if asked > (size := (found.folder / "model.safetensors").stat().st_size):
        what = (
            f"model.safetensors does not fit the run: it has {size_text(size)}, the model needs "
            f"{size_text(asked)}"
        )
        raise UserError(
            what, where=str(found.folder), fix="bring back the run's own config.yaml and backbone"
        )


def _granted(environment: dict[str, Any], step: int) -> set[str]:
    """Return the changes that were allowed when the run was resumed from this step before.
    Checkpoints saved since then are gone."""
    return {
        text
        for entry in environment.get("resumed", [])
        if entry.get("step") == step
        for text in entry.get("changes", [])
    }


def _best(found: checkpoint.Checkpoint, folder: RunFolder) -> list[str]:
    """Return a warning when the best checkpoint cannot be used, and lines about checkpoints that
    are set aside."""
    lines = [f"warning: {text}" for text in [folder.best_fault(found.best_step)] if text]
    later = [path for path in are_aside(folder.checkpoints) if step_aside(path) > found.step]
    lines += [f"{path.name} is deleted when the next checkpoint is saved" for path in later]
    return lines
