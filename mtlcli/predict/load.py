"""Loading of a trained model from a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtlcli import commands
from mtlcli.config.changes import refuse_at_prediction
from mtlcli.config.own_code import import_for_run
from mtlcli.config.paths import typed_path
from mtlcli.config.snapshot import saved_values
from mtlcli.config.validate import check_key
from mtlcli.distributed.process_group import Ranks, set_up
from mtlcli.errors import Problem, UserError
from mtlcli.evaluation.best_checkpoint import Found, config_of, find
from mtlcli.evaluation.saved_model import restore
from mtlcli.models.files import BackboneFiles
from mtlcli.predict.predictor import Predictor
from mtlcli.prepare.prepare import fit_tasks
from mtlcli.rundir.checkpoint import run_of
from mtlcli.rundir.folder import RunFolder
from mtlcli.tasks.base import TaskType, build_tasks


def load(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Predictor:
    """Load a model: see `mtlcli.load`."""
    place = typed_path(str(path), "path")
    run = run_of(place)
    values = saved_values(run / "config.yaml")
    if problems := [each for text in overrides if (each := _refused(text, values))]:
        raise UserError(problems)
    own = None if config_dir is None else typed_path(str(config_dir), "config_dir")
    for line in import_for_run(run, RunFolder(run).methods(), own, commands.predict(place)):
        say(line)
    found = find(place)
    for notice in found.notices:
        say(notice)
    config = config_of(found, list(overrides), say)
    files = BackboneFiles.load(found.run / "backbone")
    tasks = build_tasks(config.formed_tasks, config.text)
    for task in tasks.values():
        task.prepare(None)
    encoder = fit_tasks(config, tasks, files)
    for name, chosen in _calibrated(found, tasks).items():
        tasks[name].use_calibration(chosen)
    ranks = Ranks(0, 1, set_up(config.runner))
    saved = restore(config, found, tasks, files, encoder, ranks=ranks, say=say)
    return Predictor(found, config, tasks, encoder, saved, ranks)


def _refused(override: str, values: dict[str, Any]) -> Problem | None:
    """Return why an override cannot be used, or None if it can. `values`: those of the run."""
    key, equals, _ = override.partition("=")
    if not equals or key.lstrip("+~") != key:
        return Problem("change values with key=value, without + and ~", override)
    return check_key(key, values) or refuse_at_prediction(key)


def _calibrated(found: Found, tasks: dict[str, TaskType[Any]]) -> dict[str, dict[str, float]]:
    """Return what the run's evaluation of the checkpoint has chosen for each task that needs it.
    Raises UserError when results.json does not say."""
    wanted = [
        name
        for name, task in tasks.items()
        if task.config.calibrates and type(task).calibrate is not TaskType.calibrate
    ]
    if not wanted:
        return {}
    file = found.run / "results.json"
    try:
        results = json.loads(file.read_bytes())
        if results["step"] == found.checkpoint.step:
            return {name: results["tasks"][name]["calibrated"] for name in wanted}
        what = f"it is about step {results['step']}, not about {found.checkpoint.step}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"it cannot be read ({type(error).__name__}: {error})"
    key = f"tasks.{wanted[0]}.no_answer_threshold"
    raise UserError(
        f"{what}: the threshold that was chosen for {key}=auto is not known",
        str(file),
        f"give the run folder rather than a checkpoint, or a number, {key}=0",
    )
