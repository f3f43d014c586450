"""Resuming a run: every obstacle is looked for first, and nothing is written before the checkpoint
is restored.

A checkpoint is used with the run folder's config, backbone and record of the data. The checkpoint
holds their state at the time of the save: a difference is reported, and refused unless `allow`
names it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.changes import changes, filled, has_dropout, judge, judge_unchanged
from mtlcli.config.environment import hide
from mtlcli.config.snapshot import config_text, load_config, read_text
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
from mtlcli.rundir.folder import RunFolder, hidden


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
    path = folder.path
    folder.reopen()
    found, lines = (
        (checkpoint.read(resumes), []) if path != resumes else checkpoint.newest(folder.checkpoints)
    )
    environment = folder.environment()
    saved = load_config(path / "config.yaml")
    before = load_config(found.config) if found.config is not None else saved
    config = filled(before, config)
    differences = changes(before, config)
    edited = [change.key for change in changes(before, saved) if change in differences]
    granted = [
        change.key
        for change in differences
        if hide(str(change)) in _granted(environment, found.step)
    ]
    backbone = BackboneFiles.load(folder.backbone)
    dropout = has_dropout(before, backbone.architecture) or has_dropout(
        config, backbone.architecture
    )
    keys = [key for key in config.allow if key not in OTHERS]
    problems, notices = judge(differences, [*keys, *granted], dropout=dropout)
    problems = [
        _explained(problem, path, found) if problem.where in edited else problem
        for problem in problems
    ]
    differing = [change.key for change in differences]
    unknown, unneeded = judge_unchanged([key for key in keys if key not in differing], config)
    files, allowed = differing_files(found, path, config.allow)
    rows, notes = folder.missing_rows(
        found.state, saved.logger.every, allowed="metrics.jsonl" in config.allow
    )
    problems += [*unknown, *files, *rows]
    config = replace(config, resume=None, allow=[])
    with interrupt.at_once():
        prepared = prepare(config, files=backbone)
    problems += changed_data(environment["data"]["tasks"], hidden(prepared.source.record()))
    if problems:
        raise UserError(problems)
    _check_size(found, config, prepared)
    lines += [*notices, *unneeded, *allowed, *notes, *_best(found, folder), *prepared.notices]
    shown_changes = [hide(str(change)) for change in differences if not change.free]
    return (
        config,
        prepared,
        Resumption(
            found.folder.name,
            found.step,
            found.best_step,
            config_text(config),
            command,
            shown_changes,
            lines,
        ),
    )


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


OTHERS = (*checkpoint.AROUND, "metrics.jsonl")
"""The names, beside keys, that `allow` can contain."""


def differing_files(
    found: checkpoint.Checkpoint, run: Path, allow: list[str]
) -> tuple[list[Problem], list[str]]:
    """Return problems with files of the run that differ from those that the checkpoint was saved
    with, and lines about the differing files that `allow` names."""
    if found.around is None:
        return [], [
            f"{found.folder.name} was saved by an earlier version: that config.yaml and backbone "
            "are as they were is not verified"
        ]
    problems, lines = [], []
    now = checkpoint.digests(run)
    for name in checkpoint.AROUND:
        if now[name] == found.around[name]:
            continue
        if name == "environment.json" and now[name] == checkpoint.UNREADABLE:
            # Resuming refuses an unreadable environment.json elsewhere; an evaluation reports that
            # it could not compare the data.
            continue
        what = "what it says of the data" if name == "environment.json" else "the file"
        what += (
            f" is not what {found.folder.name} was saved with (SHA-256)"
            if now[name] != checkpoint.UNREADABLE
            else " cannot be read"
        )
        if name in allow:
            lines.append(f"warning: {name}: {what}; it is used, as allowed")
        else:
            problems.append(
                Problem(
                    what,
                    str(run / name),
                    f"bring the file back, or type allow=[{name}] if the change is meant",
                )
            )
    return problems, lines


def differing_config(
    found: checkpoint.Checkpoint, saved: str | None, run: Path, allow: list[str]
) -> tuple[list[Problem], list[str]]:
    """Return problems and lines, as `differing_files` does, about values of config.yaml that differ
    from the checkpoint's config and that no resumed run has changed.

    `saved`: the text of the config that the checkpoint was saved with; None for format 1.
    """
    file = run / "config.yaml"
    if saved is None or saved == file.read_text(encoding="utf-8"):
        return [], []
    changed = {
        text.partition(":")[0]
        for entry in RunFolder(run).environment().get("resumed", [])
        for text in entry["changes"]
    }
    differences = [
        change
        for change in changes(read_text(saved, file), load_config(file))
        if change.key not in changed
    ]
    problems, lines = judge(
        differences, [change.key for change in differences if change.key in allow], dropout=False
    )
    return [_explained(problem, run, found) for problem in problems], [
        f"warning: {line}" for line in lines
    ]


def _explained(problem: Problem, run: Path, found: checkpoint.Checkpoint) -> Problem:
    """Return the problem of a change that was made in config.yaml, not typed on the command
    line."""
    name = found.folder.name
    back = shlex.join(["cp", str(found.folder / "config.yaml"), str(run / "config.yaml")])
    what, fixed = (
        problem.what.partition(" changes the result")[0],
        " cannot be changed in a run that has begun" in problem.what,
    )
    values = what.removesuffix(": dropout drops other elements, which").partition(
        " cannot be changed"
    )[0]
    return Problem(
        f"{problem.where} was changed after {name} was saved: {values}",
        str(run / "config.yaml"),
        f"bring the file back: {back}"
        + ("" if fixed else f", or type allow=[{problem.where}] if the change is meant"),
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
