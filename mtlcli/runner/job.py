"""A run from its validated config to its results: prepare the data, make the run folder, launch the
ranks, train."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.remarks import nothing_left, remarks
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config, read_text
from mtlcli.distributed.environment import read_launch
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Interrupted, MtlError, RunError, UserError
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.disk_space import check_disk_space, check_writable
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.pulse import doing
from mtlcli.rundir import checkpoint
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.resume import Resumption, reopen
from mtlcli.training.schedule import schedule


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
        config, prepared, folder, resumption = _begin(
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
            from mtlcli.runner.rank import train_rank

            return train_rank(config, prepared, folder, ranks, resumption, interrupt)

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
        config = replaced(config, {"runner.devices": ranks.world_size})
        failure: MtlError | None = None
        place: dict[str, Any] = {}
        own_folder: RunFolder | None = None
        if ranks.is_main:
            try:
                # This rank holds the folder lock to the end.
                _, _, own_folder, resumption = _begin(
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
    plan = schedule(config, prepared)
    steps, eval_every = plan.steps, plan.eval_every
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
) -> tuple[Config, Prepared, RunFolder, Resumption | None]:
    """Prepare the data, then make the run folder or open it again. Return the config, with what a
    resumed run has chosen before, the prepared data, the folder, and the Resumption of a run that
    is resumed.

    Until the folder is touched, a signal ends this function at once; after that, the training loop
    handles the signal and saves before it stops.
    """
    folder = RunFolder(run_dir if resumes is None else checkpoint.run_of(resumes))
    check_writable(folder.path)
    interrupt.before_leaving = folder.note_end
    try:
        if resumes is not None:
            config, prepared, resumption = reopen(config, folder, resumes, command, interrupt)
            resumption.lines += _check_plan(config, prepared, folder.path, resumption.step)
            return config, prepared, folder, resumption
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
    return config, prepared, folder, None


def _start(config: Config, prepared: Prepared, folder: RunFolder, command: list[str]) -> None:
    """Fill the run folder with everything that the ranks and later verbs need, and show what the
    run is about to do."""
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
    from mtlcli.runner.rank import train_rank

    resumption = None if values is None else Resumption(**values)
    config = config_of(folder.path, values)
    return train_rank(
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
