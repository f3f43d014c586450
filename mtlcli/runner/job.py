"""A run from its validated config to its results: prepare the data, make the run folder, launch the ranks, train."""

from __future__ import annotations

import logging
import math
import os
import platform
import signal
from pathlib import Path
from typing import Any

from mtlcli import checkpoint
from mtlcli.config import Config, samplings, weightings
from mtlcli.config.changes import changes, judge, settle
from mtlcli.config.snapshot import load_config
from mtlcli.errors import Interrupted, MtlError, Problem, RunError, UserError
from mtlcli.models.files import BackboneFiles
from mtlcli.runner.console import Console, findings, results_table
from mtlcli.runner.folder import RunFolder
from mtlcli.runner.prepare import Prepared, prepare

GRACE = 3
"""Seconds that ranks have to end by themselves once one of them has failed."""


def run(config: Config, run_dir: Path, *, command: list[str], resumes: Path | None = None) -> float:
    """Carry out a run and return its average score (NaN when no task has labelled validation rows).

    `resumes`: the run folder, or one checkpoint of it, to go on from. Raises UserError before anything is written, Interrupted
    once all is saved, and any other error with the run folder's status set to `failed`.
    """

    def start() -> tuple[Prepared, RunFolder, str | None]:
        if resumes is not None:
            return _reopen(config, resumes, command)
        prepared = prepare(config)
        folder = RunFolder(run_dir)
        _start(config, prepared, folder, command)
        return prepared, folder, None

    if _launched():
        from mtlcli.runner.distributed import connect

        # torchrun or SLURM started this process: rank 0 makes the folder, then all of them read it.
        with connect(config.runner) as ranks:
            failure, place = None, None
            if ranks.first:
                try:
                    _, folder, name = start()
                    place = [str(folder.path.absolute()), name]
                except MtlError as error:
                    failure = error
            place = ranks.share(place)
            if failure is not None:
                raise failure
            if place is None:
                raise RunError("rank 0 could not start the run; its message says why")
            return _guarded(RunFolder(Path(place[0])), ranks.first, lambda: _score(_work(place[0], place[1], ranks)))

    prepared, folder, name = start()
    try:
        if config.runner.devices == 1:
            from mtlcli.runner.distributed import connect

            with connect(config.runner) as ranks:
                return _guarded(folder, True, lambda: _score(_train(config, prepared, folder, ranks, name)))
        return _guarded(folder, True, lambda: _score(_launch(config, folder, name)))
    finally:
        folder.owner.release()


