"""The evaluation of a saved run, with config, data and model from the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli import garbage
from mtlcli.config import Config
from mtlcli.config.section import replaced
from mtlcli.data.record import changed_data
from mtlcli.errors import UserError
from mtlcli.evaluation.best_checkpoint import Found, config_of, find
from mtlcli.evaluation.predictions import check_places, write_predictions
from mtlcli.evaluation.splits import choose_splits, idle_overrides, lift_limits
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared, calibration_splits, prepare
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
    config = config_of(found, typed, say)
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
        write_predictions(
            predictions,
            prepared.tasks,
            prepared.tables,
            scores,
            texts=texts,
            official=True,
            then="then evaluate again",
        )
    return results


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
    from mtlcli.evaluation.saved_model import restore

    with connect(config.runner) as ranks:
        saved = restore(
            config, found, prepared.tasks, prepared.files, prepared.encoder, ranks=ranks, say=say
        )
        garbage.at_work()
        results, scores = evaluate(
            saved.model,
            prepared.splits(parts),
            calibration=prepared.calibration,
            step=found.checkpoint.step,
            eval_batch_size=config.runner.eval_batch_size,
            input_format=saved.input_format,
            bf16=saved.precision == "bf16",
            ranks=ranks,
            on_split=lambda task, split: say(f"evaluating {task}/{split}"),
        )
    prepared.source.note(results, parts)
    head = {
        "format": 1,
        "data_source": prepared.source.kind,
        "split": (config.data.fold_split if wanted == "validation" else None) or wanted,
        "step": found.checkpoint.step,
        "precision": saved.precision,
    }
    return prepared, head | results | {"parameters": saved.model.parameter_counts()}, scores


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
