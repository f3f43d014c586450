"""A rank's part of a run: build the model, fill what is open, train, and write the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mtlcli import commands, garbage
from mtlcli.config import Config
from mtlcli.config.snapshot import config_text
from mtlcli.distributed.process_group import Ranks
from mtlcli.distributed.signals import Interrupt
from mtlcli.fast import accelerate
from mtlcli.models.build import build_model
from mtlcli.models.packed import choose_packing
from mtlcli.models.precision import bound_kernels, choose_precision, input_format
from mtlcli.models.start import fingerprint, plain_state
from mtlcli.pulse import doing
from mtlcli.rundir.checkpoint import Checkpoint, digests, read
from mtlcli.rundir.console import Console, findings, results_table
from mtlcli.rundir.saver import Saver
from mtlcli.runner.earlier import keep_earlier
from mtlcli.runner.resolve import Machine, resolve
from mtlcli.runner.teachers import compared, give_lessons, report
from mtlcli.seeds import folded
from mtlcli.training.analysis.cost import PeakMemory, flops_per_example
from mtlcli.training.batch_size_finder import find_max_tokens, free_memory
from mtlcli.training.run import Run, build_weighting
from mtlcli.training.schedule import schedule
from mtlcli.training.trainer import Trainer

if TYPE_CHECKING:
    from mtlcli.runner.job import Job


def train_rank(job: Job, ranks: Ranks, interrupt: Interrupt) -> dict[str, Any]:
    """Train as one of the ranks and return the results, which the first rank writes."""
    with (
        Console(job.config.logger.console, job.folder.log, silent=not ranks.is_main) as console,
        console.hearing_warnings(),
    ):
        doing("loading the model")
        resumed = read(job.resumption.place(job.folder)) if job.resumption else None
        run = _build_run(job, resumed, ranks, interrupt, console)
        garbage.at_work()
        memory = PeakMemory(ranks.device)
        with run.tracking:
            with run.saver:
                if run.config.augmentation.keeps:
                    keep_earlier(run, resumed=resumed is not None)
                trainer = Trainer(run, resumed)
                _begin(run, job)
                results = trainer.train()
                doing("writing the last checkpoint")
            _finish(run, results, memory, trainer.stopped)
    return results


def _build_run(
    job: Job, resumed: Checkpoint | None, ranks: Ranks, interrupt: Interrupt, console: Console
) -> Run:
    """Build the model and the weighting, fill what the config leaves open, and plan the steps."""
    config, prepared = job.config, job.prepared
    if config.augmentation.other_runs():
        give_lessons(config, prepared, job.folder)
    precision = _choose_precision(config, ranks)
    torch.manual_seed(folded(config.seed))
    layout = input_format(prepared.encoder, precision, ranks.device)
    model = build_model(
        config, prepared.tasks, prepared.files, load_weights=resumed is None, start=job.start
    )
    job.start = None  # Its tensors are in the model.
    if resumed is None and ranks.is_main and (initial := plain_state(model)) is not None:
        # By it, `mtl merge` knows whether runs have begun with the same weights.
        job.folder.note("initial_weights", fingerprint(initial))
    if config.runner.engine == "fsdp":
        accelerate(model, config, ranks.device, precision)
        # Imported only here, because torch needs long to import what this module needs.
        from mtlcli.training.sharded import shard

        shard(model, ranks, bf16=precision == "bf16")
    else:
        if (reason := choose_packing(config, model, layout, ranks.device)) is not None:
            console.say(f"packing: off, since {reason}")
        model.to(ranks.device)
        ranks.broadcast([*model.parameters(), *model.buffers()])
        accelerate(model, config, ranks.device, precision)
    weighting = build_weighting(
        config, {name: prepared.tasks[name] for name in prepared.train_features}
    )
    max_tokens = find_max_tokens(
        config,
        prepared,
        model,
        weighting,
        input_format=layout,
        bf16=precision == "bf16",
        ranks=ranks,
        say=console.say,
    )
    packing = "off" if model.packing is None else "on"
    machine = Machine(ranks.world_size, precision, model.pooling, packing, max_tokens)
    resolved = resolve(config, prepared, machine)
    plan = schedule(resolved, prepared)
    return Run(
        config=resolved,
        model=model,
        stages=plan.stages,
        weighting=weighting,
        streams=plan.streams,
        train=prepared.train_features,
        splits=prepared.splits(
            {name: task.config.splits.validation for name, task in prepared.tasks.items()}
        ),
        calibration=prepared.calibration,
        input_format=layout,
        steps=plan.steps,
        eval_every=plan.eval_every,
        folder=job.folder,
        saver=Saver(job.folder.checkpoints, resolved.runner.keep),
        console=console,
        ranks=ranks,
        interrupt=interrupt,
        source=prepared.source,
        watch=job.watch,
    )


def _choose_precision(config: Config, ranks: Ranks) -> str:
    """Return the number format of the run, which is the first rank's choice."""
    precision: str = ranks.broadcast_json(choose_precision(config.runner.precision, ranks.device))
    if precision == "bf16" and ranks.device.type == "cpu":
        bound_kernels(free_memory(ranks.device))
    return precision


def _begin(run: Run, job: Job) -> None:
    """Write the state from which the run starts, now that nothing can refuse it any more, and show
    what the run is going to do."""
    folder, console, resumption = run.folder, run.console, job.resumption
    if run.ranks.is_main:
        if resumption is None:
            folder.write_config(run.config)
        else:
            resumption.begin(folder, run.config)
        run.saver.config = config_text(run.config)
        run.saver.around = digests(folder.path)
        run.saver.when_saved = folder.note_saved
    if resumption is not None:
        resumption.show(console, folder, run.config.tasks)
        console.note(job.prepared.details)
    run.tracking.begin(run.config, resumption.step if resumption else None)
    for line in run.describe():
        console.say(line)


def _finish(run: Run, results: dict[str, Any], memory: PeakMemory, stopped: str) -> None:
    """Write the results with what the run has cost, and show them. `stopped`: the reason for which
    the caller of the run has stopped it."""
    folder, console = run.folder, run.console
    peak = memory.bytes()
    if run.ranks.is_main or run.sharded:
        doing("measuring the operations of a step")
        batches = {name: run.fetch(name, 0) for name in run.streams}
        flops = flops_per_example(run.model, batches, bf16=run.bf16)
    if run.ranks.is_main:
        results["cost"] = {"flops_per_example": flops, "peak_memory": peak}
        if run.config.augmentation.other_runs():
            results["teachers"] = compared(results, folder)
        folder.write_results(results)
        if stopped:
            folder.write_status("pruned", reason=stopped)
        else:
            folder.write_status("finished")
    doing("")
    console.stop()
    console.say(results_table(results))
    for line in findings(results):
        console.say(line)
    for line in report(results):
        console.say(line)
    console.say(f"run folder: {folder.path}\nevaluate it again: {commands.evaluate(folder.path)}")