def _launched() -> bool:
    """Whether a launcher such as torchrun or SLURM has started this process as one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _start(config: Config, prepared: Prepared, folder: RunFolder, command: list[str]) -> None:
    """Make the run folder with all that the ranks and later verbs need, and say what is about to be done."""
    folder.create(restart=config.resume == "auto")
    # Before anything else: it marks the folder as one that `resume=auto` may begin anew in.
    folder.write_status("running")
    config.resume = None
    if prepared.files.location is None:
        config.model.kind = "scratch"
    else:
        config.model.kind = "pretrained"
    if config.optim.lr is None:
        config.optim.lr = config.model.lr if config.model.kind == "pretrained" else config.model.scratch_lr
    folder.write_config(config)
    prepared.files.save(folder.backbone)
    folder.write_environment(
        command=command,
        data={"source": prepared.source.kind, "reason": prepared.source.reason, "fingerprints": prepared.source.fingerprints()},
        seed=config.seed,
    )
    with Console(config.logger.console, folder.log) as console:
        model = prepared.files.location or "built from scratch, tokenizer trained on the tasks' text"
        console.panel(
            "run",
            [
                f"data      {prepared.source.kind}: {prepared.source.reason}",
                f"model     {model}",
                f"tasks     {', '.join(config.tasks)}",
                f"methods   sharing={config.sharing.name} weighting={config.weighting.name} sampling={config.sampling.name}",
                f"folder    {folder.path}",
            ],
        )
        for notice in prepared.notices:
            console.say(notice)


def _reopen(config: Config, resumes: Path, command: list[str]) -> tuple[Prepared, RunFolder, str | None]:
    """Own a run folder again and check that the run can go on from a checkpoint of it: its data, its backbone, the config if it changed.

    Raises UserError with everything that stands against it; nothing has been changed then.
    """
    path = checkpoint.run_of(resumes)
    folder = RunFolder(path)
    folder.reopen()
    found, skipped = (checkpoint.read(resumes), []) if path != resumes else checkpoint.newest(folder.checkpoints)
    saved = load_config(path / "config.yaml")
    differences = changes(saved, config)
    problems, notices = judge(differences, config.allow)
    settle(saved, config)
    config.resume, config.allow = None, []
    before = folder.environment()["data"]
    prepared = prepare(config, files=BackboneFiles.load(folder.backbone))
    if prepared.source.kind != before["source"]:
        problems.append(Problem(f"the run's data came from '{before['source']}', now from '{prepared.source.kind}'", "data.source"))
    now = prepared.source.fingerprints()
    for origin, fingerprint in before["fingerprints"].items():
        if now.get(origin) != fingerprint:
            what = "is not what the run was trained on" if origin in now else "is not read any more"
            problems.append(Problem(what, origin, "bring the data back as it was, or start another run"))
    if problems:
        raise UserError(problems)
    # Later checkpoints before their rows: no checkpoint may ever be found whose rows are gone.
    checkpoint.retain(folder.checkpoints, found.step, config.runner.keep, best=found.state["best_step"])
    folder.cut_metrics(found.step)
    folder.write_config(config)
    folder.note_resumed(found.step, command, [str(change) for change in differences if not change.free])
    folder.write_status("running")
    with Console(config.logger.console, folder.log) as console:
        console.panel("resume", [f"run     {path}", f"step    {found.step}", f"tasks   {', '.join(config.tasks)}"])
        for line in (*skipped, *notices, *prepared.notices):
            console.say(line)
    return prepared, folder, found.folder.name


def _launch(config: Config, folder: RunFolder, name: str | None) -> dict[str, Any]:
    """Start the ranks as processes of their own, each running `_worker`, and wait for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from mtlcli.runner.interrupt import ending_together, passing_on

    # What it logs of a failure is said by `_told`, and better.
    for library in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.runner.devices,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
        monitor_interval=0.2,
        shutdown_timeout=GRACE,
        # Ours pass on what asks for an end, and wait until the ranks have saved.
        signals_to_handle="SIGHUP",
    )
    try:
        with passing_on(), ending_together(GRACE):
            results: dict[int, dict[str, Any]] = elastic_launch(launch, _worker)(str(folder.path.absolute()), name)
    except ChildFailedError as error:
        raise _told(error, folder) from error
    if "interrupted" in results[0]:
        number, step = results[0]["interrupted"]
        raise Interrupted(number, step, f"mtl train resume={folder.path}")
    return results[0]


def _told(error: Any, folder: RunFolder) -> RunError:
    """The failure of the rank that began it: a rank that lost its neighbour says so too, often a moment earlier."""

    def order(rank: int) -> tuple[bool, bool, int]:
        failure = error.failures[rank]
        killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        neighbour = any(text in _message(failure) for text in ("Connection closed", "Connection reset", "Broken pipe"))
        return not killed, neighbour, failure.timestamp

    rank = min(error.failures, key=order)
    failure = error.failures[rank]
    cause = f"was killed by {signal.Signals(-failure.exitcode).name}" if failure.exitcode < 0 else f"failed: {_message(failure)}"
    saved = checkpoint.folders(folder.checkpoints)
    fix = f"go on from {saved[-1].name}: mtl train resume={folder.path}" if saved else "nothing was saved yet: start again"
    return RunError(f"rank {rank} (process {failure.pid} on {platform.node()}) {cause}", where=str(folder.path), fix=fix)


def _message(failure: Any) -> str:
    """What a rank said last: torch keeps it as text, or beside its traceback."""
    message = failure.message
    text = message.get("message", "") if isinstance(message, dict) else message
    return str(text).strip()


def _worker(run_dir: str, name: str | None) -> dict[str, Any]:
    """What each launched process does. `name`: the checkpoint to go on from."""
    from torch.distributed.elastic.multiprocessing.errors import record

    from mtlcli.runner.distributed import connect
    from mtlcli.runner.interrupt import leave_with_the_launcher

    leave_with_the_launcher()

    @record
    def work() -> dict[str, Any]:
        with connect(load_config(Path(run_dir) / "config.yaml").runner, launched=True) as ranks:
            try:
                return _work(run_dir, name, ranks)
            except Interrupted as error:
                return {"interrupted": [error.number, error.step]}

    results = work()
    assert results is not None
    return results


