"""The evaluation of a saved run, with config, data and model from the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli import garbage
from mtlcli.config import Config
from mtlcli.config.crosscheck import untyped_code
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
from mtlcli.data.record import changed_data
from mtlcli.errors import UserError
from mtlcli.evaluation.best_checkpoint import Found, find
from mtlcli.evaluation.predictions import check_places, write_predictions
from mtlcli.evaluation.splits import choose_splits, idle_overrides, lift_limits
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared, calibration_splits, prepare
from mtlcli.rundir.differences import differing_config, differing_files
from mtlcli.rundir.folder import RunFolder, hidden
from mtlcli.tasks.base import TaskType

if TYPE_CHECKING:
    from mtlcli.evaluation.evaluate import Scores


def evaluate_path(
    path: Path,
    *,
    split: str | None = None,
    tasks: list[str] | None = None,
    overrides: list[str] | None = None,
    scores_file: Path | None = None,
    predictions: Path | None = None,
    texts: bool = False,
    say: Callable[[str], None] = lambda text: None,
    show: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Evaluate a run folder's best checkpoint, or one checkpoint. The result has the shape of
    results.json.

    `split`: `validation` (default), `test` or `train`, the parts that the tasks' configs define, or
    the name of one split. `scores_file`: the file into which `show` will write the result.
    `predictions`: a folder for the files `<task>.jsonl`, with one prediction per table row, and for
    span tasks `<task>.json` in the form that the official SQuAD script reads. `texts`: add the
    texts of the table rows to the predictions. `show`: function that is called with the result
    before the predictions are written, so that a full disk does not lose the scores.

    The limits of table rows that the run was trained with hold only where training evaluated the
    same splits and no predictions are written, so that the scores are those of results.json. Limits
    among `overrides` always hold.
    """
    wanted, typed = split or "validation", overrides or []
    found = find(path)
    for notice in found.notices:
        say(notice)
    config = _load_config(found, typed, say)
    parts = choose_splits(config, wanted, tasks, say)
    if problems := idle_overrides(config, wanted, parts, typed):
        raise UserError(problems)
    every_row = predictions is not None
    config = lift_limits(config, parts, typed, say, every_row=every_row)
    check_places(config, found.run, parts, scores_file, predictions)
    prepared, results, scores = _evaluate(config, found, parts, wanted, say, every_row=every_row)
    show(results)
    # Only rank 0 has scores.
    if predictions is not None and any(scores.values()):
        write_predictions(predictions, prepared, scores, texts)
    return results


def _load_config(found: Found, overrides: list[str], say: Callable[[str], None]) -> Config:
    """Return the run's config with the overrides.

    Raises UserError when a file of the run is not what the checkpoint was saved with; a difference
    that the run's key `allow` names is passed to `say`.
    """
    config = load_config(found.run / "config.yaml", overrides)
    if problems := untyped_code(config, overrides):
        raise UserError(problems)
    checks = (
        differing_files(found.checkpoint, found.run, config.allow),
        differing_config(found.checkpoint, found.config, found.run, config.allow),
    )
    if problems := [problem for refused, _ in checks for problem in refused]:
        raise UserError(problems)
    for line in (line for _, lines in checks for line in lines):
        say(line)
    return config


def _evaluate(
    config: Config,
    found: Found,
    parts: dict[str, list[str]],
    wanted: str,
    say: Callable[[str], None],
    *,
    every_row: bool,
) -> tuple[Prepared, dict[str, Any], dict[str, dict[str, Scores]]]:
    files = BackboneFiles.load(found.run / "backbone")

    def splits(task: TaskType[Any]) -> list[str]:
        wanted = parts.get(task.name, [])
        return [*wanted, *calibration_splits(task)] if wanted else []

    # A train split is scored as it is, however many of its rows the run has removed.
    every_train = {"data.deduplicate": False, "data.decontaminate": None}
    prepared = prepare(
        replaced(config, every_train), files=files, splits=splits, unlabelled=every_row
    )
    for notice in [*prepared.notices, *_other_data(found.run, prepared)]:
        say(notice)

    from mtlcli.distributed.process_group import connect
    from mtlcli.evaluation.evaluate import evaluate
    from mtlcli.fast import accelerate
    from mtlcli.models.build import build_model, check_weights, restore_weights, without_numbers
    from mtlcli.models.packed import choose_packing
    from mtlcli.models.precision import choose_precision, input_format

    folder = found.checkpoint.folder
    with connect(config.runner) as ranks:
        # Check the tensors against a model without memory first, because a file may ask for any
        # size.
        check_weights(
            without_numbers(config, prepared.tasks, prepared.files), found.tensors, folder
        )
        model = build_model(config, prepared.tasks, prepared.files, load_weights=False)
        restore_weights(model, found.tensors, folder)
        precision = ranks.broadcast_json(choose_precision(config.runner.precision, ranks.device))
        layout = input_format(prepared.encoder, precision, ranks.device)
        if (reason := choose_packing(config, model, layout, ranks.device)) is not None:
            say(f"packing: off, since {reason}")
        model.to(ranks.device)
        accelerate(model, config, ranks.device, precision)
        garbage.at_work()
        results, scores = evaluate(
            model,
            prepared.splits(parts),
            calibration=prepared.calibration,
            step=found.checkpoint.step,
            eval_batch_size=config.runner.eval_batch_size,
            input_format=layout,
            bf16=precision == "bf16",
            ranks=ranks,
            on_split=lambda task, split: say(f"evaluating {task}/{split}"),
        )
    prepared.source.note(results, parts)
    head = {
        "format": 1,
        "data_source": prepared.source.kind,
        "split": wanted,
        "step": found.checkpoint.step,
        "precision": precision,
    }
    return prepared, head | results | {"parameters": model.parameter_counts()}, scores


def _other_data(run: Path, prepared: Prepared) -> list[str]:
    """Return a warning for each split that the run has read and whose content or source has changed
    since."""
    try:
        before = RunFolder(run).environment()["data"]["tasks"]
    except UserError as error:
        return [
            f"warning: {error.problems[0].where}: {error.problems[0].what}; it is unknown whether "
            "the rows are the run's own"
        ]
    return [
        f"warning: {problem.where}: {problem.what}"
        for problem in changed_data(before, hidden(prepared.source.record()))
    ]
