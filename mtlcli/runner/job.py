"""A run from its validated config to its results: prepare the data, make the run folder, launch the ranks, train."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from mtlcli.config import Config, samplings, weightings
from mtlcli.config.snapshot import load_config
from mtlcli.errors import MtlError, RunError
from mtlcli.models.files import BackboneFiles
from mtlcli.runner.console import Console, findings, results_table
from mtlcli.runner.folder import RunFolder
from mtlcli.runner.prepare import Prepared, prepare


def run(config: Config, run_dir: Path, *, command: list[str]) -> float:
    """Carry out a run and return its average score (NaN when no task has labelled validation rows).

    Raises UserError before anything is written, and any other error with the run folder's status set to `failed`.
    """
    if _launched():
        from mtlcli.runner.distributed import connect

        # torchrun or SLURM started this process: rank 0 makes the folder, then all of them read it.
        with connect(config.runner) as ranks:
            failure = None
            if ranks.first:
                try:
                    _start(config, prepare(config), RunFolder(run_dir), command)
                except MtlError as error:
                    failure = error
            place = ranks.share(None if failure else str(run_dir.absolute()))
            if failure is not None:
                raise failure
            if place is None:
                raise RunError("rank 0 could not start the run; its message says why")
            return _guarded(RunFolder(Path(place)), ranks.first, lambda: _score(_work(place, ranks)))

    prepared = prepare(config)
    folder = RunFolder(run_dir)
    _start(config, prepared, folder, command)
    if config.runner.devices == 1:
        from mtlcli.runner.distributed import connect

        with connect(config.runner) as ranks:
            return _guarded(folder, True, lambda: _score(_train(config, prepared, folder, ranks)))
    return _guarded(folder, True, lambda: _score(_launch(config, folder)))


def _launched() -> bool:
    """Whether a launcher such as torchrun or SLURM has started this process as one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _start(config: Config, prepared: Prepared, folder: RunFolder, command: list[str]) -> None:
    """Make the run folder with all that the ranks and later verbs need, and say what is about to be done."""
    folder.create()
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
    folder.write_status("running")
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


def _launch(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Start the ranks as processes of their own, each running `_worker`, and wait for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

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
    )
    try:
        results: dict[int, dict[str, Any]] = elastic_launch(launch, _worker)(str(folder.path.absolute()))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise RunError(f"rank {rank} (process {failure.pid}) failed: {failure.message}", where=str(folder.path)) from error
    return results[0]


def _worker(run_dir: str) -> dict[str, Any]:
    """What each launched process does."""
    from torch.distributed.elastic.multiprocessing.errors import record

    from mtlcli.runner.distributed import connect

    @record
    def work() -> dict[str, Any]:
        with connect(load_config(Path(run_dir) / "config.yaml").runner) as ranks:
            return _work(run_dir, ranks)

    results = work()
    assert results is not None
    return results


def _work(run_dir: str, ranks: Any) -> dict[str, Any]:
    """Train as one rank of a run whose folder has been made."""
    folder = RunFolder(Path(run_dir))
    config = load_config(folder.path / "config.yaml")
    return _train(config, prepare(config, files=BackboneFiles.load(folder.backbone)), folder, ranks)


def _train(config: Config, prepared: Prepared, folder: RunFolder, ranks: Any) -> dict[str, Any]:
    """Build every part of the run on this rank, train, and write the results."""
    import torch

    from mtlcli.data.batches import Stream
    from mtlcli.models.build import build_model
    from mtlcli.runner.loop import Run, train
    from mtlcli.runner.precision import choose_precision
    from mtlcli.sampling.base import TaskSize
    from mtlcli.weighting.base import WeightedTask

    with Console(config.logger.console, folder.log, silent=not ranks.first) as console, console.hearing_warnings():
        config.runner.precision = ranks.share(choose_precision(config.runner.precision, ranks.device))
        torch.manual_seed(config.seed)
        model = build_model(config, prepared.tasks, prepared.files).to(ranks.device)
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
                console=console,
                ranks=ranks,
                data_source=prepared.source.kind,
            )
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
    except KeyboardInterrupt:
        if first:
            folder.write_status("interrupted", reason="interrupted by the user")
        raise
    except BaseException as error:
        if first:
            folder.write_status("failed", reason=f"{type(error).__name__}: {error}")
        raise
