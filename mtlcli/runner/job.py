"""A run from its validated config to its results: prepare the data, make the run folder, launch the
ranks, train."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli import commands, garbage
from mtlcli.config import Config, samplings, weightings
from mtlcli.config.sharing import ProgressiveSharing, stages_of
from mtlcli.config.snapshot import config_text, load_config, read_text
from mtlcli.distributed.environment import read_launch
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Interrupted, MtlError, RunError, UserError, count_of
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.pulse import doing
from mtlcli.rundir import checkpoint
from mtlcli.rundir.console import Console, findings, results_table
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.disk_space import check_disk_space, check_writable
from mtlcli.runner.remarks import crowded, nothing_left, remarks
from mtlcli.runner.resume import Resumption, reopen
from mtlcli.seeds import folded

MOST_STEPS = 99_999_999
"""The largest number of steps: the name of a checkpoint has eight digits for the step."""

if TYPE_CHECKING:
    from mtlcli.data.batches import Stream
    from mtlcli.data.features import Features
    from mtlcli.training.stages import Stages


def run(
    config: Config,
    run_dir: Path,
    *,
    command: list[str],
    numbered: bool = False,
    resumes: Path | None = None,
) -> float:
    """Carry out a run and return its average score (NaN when no task has labelled validation rows).

    `numbered`: add a number to the folder's name when another run has the name. `resumes`: the run
    folder, or one of its checkpoints, to resume from. Raises UserError when the run has not begun,
    and then leaves no new folder; Interrupted once everything is saved; any other error with the
    run folder's status set to `failed`.
    """

    launch = read_launch()
    if launch is not None:
        return _run_as_rank(config, run_dir, command, numbered, resumes)
    with Interrupt() as interrupt:
        prepared, folder, resumption = _begin(
            config, run_dir, command, numbered, resumes, interrupt
        )
        try:
            return _guarded(
                folder,
                True,
                lambda: _score(_carry_out(config, prepared, folder, resumption, interrupt)),
            )
        finally:
            folder.lock.release()


def _carry_out(
    config: Config,
    prepared: Prepared,
    folder: RunFolder,
    resumption: Resumption | None,
    interrupt: Interrupt,
) -> dict[str, Any]:
    """Train in this process, or in ranks that this process launches."""
    doing("loading torch")
    if config.runner.devices == 1:
        from mtlcli.distributed.process_group import connect

        with connect(config.runner) as ranks:
            return _train(config, prepared, folder, ranks, resumption, interrupt)

    from mtlcli.runner.launch import launch

    doing("")  # From here on the first rank shows what is being done.
    return launch(config.runner, folder, resumption, interrupt)


def _run_as_rank(
    config: Config, run_dir: Path, command: list[str], numbered: bool, resumes: Path | None
) -> float:
    """Carry out a run whose ranks torchrun or SLURM has started: rank 0 makes the folder, then all
    ranks read it."""
    from mtlcli.distributed.process_group import is_lost_rank, lost_rank_text

    try:
        return _take_part(config, run_dir, command, numbered, resumes)
    except MtlError:
        raise
    except Exception as error:
        if not is_lost_rank(error):
            raise
        what = f"lost another rank before the run began: {lost_rank_text(error)}"
        fix = (
            "the message of that rank, or of the launcher, says why; then type the same command "
            "again"
        )
        raise RunError(what, str(read_launch()), fix) from error


def _take_part(
    config: Config, run_dir: Path, command: list[str], numbered: bool, resumes: Path | None
) -> float:
    from mtlcli.distributed.process_group import connect, is_lost_rank, lost_rank_text

    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    with (
        Interrupt() as interrupt,
        interrupt.leaving_with(os.getppid()) if by_torchrun else nullcontext(),
        connect(config.runner, meanwhile=interrupt.at_once()) as ranks,
    ):
        # The launcher decides the number of ranks; a resumed run must have as many as before.
        config.runner.devices = ranks.world_size
        failure: MtlError | None = None
        place: dict[str, Any] = {}
        own_folder: RunFolder | None = None
        if ranks.is_main:
            try:
                # This rank holds the folder lock to the end.
                _, own_folder, resumption = _begin(
                    config, run_dir, command, numbered, resumes, interrupt
                )
                place = {
                    "folder": str(own_folder.path.absolute()),
                    "resumption": asdict(resumption) if resumption else None,
                }
            except MtlError as error:
                failure = error
                place = {"interrupted": error.number} if isinstance(error, Interrupted) else {}
        place = ranks.broadcast_json(place)
        if failure is not None:
            raise failure
        if "interrupted" in place:
            raise Interrupted(place["interrupted"])
        if not place:
            raise RunError("rank 0 could not start the run; its message says why")
        folder = own_folder or RunFolder(Path(place["folder"]))

        def train() -> float:
            try:
                return _score(work(folder, place["resumption"], ranks, interrupt))
            except Interrupted:
                raise
            except MtlError as error:
                ranks.report_error(error)
                raise
            except Exception as error:
                if not is_lost_rank(error):
                    raise
                if (cause := ranks.error_of_another_rank()) is not None:
                    raise cause from error
                what = f"rank {ranks.rank} lost another rank: {lost_rank_text(error)}"
                fix = f"the launcher says which and why; {folder.resume_advice()}"
                raise RunError(what, str(folder.path), fix) from error

        return _guarded(folder, ranks.is_main, train)


def _check_plan(
    config: Config, prepared: Prepared, run_dir: Path, step: int | None = None
) -> list[str]:
    """Return a line for each setting that has no effect in the run, or in the rest of the run after
    `step`.

    Raises UserError when the disk has too little space for the run.
    """
    _, stages, steps = _order(config, prepared)
    eval_every = _eval_every(config, prepared, stages)
    lines = list(remarks(config, steps, eval_every))
    if step is not None and (finished := nothing_left(run_dir, config, step, steps)) is not None:
        lines.append(finished)
    save_every = config.runner.save_every or eval_every
    begin = step or 0
    saves = steps // save_every - begin // save_every + (steps % save_every > 0 and begin < steps)
    existing = None if step is None else len(checkpoint.folders(run_dir / "checkpoints"))
    check_disk_space(
        config, prepared.tasks, prepared.files, run_dir, saves=saves, existing=existing
    )
    return lines


def _begin(
    config: Config,
    run_dir: Path,
    command: list[str],
    numbered: bool,
    resumes: Path | None,
    interrupt: Interrupt,
) -> tuple[Prepared, RunFolder, Resumption | None]:
    """Prepare the data, then make the run folder or open it again. Return the prepared data, the
    folder, and the Resumption of a run that is resumed.

    Until the folder is touched, a signal ends this function at once; after that, the training loop
    handles the signal and saves before it stops.
    """
    folder = RunFolder(run_dir if resumes is None else checkpoint.run_of(resumes))
    check_writable(folder.path)
    interrupt.before_leaving = folder.note_end
    try:
        if resumes is not None:
            prepared, resumption = reopen(config, folder, resumes, command, interrupt)
            resumption.lines += _check_plan(config, prepared, folder.path, resumption.step)
            return prepared, folder, resumption
        with interrupt.at_once():
            prepared = prepare(config)
            prepared.notices += _check_plan(config, prepared, folder.path)
        folder.create(restart=config.resume == "auto", numbered=numbered)
        _start(config, prepared, folder, command)
    except RunError as error:
        # The disk has failed between the check and the first step.
        _note_end(folder, "failed", str(error), error)
        folder.discard()
        raise UserError(error.problems) from error
    except BaseException as error:
        _note_end(folder, "failed", f"{type(error).__name__}: {error}", error)
        folder.lock.release()
        raise
    return prepared, folder, None


def _start(config: Config, prepared: Prepared, folder: RunFolder, command: list[str]) -> None:
    """Fill the run folder with everything that the ranks and later verbs need, and show what the
    run is about to do."""
    # status.json comes first: it marks the folder as one in which `resume=auto` may start again.
    folder.write_status("running")
    config.resume = None
    if prepared.files.location is None:
        config.model.kind = "scratch"
    else:
        config.model.kind = "pretrained"
    # Fix the source, so that a later verb does not choose again, for example because the hub can be
    # reached by then.
    config.data.source = prepared.source.default or config.data.source
    if config.optim.lr is None:
        suits = config.model.lr if config.model.kind == "pretrained" else config.model.scratch_lr
        config.optim.lr = suits * config.optim.relative_lr
    folder.write_config(config)
    folder.write_backbone(prepared.files)
    folder.write_environment(
        command=command,
        data={"source": prepared.source.kind, "tasks": prepared.source.record()},
        seed=config.seed,
    )
    with Console(config.logger.console, folder.log) as console:
        model = (
            prepared.files.location or "built from scratch, tokenizer trained on the tasks' text"
        )
        console.panel(
            "run",
            [
                f"data      {prepared.source.describe()}",
                f"model     {model}",
                f"tasks     {', '.join(config.tasks)}",
                f"methods   sharing={config.sharing.name} weighting={config.weighting.name} "
                f"sampling={config.sampling.name}",
                f"folder    {folder.path}",
            ],
        )
        for notice in prepared.notices:
            console.say(notice)
        console.note(prepared.details)


def work(
    folder: RunFolder, values: dict[str, Any] | None, ranks: Any, interrupt: Interrupt
) -> dict[str, Any]:
    """Train as one rank of a run whose folder has been made. `values`: the fields of the
    Resumption, if the run is resumed."""
    resumption = None if values is None else Resumption(**values)
    config = config_of(folder.path, values)
    return _train(
        config,
        prepare(config, files=BackboneFiles.load(folder.backbone)),
        folder,
        ranks,
        resumption,
        interrupt,
    )


def config_of(run_dir: Path, values: dict[str, Any] | None) -> Config:
    """Return the config for the ranks of a run. A resumed run has its config in `values`, because
    config.yaml is not yet written."""
    return (
        load_config(run_dir / "config.yaml")
        if values is None
        else read_text(values["config"], run_dir / "config.yaml")
    )


def _train(
    config: Config,
    prepared: Prepared,
    folder: RunFolder,
    ranks: Any,
    resumption: Resumption | None,
    interrupt: Interrupt,
) -> dict[str, Any]:
    """Build every part of the run on this rank, train, and write the results."""
    import torch

    from mtlcli.models.build import build_model
    from mtlcli.rundir.saver import Saver
    from mtlcli.training.analysis.cost import PeakMemory, flops_per_example
    from mtlcli.training.batch_size_finder import free_memory
    from mtlcli.training.precision import bound_kernels, choose_precision, input_format
    from mtlcli.training.run import Run
    from mtlcli.training.trainer import Trainer
    from mtlcli.weighting.base import WeightedTask

    with (
        Console(config.logger.console, folder.log, silent=not ranks.is_main) as console,
        console.hearing_warnings(),
    ):
        config.runner.precision = ranks.broadcast_json(
            choose_precision(config.runner.precision, ranks.device)
        )
        if (
            config.runner.precision == "bf16"
            and ranks.device.type == "cpu"
            and (free := free_memory(ranks.device)) is not None
        ):
            bound_kernels(free)
        torch.manual_seed(folded(config.seed))
        doing("loading the model")
        resumed = (
            checkpoint.read(folder.checkpoints / resumption.checkpoint) if resumption else None
        )
        model = build_model(
            config, prepared.tasks, prepared.files, load_weights=resumed is None
        ).to(ranks.device)
        ranks.broadcast([*model.parameters(), *model.buffers()])

        features = _train_features(prepared)
        trained = {name: prepared.tasks[name] for name in features}
        weighting = weightings.implementation(config.weighting.name)(
            config.weighting,
            {
                name: WeightedTask(task.config.weight, task.loss_kind)
                for name, task in trained.items()
            },
        )
        layout = input_format(prepared.encoder, config.runner.precision, ranks.device)
        if config.runner.max_tokens == "auto":
            from mtlcli.training.batch_size_finder import largest_batch

            config.runner.max_tokens, found = largest_batch(
                model,
                weighting,
                features,
                {
                    name: task.config.batch_size or config.runner.batch_size
                    for name, task in trained.items()
                },
                input_format=layout,
                bf16=config.runner.precision == "bf16",
                accumulation=config.runner.accumulation,
                ranks=ranks,
            )
            console.say(
                f"max_tokens: {config.runner.max_tokens:,} padded tokens of a task in a step "
                f"({found})"
            )
        streams, stages, steps = _order(config, prepared)
        per_epoch = stages.steps_per_epoch
        counts = model.parameter_counts()
        head = (
            f"{count_of(steps, 'step')} ({steps / per_epoch:.3g} epochs of {per_epoch:,}), "
            f"lr {config.optim.lr:g}, {config.runner.precision}, "
            f"{ranks.world_size} x {ranks.device.type}, "
            f"{count_of(torch.get_num_threads(), 'thread')}, "
            f"{counts['total']:,} parameters, {counts['shared']:,} shared"
        )

        def begin() -> None:
            if ranks.is_main:
                if resumption is None:
                    folder.write_config(config)
                else:
                    resumption.begin(folder, config)
                saver.config, saver.around = config_text(config), checkpoint.digests(folder.path)
                saver.when_saved = folder.note_saved
            if resumption is not None:
                tasks = ", ".join(config.tasks)
                console.panel(
                    "resume",
                    [f"run     {folder.path}", f"step    {resumption.step}", f"tasks   {tasks}"],
                )
                for line in resumption.lines:
                    console.say(line)
                console.note(prepared.details)
            console.say(head)
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            for line in (
                crowded(config.runner, local, torch.get_num_threads())
                if ranks.device.type == "cpu"
                else []
            ):
                console.say(line)

        saver = Saver(folder.checkpoints, config.runner.keep)
        parts = Run(
            config=config,
            model=model,
            stages=stages,
            weighting=weighting,
            streams=streams,
            train=features,
            splits=prepared.splits(
                {name: task.config.splits.validation for name, task in prepared.tasks.items()}
            ),
            input_format=layout,
            steps=steps,
            eval_every=_eval_every(config, prepared, stages),
            folder=folder,
            saver=saver,
            console=console,
            ranks=ranks,
            interrupt=interrupt,
            source=prepared.source,
        )
        garbage.at_work()
        memory = PeakMemory(ranks.device)
        with parts.saver:
            trainer = Trainer(parts, resumed)
            begin()
            results = trainer.train()
            doing("writing the last checkpoint")
        doing("measuring the operations of a step")
        if ranks.is_main:
            peak = memory.bytes()
            flops = flops_per_example(model, {name: parts.fetch(name, 0) for name in streams})
            results["cost"] = {"flops_per_example": flops, "peak_memory": peak}
            folder.write_results(results)
            folder.write_status("finished")
        doing("")
        console.stop()
        console.say(results_table(results))
        for line in findings(results):
            console.say(line)
        console.say(
            f"run folder: {folder.path}\nevaluate it again: {commands.evaluate(folder.path)}"
        )
    return results


def _train_features(prepared: Prepared) -> dict[str, Features]:
    """Return the encoded train split of every task that has one."""
    trained = {name: task.config.splits.train for name, task in prepared.tasks.items()}
    return {name: prepared.features[name][split] for name, split in trained.items() if split}


def _order(config: Config, prepared: Prepared) -> tuple[dict[str, Stream], Stages, int]:
    """Return the streams of the trained tasks' features, the stages, and the number of updates of
    the whole run.

    Raises UserError when a stage would have no step, or no step after the warm-up.
    """
    from mtlcli.data.batches import Stream
    from mtlcli.sampling.base import TaskSize
    from mtlcli.training.stages import Stages

    # Only the ranks can find the bound for `auto`; until then, plan without one.
    bound = None if config.runner.max_tokens == "auto" else config.runner.max_tokens
    streams, sizes = {}, {}
    for number, (name, features) in enumerate(_train_features(prepared).items()):
        batch_size = prepared.tasks[name].config.batch_size or config.runner.batch_size
        streams[name] = Stream(
            features.lengths,
            batch_size=batch_size,
            seed=config.seed * 1000 + number,
            max_tokens=bound,
        )
        sizes[name] = TaskSize(len(features), streams[name].batches_in_epoch(0), batch_size)
    owners = {name: prepared.tasks[name].config.head or name for name in sizes}
    policy = samplings.implementation(config.sampling.name)
    parts = [
        policy(config.sampling, {name: sizes[name] for name in names}, config.seed)
        for names in stages_of(config.sharing, owners)
    ]
    staged = config.sharing if isinstance(config.sharing, ProgressiveSharing) else None
    stages = Stages(parts, patience=staged.patience if staged else None)
    steps = config.runner.steps or math.ceil((config.runner.epochs or 0) * stages.steps_per_epoch)
    if steps > MOST_STEPS:
        raise UserError(
            f"the run would have {steps:,} steps, more than {MOST_STEPS:,}",
            "runner.epochs",
            "lower it",
        )
    stages.fit(steps, staged.lengths if staged else None)
    optim = config.optim
    fixed = [
        ("warm-up", "warmup", optim.warmup),
        ("decay", "decay", (optim.decay or 0) if optim.schedule == "wsd" else 0),
    ]
    fixed = [(what, key, count) for what, key, count in fixed if count >= 1]
    if sum(count for _, _, count in fixed) >= stages.shortest:
        takes = " and ".join(
            f"the {what} takes {count_of(round(count), 'step')}" for what, _, count in fixed
        )
        whole = (
            f"{'the run' if len(stages) == 1 else 'a stage'} has "
            f"{count_of(stages.shortest, 'step')}"
        )
        raise UserError(
            f"{takes}, and {whole}: no step has the full learning rate",
            where=f"optim.{fixed[-1][1]}",
            fix="lower it, give a share below 1, or train longer",
        )
    return streams, stages, steps


def _eval_every(config: Config, prepared: Prepared, stages: Stages) -> int:
    """Return the number of steps between evaluations: `runner.eval_every`, else an epoch, or more
    steps if evaluation would otherwise take more than `runner.eval_share` of the time."""
    if config.runner.eval_every is not None or config.runner.eval_share is None:
        return config.runner.eval_every or stages.steps_per_epoch
    tokens_of = {
        (name, split): int(parts.offsets[-1])
        for name, splits in prepared.features.items()
        for split, parts in splits.items()
    }
    epoch = sum(
        tokens_of[name, task.config.splits.train]
        for name, task in prepared.tasks.items()
        if task.config.splits.train
    )
    evaluated = sum(
        tokens_of[name, split]
        for name, task in prepared.tasks.items()
        for split in task.config.splits.validation
    )
    # A forward pass takes about a third of the time of a forward and a backward pass.
    least = evaluated / 3 * (1 / config.runner.eval_share - 1) / (epoch / stages.steps_per_epoch)
    return max(stages.steps_per_epoch, math.ceil(least))


def _score(results: dict[str, Any]) -> float:
    return math.nan if results["average"] is None else float(results["average"])


def _guarded(folder: RunFolder, first: bool, work: Any) -> float:
    """Run `work`; when it fails, write the reason into status.json.

    The folder is deleted when the user's input was wrong and the run has not begun.
    """
    try:
        return float(work())
    except (KeyboardInterrupt, Interrupted) as error:
        if first:
            _note_end(folder, "interrupted", str(error) or "interrupted by the user", error)
        raise
    except BaseException as error:
        if first:
            _note_end(folder, "failed", f"{type(error).__name__}: {error}", error)
            if isinstance(error, UserError):
                folder.discard_unused()
        raise


def _note_end(folder: RunFolder, status: str, reason: str, error: BaseException) -> None:
    """Write the status of a run that did not finish. A failure to write it is reported after the
    error, never instead of the error."""
    try:
        folder.note_end(status, reason)
    except RunError as unwritten:
        if isinstance(error, MtlError):
            error.problems += unwritten.problems
        else:
            error.add_note(str(unwritten))
