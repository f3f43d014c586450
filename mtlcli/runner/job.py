"""A run from its validated config to its results: prepare the data, make the run folder or open it
again, train in this process or launch the ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli.config import Config, own_code
from mtlcli.config.idle import unheeded
from mtlcli.config.remarks import nothing_left, remarks
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config, read_text
from mtlcli.distributed.environment import read_launch
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import UserError
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.disk_space import check_disk_space, check_writable
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.pulse import doing
from mtlcli.rundir import checkpoint
from mtlcli.rundir.console import Console
from mtlcli.rundir.ending import held_to_the_end, undone_on_failure
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.init import Source, begun_with, open_source, reopened, settle_heads
from mtlcli.runner.resume import Resumption, reopen
from mtlcli.runner.teachers import Lessons, open_teachers, teach
from mtlcli.training.schedule import schedule

if TYPE_CHECKING:
    from mtlcli.models.start import Start
    from mtlcli.training.run import Watch  # Its module imports torch.


@dataclass
class Job:
    """A run that is ready to train."""

    config: Config
    """The config, in which a resumed run has every value, a new one only those that were asked."""
    prepared: Prepared
    """The tasks, their rows and the backbone's files."""
    folder: RunFolder
    """The run folder."""
    resumption: Resumption | None = None
    """Where a resumed run goes on; None for a new run."""
    start: Start | None = None
    """The weights of another run with which a new run begins."""
    watch: Watch | None = None
    """What is told of each evaluation; only a run of one process has it."""


def run(
    config: Config,
    run_dir: Path,
    *,
    command: list[str],
    numbered: bool = False,
    resumes: Path | None = None,
    watch: Watch | None = None,
) -> float:
    """Carry out a run and return its average score (NaN when no task has labelled validation rows).

    `watch`: what is told of each evaluation and may stop the run, whose status is then `pruned`;
    only for a run of one process.

    `numbered`: add a number to the folder's name when another run has the name. `resumes`: the run
    folder, or one of its checkpoints, to resume from. Raises UserError when the run has not begun,
    and then leaves no new folder; Interrupted once everything is saved; any other error with the
    run folder's status set to `failed`.
    """
    if read_launch() is not None:
        from mtlcli.runner.outside import run_as_rank

        return run_as_rank(config, run_dir, command, numbered, resumes)
    with Interrupt() as interrupt:
        job = begin(config, run_dir, command, numbered, resumes, interrupt)
        job.watch = watch
        with held_to_the_end(job.folder):
            return average_of(_carry_out(job, interrupt))


def begin(
    config: Config,
    run_dir: Path,
    command: list[str],
    numbered: bool,
    resumes: Path | None,
    interrupt: Interrupt,
) -> Job:
    """Prepare the data, then make the run folder or open it again.

    Until the folder is touched, a signal ends this function at once; after that, the training loop
    handles the signal and saves before it stops.
    """
    folder = RunFolder(run_dir if resumes is None else checkpoint.run_of(resumes))
    check_writable(folder.path)
    interrupt.before_leaving = folder.note_end
    with undone_on_failure(folder):
        if resumes is not None:
            config, prepared, resumption = reopen(config, folder, resumes, command, interrupt)
            resumption.lines += _check_plan(config, prepared, folder.path, resumption.step)
            return Job(config, prepared, folder, resumption)
        with interrupt.at_once():
            source = open_source(config)
            teachers = open_teachers(config)
            if source is not None:
                config = begun_with(config, source)
            prepared = prepare(config, files=source.files if source else None)
            about = prepared.describe(config)
            if source is not None:
                config, lines = settle_heads(config, source, prepared)
                about += lines
                prepared.notices += source.lines
            prepared.notices += _check_plan(config, prepared, folder.path)
            lessons = teach(config, teachers, prepared) if teachers else None
            if lessons is not None:
                about.append(lessons.describe())
        folder.create(restart=config.resume == "auto", numbered=numbered)
        _fill(folder, config, prepared, command, source, lessons)
        _show_begin(folder, config, prepared, about)
        return Job(config, prepared, folder, start=source.start if source else None)


