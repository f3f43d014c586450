"""What has changed in a run folder since a checkpoint was saved.

A checkpoint is used with the run folder's config, backbone and record of the data. The checkpoint
holds their state at the time of the save: a difference is reported, and refused unless `allow`
names it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mtlcli.commands import setting
from mtlcli.config import Config
from mtlcli.config.changes import Change, Refusal, changes, judge, judge_unchanged
from mtlcli.config.environment import hide
from mtlcli.config.snapshot import load_config, read_text
from mtlcli.errors import Problem
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder

OTHERS = (*checkpoint.AROUND, "metrics.jsonl")
"""The names, beside keys, that `allow` can contain."""


def differing_settings(
    differences: list[Change],
    before: Config,
    saved: Config,
    config: Config,
    found: checkpoint.Checkpoint,
    folder: RunFolder,
    *,
    dropout: bool,
) -> tuple[list[Problem], list[str]]:
    """Return problems with the differences between `before`, the config of the checkpoint, and
    `config`, and lines about the differences that are allowed or do no harm.

    `saved`: the content of config.yaml, which a user may have edited since. `dropout`: whether the
    run drops elements.
    """
    edited = [change.key for change in changes(before, saved) if change in differences]
    granted_before = _granted(folder.environment(), found.step)
    granted = [change.key for change in differences if hide(str(change)) in granted_before]
    keys = [key for key in config.allow if key not in OTHERS]
    refusals, notices = judge(differences, [*keys, *granted], dropout=dropout)
    problems = [
        _edited(each, folder.path, found) if each.change.key in edited else each.typed()
        for each in refusals
    ]
    differing = [change.key for change in differences]
    unknown, unneeded = judge_unchanged([key for key in keys if key not in differing], config)
    return [*problems, *unknown], [*notices, *unneeded]


def _granted(environment: dict[str, Any], step: int) -> set[str]:
    """Return the changes that were allowed when the run was resumed from this step before.
    Checkpoints saved since then are gone."""
    return {
        text
        for entry in environment.get("resumed", [])
        if entry.get("step") == step
        for text in entry.get("changes", [])
    }


def differing_files(
    found: checkpoint.Checkpoint, run: Path, allow: list[str]
) -> tuple[list[Problem], list[str]]:
    """Return problems with files of the run that differ from those that the checkpoint was saved
    with, and lines about the differing files that `allow` names."""
    if found.around is None:
        return [], [
            f"{found.folder.name} was saved by an earlier version, so config.yaml and the backbone "
            "files cannot be verified"
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
                    f"bring the file back, or type {setting('allow', [name])} to accept the change",
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
    refusals, lines = judge(
        differences, [change.key for change in differences if change.key in allow], dropout=False
    )
    return [_edited(each, run, found) for each in refusals], [f"warning: {line}" for line in lines]


def _edited(refusal: Refusal, run: Path, found: checkpoint.Checkpoint) -> Problem:
    """Return the problem of a change that was made in config.yaml, not typed on the command
    line."""
    change = refusal.change
    back = shlex.join(["cp", str(found.folder / "config.yaml"), str(run / "config.yaml")])
    return Problem(
        f"{change.key} was changed after {found.folder.name} was saved: {change.values}",
        str(run / "config.yaml"),
        f"bring the file back: {back}"
        + (
            ""
            if refusal.fixed
            else f", or type {setting('allow', [change.key])} to accept the change"
        ),
    )