def _work(run_dir: str, name: str | None, ranks: Any) -> dict[str, Any]:
    """Train as one rank of a run whose folder has been made."""
    folder = RunFolder(Path(run_dir))
    config = load_config(folder.path / "config.yaml")
    return _train(config, prepare(config, files=BackboneFiles.load(folder.backbone)), folder, ranks, name)


def _train(config: Config, prepared: Prepared, folder: RunFolder, ranks: Any, name: str | None) -> dict[str, Any]:
    """Build every part of the run on this rank, train, and write the results."""
    import torch

    from mtlcli.data.batches import Stream
    from mtlcli.models.build import build_model
    from mtlcli.runner.loop import Run, train
    from mtlcli.runner.precision import choose_precision
    from mtlcli.runner.saver import Saver
    from mtlcli.sampling.base import TaskSize
    from mtlcli.weighting.base import WeightedTask

    with Console(config.logger.console, folder.log, silent=not ranks.first) as console, console.hearing_warnings():
        config.runner.precision = ranks.share(choose_precision(config.runner.precision, ranks.device))
        torch.manual_seed(config.seed)
        resumed = checkpoint.read(folder.checkpoints / name) if name else None
        model = build_model(config, prepared.tasks, prepared.files, load_weights=resumed is None).to(ranks.device)
        ranks.copy_from_first([*model.parameters(), *model.buffers()])

        trained = {name: task for name, task in prepared.tasks.items() if task.config.splits.train}
        train_features = {name: prepared.features[name][task.config.splits.train] for name, task in trained.items()}
        streams, sizes = {}, {}
        for number, (name, task) in enumerate(trained.items()):
            batch_size = task.config.batch_size or config.runner.batch_size
            streams[name] = Stream(
                train_features[name].lengths, batch_size=batch_size, seed=config.seed * 1000 + number, max_tokens=config.runner.max_tokens
            )
            sizes[name] = TaskSize(len(train_features[name]), streams[name].batches_in_epoch(0), batch_size)
        sampling = samplings.implementation(config.sampling.name)(config.sampling, sizes, config.seed)
        weighting = weightings.implementation(config.weighting.name)(
            config.weighting, {name: WeightedTask(task.config.weight, task.loss_kind) for name, task in trained.items()}
        )

        per_epoch = sampling.steps_per_epoch
        steps = config.runner.steps or math.ceil((config.runner.epochs or 0) * per_epoch)
        if ranks.first:
            folder.write_config(config)
        counts = model.parameter_counts()
        console.say(
            f"{steps} steps ({steps / per_epoch:.3g} epochs of {per_epoch}), lr {config.optim.lr:g}, {config.runner.precision}, "
            f"{ranks.world} x {ranks.device.type}, {torch.get_num_threads()} threads, "
            f"{counts['total']:,} parameters, {counts['shared']:,} shared"
        )
        results = train(
            Run(
                config=config,
                model=model,
                sampling=sampling,
                weighting=weighting,
                streams=streams,
                train=train_features,
                splits=prepared.splits({name: task.config.splits.validation for name, task in prepared.tasks.items()}),
                encoder=prepared.encoder,
                steps=steps,
                eval_every=config.runner.eval_every or per_epoch,
                folder=folder,
                saver=Saver(folder.checkpoints, config.runner.keep),
                console=console,
                ranks=ranks,
                data_source=prepared.source.kind,
            ),
            resumed,
        )
        if ranks.first:
            folder.write_results(results)
            folder.write_status("finished")
        console.stop()
        console.say(results_table(results))
        for line in findings(results):
            console.say(line)
        console.say(f"run folder: {folder.path}\nevaluate it again: mtl eval {folder.path}")
    return results


def _score(results: dict[str, Any]) -> float:
    return math.nan if results["average"] is None else float(results["average"])


def _guarded(folder: RunFolder, first: bool, work: Any) -> float:
    """Run `work`; when it fails, the reason stands in status.json."""
    try:
        return float(work())
    except (KeyboardInterrupt, Interrupted) as error:
        if first:
            folder.write_status("interrupted", reason=str(error) or "interrupted by the user")
        raise
    except BaseException as error:
        if first:
            folder.write_status("failed", reason=f"{type(error).__name__}: {error}")
        raise