def _check_plan(
    config: Config, prepared: Prepared, run_dir: Path, step: int | None = None
) -> list[str]:
    """Return a line for each setting that has no effect in the run, or in the rest of the run after
    `step`.

    Raises UserError when the disk has too little space for the run, or the run too few devices.
    """
    if config.runner.engine == "fsdp" and config.runner.devices == 1:
        # Checked here, where the number of ranks that another program has launched is known.
        what = "fsdp shares a model out over several devices, and the run has one"
        fix = "give runner.devices, or type runner.engine=ddp"
        raise UserError(what, "runner.engine", fix)
    if config.optim.plateau is not None:
        from mtlcli.training.plateau import check_plateau

        check_plateau(config, prepared)
    plan = schedule(config, prepared)
    lines = list(remarks(config, plan.steps, plan.eval_every))
    existing = None
    if step is not None:
        existing = len(checkpoint.folders(run_dir / "checkpoints"))
        if (finished := nothing_left(run_dir, config, step, plan.steps)) is not None:
            lines.append(finished)
    check_disk_space(
        config,
        prepared.tasks,
        prepared.files,
        run_dir,
        saves=plan.saves(config.runner.save_every, after=step or 0),
        existing=existing,
    )
    return lines


def _fill(
    folder: RunFolder,
    config: Config,
    prepared: Prepared,
    command: list[str],
    weights: Source | None,
    lessons: Lessons | None,
) -> None:
    """Fill the run folder with everything that the ranks and later verbs need."""
    # status.json comes first: it marks the folder as one in which `resume=auto` may start again.
    folder.write_status("running")
    # What the ranks read before they can fill what is open: they must not choose the source again,
    # for example because the hub can be reached by then.
    source = prepared.source.default or config.data.source
    folder.write_config(replaced(config, {"resume": None, "data.source": source}))
    folder.write_backbone(prepared.files)
    folder.write_environment(
        command=command,
        data={"source": prepared.source.kind, "tasks": prepared.source.record()},
        seed=config.seed,
        methods=own_code.record(config),
        init=weights.found.record() if weights else None,
        **({"teachers": lessons.write(folder)} if lessons else {}),
    )


def _show_begin(folder: RunFolder, config: Config, prepared: Prepared, about: list[str]) -> None:
    """Show what a new run is made of, and what was noticed about its data and settings."""
    with Console(config.logger.console, folder.log) as console:
        console.panel("run", [*about, f"folder    {folder.path}"])
        console.note(unheeded(config, []))  # These were shown before there was a log.
        for notice in prepared.notices:
            console.say(notice)
        console.note(prepared.details)


def _carry_out(job: Job, interrupt: Interrupt) -> dict[str, Any]:
    """Train in this process, or in ranks that this process launches, and return the results."""
    doing("loading torch")
    runner = job.config.runner
    if runner.devices == 1:
        from mtlcli.distributed.process_group import connect
        from mtlcli.runner.rank import train_rank

        with connect(runner) as ranks:
            return train_rank(job, ranks, interrupt)

    from mtlcli.runner.launch import launch

    doing("")  # From here on the first rank shows what is being done.
    return launch(runner, job.folder, job.resumption, interrupt)


def join(
    folder: RunFolder, values: dict[str, Any] | None, ranks: Any, interrupt: Interrupt
) -> dict[str, Any]:
    """Train as one rank of a run whose folder another process has made, and return the results.
    `values`: the fields of the Resumption, if the run is resumed."""
    from mtlcli.runner.rank import train_rank

    config = config_of(folder.path, values)
    prepared = prepare(config, files=BackboneFiles.load(folder.backbone))
    if values is None:
        job = Job(config, prepared, folder, start=reopened(config, folder))
    else:
        job = Job(config, prepared, folder, Resumption(**values))
    return train_rank(job, ranks, interrupt)


def config_of(run_dir: Path, values: dict[str, Any] | None) -> Config:
    """Return the config for the ranks of a run. A resumed run has its config in `values`, because
    config.yaml is not yet written."""
    file = run_dir / "config.yaml"
    return load_config(file) if values is None else read_text(values["config"], file)


def average_of(results: dict[str, Any]) -> float:
    """Return the average score of a run's results, NaN when it has none."""
    return math.nan if results["average"] is None else float(results["average"])
