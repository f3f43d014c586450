"""An existing run: its config, data and model from the run folder, and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli import commands, garbage
from mtlcli.config import Config, Task
from mtlcli.config.crosscheck import untyped_code
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
from mtlcli.data.source import changed_data, open_source
from mtlcli.disk import obstacle, writing
from mtlcli.errors import Problem, UserError
from mtlcli.evaluation.predictions import describe_rows
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.registry import suggest
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder, hidden
from mtlcli.runner.resume import differing_config, differing_files

if TYPE_CHECKING:
    from torch import Tensor

    from mtlcli.evaluation.evaluate import Scores

ATTEMPTS = 5
"""The number of attempts to read a checkpoint while a run deletes old ones."""


@dataclass
class Found:
    """A checkpoint and the run folder to which it belongs."""

    run: Path
    """The run folder."""
    checkpoint: checkpoint.Checkpoint
    """The checkpoint, which has verified."""
    tensors: dict[str, Tensor]
    """The model tensors of the checkpoint."""
    config: str | None
    """The text of the config that the checkpoint was saved with; None for format 1, which does not
    have it."""
    notices: list[str]
    """Lines about checkpoints that had to be skipped."""


def find(path: Path) -> Found:
    """Return the checkpoint that results.json describes, or the checkpoint in the folder `path`,
    with its model in memory.

    A run that is still training deletes checkpoints: when the folders change during the reading,
    the search starts again. Raises UserError when `path` is neither a run folder nor a checkpoint.
    """
    run = checkpoint.run_of(path)
    if run != path:
        return _whole(run, checkpoint.read(path), [])
    for attempt in range(1, ATTEMPTS + 1):
        there = checkpoint.folders(run / "checkpoints")
        try:
            return _whole(run, *_best(run))
        except (UserError, FileNotFoundError):
            if attempt == ATTEMPTS or checkpoint.folders(run / "checkpoints") == there:
                raise
    raise AssertionError("the last attempt returns or raises")


def _whole(run: Path, found: checkpoint.Checkpoint, notices: list[str]) -> Found:
    """Read everything that an evaluation needs from a checkpoint at once, because its folder may be
    deleted later."""
    config = None if found.config is None else found.config.read_text(encoding="utf-8")
    return Found(run, found, found.tensors("model.safetensors"), config, notices)


def _best(run: Path) -> tuple[checkpoint.Checkpoint, list[str]]:
    """Return the best checkpoint of a run, verified, and lines about damaged checkpoints that are
    newer than the newest usable one."""
    newest, notices = checkpoint.newest(run / "checkpoints")
    best, reported = newest.best_step, _step_of_results(run)
    # results.json may know a better step than the checkpoint: its scores are written after a
    # checkpoint of the same step, and a checkpoint of format 1 may never have received them.
    if reported is not None and reported != best:
        if reported == newest.step or (
            newest.around is None
            and checkpoint.fault(run / "checkpoints" / f"step_{reported:08d}") is None
        ):
            best = reported
        else:
            notices.append(
                f"results.json is about step {reported}, but {newest.folder.name} says that step "
                f"{best} was the best, and it is taken"
            )
    if best in (None, newest.step):
        return newest, notices
    folder = run / "checkpoints" / f"step_{best:08d}"
    try:
        return checkpoint.verified(folder), notices
    except ValueError as error:
        # Another checkpoint would have other scores than the run's results.json.
        raise UserError(
            f"the run's best checkpoint cannot be used: {error}",
            where=str(folder),
            fix=f"the newest: {commands.evaluate(newest.folder)}",
        ) from error


def _step_of_results(run: Path) -> int | None:
    """Return the step that results.json describes; None when the file cannot be read or has no
    valid step."""
    try:
        step = json.loads((run / "results.json").read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int and 0 <= step < 10**8 else None


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
    found = find(path)
    for notice in found.notices:
        say(notice)
    config = load_config(found.run / "config.yaml", overrides or [])
    if problems := untyped_code(config, overrides or []):
        raise UserError(problems)
    checks = (
        differing_files(found.checkpoint, found.run, config.allow),
        differing_config(found.checkpoint, found.config, found.run, config.allow),
    )
    if problems := [problem for refused, _ in checks for problem in refused]:
        raise UserError(problems)
    for line in (line for _, lines in checks for line in lines):
        say(line)
    for name in tasks or []:
        if name not in config.tasks:
            raise UserError(
                f"the run has no task '{name}'", where="--task", fix=suggest(name, config.tasks)
            )
    wanted = split or "validation"
    parts = _parts(config, wanted, tasks, say)
    whole = predictions is not None or any(
        set(names) - set(_trained(config.tasks[name])) for name, names in parts.items()
    )
    if problems := _idle(config, wanted, parts, overrides or []):
        raise UserError(problems)
    trains = {
        config.tasks[name].splits.train == each for name, names in parts.items() for each in names
    }
    for key, used in (("max_train_rows", True in trains), ("max_eval_rows", False in trains)):
        limit, typed = (
            getattr(config.data, key),
            any(override.startswith(f"data.{key}=") for override in overrides or []),
        )
        if typed and not used:
            raise UserError(
                f"the value has no effect on {', '.join(sum(parts.values(), []))}",
                f"data.{key}",
                "take it out",
            )
        if whole and used and limit is not None and not typed:
            config = replaced(config, {f"data.{key}": None})
            say(
                f"every row is evaluated: data.{key}={limit} was meant for training (type it again "
                "to keep it)"
            )
    files = {} if scores_file is None else {f"--json {scores_file}": scores_file}
    if predictions is not None:
        _check_files(predictions, parts)
        stems = [stem for name, splits in parts.items() for stem in _stems(name, splits)]
        files |= {
            f"--predictions {predictions} ({stem}{end})": predictions / f"{stem}{end}"
            for stem in stems
            for end in (".jsonl", ".json")
        }
    _check_overwrites(config, found.run, files)
    prepared, results, scores = _evaluate(
        config, found, parts, wanted, say, every_row=predictions is not None
    )
    show(results)
    # Only rank 0 has scores.
    if predictions is not None and any(scores.values()):
        _write_predictions(predictions, prepared, scores, texts)
    return results


def _idle(
    config: Config, wanted: str, parts: dict[str, list[str]], overrides: list[str]
) -> list[Problem]:
    """Return problems with overrides of tasks that this evaluation does not read."""
    problems = []
    for key in (override.partition("=")[0] for override in overrides):
        name, _, rest = key.removeprefix("tasks.").partition(".")
        if not key.startswith("tasks."):
            continue
        source = config.tasks[name].source
        kind = "files" if source.files is not None else source.kind or config.data.source
        why = {
            f"task {name} is not evaluated": name not in parts,
            f"--split {wanted} does not read it": rest.startswith("splits.")
            and rest != f"splits.{wanted}",
            "rows come from source.files": kind == "files"
            and rest.removeprefix("source.") in ("path", "hub", "hub_config"),
            f"rows come from {kind}": kind in ("local", "sample")
            and rest in ("source.hub", "source.hub_config"),
            "rows come from hub": kind == "hub" and rest == "source.path",
        }
        problems += [
            Problem(f"the value has no effect: {reason}", key, "take it out")
            for reason, holds in why.items()
            if holds
        ][:1]
    return problems


def _trained(task: Task) -> list[str]:
    """Return the splits that training reads."""
    return [*([task.splits.train] if task.splits.train else []), *task.splits.validation]


def _parts(
    config: Config, wanted: str, chosen: list[str] | None, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Return the splits to evaluate, by task: for the `chosen` tasks, or for all tasks that have
    the split; then `say` names the tasks without it.

    Raises UserError when a chosen task has no such split, or no task has it.
    """
    names = chosen or list(config.tasks)
    source = open_source(config.data, {name: config.tasks[name] for name in names}, config.seed)
    parts: dict[str, list[str]] = {}
    without: list[Problem] = []
    for name in names:
        there = source.splits(name)
        asked = _splits(config.tasks[name], wanted, there)
        # Where a task has no split at all, reading its data reports the reason.
        missing = [split for split in asked if there and split not in there]
        if asked and not missing:
            parts[name] = asked
            if wanted == "test" and (
                others := [
                    split for split in there if split.startswith("test") and split not in asked
                ]
            ):
                say(
                    f"{name}: --split test is {', '.join(asked)}; for the other "
                    f"{'one' if len(others) == 1 else 'ones'} type "
                    + " or ".join(f"--split {other}" for other in others)
                )
            continue
        what = f"task {name}: there is no split '{(missing or [wanted])[0]}'"
        without.append(
            Problem(
                what, "--split", suggest(wanted, there) if there else f"set tasks.{name}.splits"
            )
        )
    if without and (chosen or not parts):
        raise UserError(without)
    if without:
        say(
            f"no split '{wanted}', left out: "
            f"{', '.join(name for name in names if name not in parts)}"
        )
    return parts


