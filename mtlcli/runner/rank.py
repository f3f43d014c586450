"""A rank's part of a run: build the model, fill what is open, train, and write the results."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mtlcli import commands, garbage
from mtlcli.config import Config, Resolved, weightings
from mtlcli.config.remarks import crowded
from mtlcli.config.snapshot import config_text
from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import count_of
from mtlcli.models.build import build_model
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import bound_kernels, choose_precision, input_format
from mtlcli.prepare.prepare import Prepared
from mtlcli.pulse import doing
from mtlcli.rundir import checkpoint
from mtlcli.rundir.console import Console, findings, results_table
from mtlcli.rundir.folder import RunFolder
from mtlcli.rundir.saver import Saver
from mtlcli.runner.resolve import Machine, resolve
from mtlcli.seeds import folded
from mtlcli.training.analysis.cost import PeakMemory, flops_per_example
from mtlcli.training.batch_size_finder import free_memory, largest_batch
from mtlcli.training.run import Run
from mtlcli.training.schedule import Schedule, schedule
from mtlcli.training.trainer import Trainer
from mtlcli.weighting.base import WeightedTask, Weighting

if TYPE_CHECKING:
    from mtlcli.runner.resume import Resumption


def train_rank(
    config: Config,
    prepared: Prepared,
    folder: RunFolder,
    ranks: Ranks,
    resumption: Resumption | None,
    interrupt: Interrupt,
) -> dict[str, Any]:
    """Train as one of the ranks and return the results, which the first rank writes."""
    with (
        Console(config.logger.console, folder.log, silent=not ranks.is_main) as console,
        console.hearing_warnings(),
    ):
        precision = _precision(config, ranks)
        torch.manual_seed(folded(config.seed))
        doing("loading the model")
        resumed = (
            checkpoint.read(folder.checkpoints / resumption.checkpoint) if resumption else None
        )
        model = build_model(
            config, prepared.tasks, prepared.files, load_weights=resumed is None
        ).to(ranks.device)
        ranks.broadcast([*model.parameters(), *model.buffers()])
        weighting = _weighting(config, prepared)
        layout = input_format(prepared.encoder, precision, ranks.device)
        max_tokens = config.runner.max_tokens
        if max_tokens == "auto":
            max_tokens = _find_max_tokens(
                config, prepared, model, weighting, layout, precision, ranks, console.say
            )
        machine = Machine(ranks.world_size, precision, model.pooling, max_tokens)
        resolved = resolve(config, prepared, machine)
        plan = schedule(resolved, prepared)
        saver = Saver(folder.checkpoints, resolved.runner.keep)
        run = Run(
            config=resolved,
            model=model,
            stages=plan.stages,
            weighting=weighting,
            streams=plan.streams,
            train=prepared.train_features,
            splits=prepared.splits(
                {name: task.config.splits.validation for name, task in prepared.tasks.items()}
            ),
            input_format=layout,
            steps=plan.steps,
            eval_every=plan.eval_every,
            folder=folder,
            saver=saver,
            console=console,
            ranks=ranks,
            interrupt=interrupt,
            source=prepared.source,
        )
        garbage.at_work()
        memory = PeakMemory(ranks.device)
        with saver:
            trainer = Trainer(run, resumed)
            if ranks.is_main:
                _write_begin(resolved, folder, saver, resumption)
            _show_begin(resolved, plan, model, ranks, prepared, folder, resumption, console)
            results = trainer.train()
            doing("writing the last checkpoint")
        if ranks.is_main:
            _finish(results, run, memory)
        doing("")
        console.stop()
        console.say(results_table(results))
        for line in findings(results):
            console.say(line)
        console.say(
            f"run folder: {folder.path}\nevaluate it again: {commands.evaluate(folder.path)}"
        )
    return results


def _precision(config: Config, ranks: Ranks) -> str:
    """Return the number format of the run, which is the first rank's choice."""
    precision: str = ranks.broadcast_json(choose_precision(config.runner.precision, ranks.device))
    if precision == "bf16" and ranks.device.type == "cpu":
        bound_kernels(free_memory(ranks.device))
    return precision


def _weighting(config: Config, prepared: Prepared) -> Weighting:
    trained = {name: prepared.tasks[name] for name in prepared.train_features}
    tasks = {
        name: WeightedTask(task.config.weight, task.loss_kind) for name, task in trained.items()
    }
    made: Weighting = weightings.implementation(config.weighting.name)(config.weighting, tasks)
    return made


def _find_max_tokens(
    config: Config,
    prepared: Prepared,
    model: MultiTaskModel,
    weighting: Weighting,
    layout: InputFormat,
    precision: str,
    ranks: Ranks,
    say: Callable[[str], None],
) -> int:
    """Return what `runner.max_tokens=auto` means on these devices, and say how it was found."""
    features = prepared.train_features
    max_tokens, found = largest_batch(
        model,
        weighting,
        features,
        {
            name: prepared.tasks[name].config.batch_size or config.runner.batch_size
            for name in features
        },
        input_format=layout,
        bf16=precision == "bf16",
        accumulation=config.runner.accumulation,
        ranks=ranks,
    )
    say(f"max_tokens: {max_tokens:,} padded tokens of a task in a step ({found})")
    return max_tokens


def _write_begin(
    config: Resolved, folder: RunFolder, saver: Saver, resumption: Resumption | None
) -> None:
    """Write the state from which the run starts, now that nothing can refuse it any more."""
    if resumption is None:
        folder.write_config(config)
    else:
        resumption.begin(folder, config)
    saver.config, saver.around = config_text(config), checkpoint.digests(folder.path)
    saver.when_saved = folder.note_saved


def _show_begin(
    config: Resolved,
    plan: Schedule,
    model: MultiTaskModel,
    ranks: Ranks,
    prepared: Prepared,
    folder: RunFolder,
    resumption: Resumption | None,
    console: Console,
) -> None:
    """Show what the run is about to do."""
    if resumption is not None:
        tasks = ", ".join(config.tasks)
        console.panel(
            "resume",
            [f"run     {folder.path}", f"step    {resumption.step}", f"tasks   {tasks}"],
        )
        for line in resumption.lines:
            console.say(line)
        console.note(prepared.details)
    per_epoch, counts = plan.stages.steps_per_epoch, model.parameter_counts()
    console.say(
        f"{count_of(plan.steps, 'step')} ({plan.steps / per_epoch:.3g} epochs of {per_epoch:,}), "
        f"lr {config.optim.lr:g}, {config.runner.precision}, "
        f"{ranks.world_size} x {ranks.device.type}, "
        f"{count_of(torch.get_num_threads(), 'thread')}, "
        f"{counts['total']:,} parameters, {counts['shared']:,} shared"
    )
    if ranks.device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        for line in crowded(config.runner, local, torch.get_num_threads()):
            console.say(line)


def _finish(results: dict[str, Any], run: Run, memory: PeakMemory) -> None:
    """Add what the run has cost to its results, and write them."""
    doing("measuring the operations of a step")
    peak = memory.bytes()
    flops = flops_per_example(run.model, {name: run.fetch(name, 0) for name in run.streams})
    results["cost"] = {"flops_per_example": flops, "peak_memory": peak}
    run.folder.write_results(results)
    run.folder.write_status("finished")