def _splits(task: Task, wanted: str, there: list[str]) -> list[str]:
    """Return the names of the splits of a task that `wanted` means: a part that the task's config
    defines, or the name of one split."""
    splits = task.splits
    defined: dict[str, list[str | None]] = {
        "validation": [*splits.validation],
        "test": [splits.test],
        "train": [splits.train],
    }
    names = [name for name in defined.get(wanted, []) if name]
    # A file or folder may hold a split that training does not use and the config does not name.
    return names or ([wanted] if wanted in there else [])


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
    prepared = prepare(
        config, files=files, splits=lambda task: parts.get(task.name, []), unlabelled=every_row
    )
    for notice in [*prepared.notices, *_other_data(found.run, prepared)]:
        say(notice)

    from mtlcli.distributed.process_group import connect
    from mtlcli.evaluation.evaluate import evaluate
    from mtlcli.models.build import build_model, check_weights, restore_weights, without_numbers
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
        model.to(ranks.device)
        precision = ranks.broadcast_json(choose_precision(config.runner.precision, ranks.device))
        garbage.at_work()
        results, scores = evaluate(
            model,
            prepared.splits(parts),
            step=found.checkpoint.step,
            eval_batch_size=config.runner.eval_batch_size,
            input_format=input_format(prepared.encoder, precision, ranks.device),
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
            f"warning: {error.problems[0].where}: {error.problems[0].what}; whether the rows are "
            "the run's own is not known"
        ]
    return [
        f"warning: {problem.where}: {problem.what}"
        for problem in changed_data(before, hidden(prepared.source.record()))
    ]


def _stems(task: str, splits: Iterable[str]) -> list[str]:
    """Return the names, without endings, of the files of a task's predictions."""
    return [task if index == 0 else f"{task}.{split}" for index, split in enumerate(splits)]


def _check_files(folder: Path, parts: dict[str, list[str]]) -> None:
    """Check that all files of predictions can be written. Raises UserError for those that
    cannot."""
    files = [
        folder / f"{stem}.jsonl" for name, splits in parts.items() for stem in _stems(name, splits)
    ]
    problems = [
        Problem(
            f"the folder cannot be written: {why}", f"--predictions {folder}", "give another folder"
        )
        for file in files
        if (why := obstacle(file, folder=False))
    ]
    if problems:
        raise UserError(problems)


def _check_overwrites(config: Config, run: Path, files: dict[str, Path]) -> None:
    """Raise UserError when a file that an evaluation would write holds table rows that the run
    reads, or belongs to the run.

    `files`: the file of each option, by the option as it was typed.
    """
    own = run.resolve()
    root = None if config.data.root is None else Path(config.data.root).resolve()
    read = {
        Path(file).resolve()
        for task in config.tasks.values()
        for file in (task.source.files or {}).values()
    }
    problems = []
    for option, file in files.items():
        place = file.resolve()
        if place in read or (root is not None and place.is_relative_to(root) and place.exists()):
            problems.append(
                Problem(
                    f"the run's rows would be overwritten: {file}", option, "give another place"
                )
            )
        elif (place.parent == own and place.exists()) or any(
            place.is_relative_to(own / part) for part in ("checkpoints", "backbone")
        ):
            problems.append(
                Problem(
                    f"a file of the run would be overwritten: {file}", option, "give another place"
                )
            )
    if problems:
        raise UserError(problems)


def _write_predictions(
    folder: Path, prepared: Prepared, scores: dict[str, dict[str, Scores]], texts: bool
) -> None:
    """Write one file for each split: `<task>.jsonl` for the first split of a task,
    `<task>.<split>.jsonl` for further ones."""
    with writing("the predictions", folder, "then evaluate again"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, by_split in scores.items():
            task = prepared.tasks[name]
            for stem, (split, result) in zip(_stems(name, by_split), by_split.items(), strict=True):
                rows = describe_rows(task, prepared.tables[name][split], texts=texts)
                lines = "".join(
                    json.dumps(row | prediction) + "\n"
                    for row, prediction in zip(rows, result.predictions, strict=True)
                )
                (folder / f"{stem}.jsonl").write_text(lines, encoding="utf-8")
                for suffix, content in task.official_files(result.predictions).items():
                    (folder / f"{stem}{suffix}").write_text(json.dumps(content), encoding="utf-8")
