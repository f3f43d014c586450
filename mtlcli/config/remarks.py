"""Remarks about settings that have no effect in a run. They are known once the number of steps is,
and shown before the first step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from mtlcli import commands
from mtlcli.config import Balancing, Config
from mtlcli.config.run import Logger, Runner
from mtlcli.errors import UserError, count_of


def remarks(config: Config, steps: int, eval_every: int) -> Iterator[str]:
    """Yield a line for each setting that has no effect in a run of `steps` steps, evaluated every
    `eval_every` steps."""
    runner, optim, logger = config.runner, config.optim, config.logger
    if math.ceil(optim.warmup * steps) >= steps > 1 and optim.warmup < 1:
        yield (
            f"note: optim.warmup={optim.warmup:g} takes all {steps} steps: the learning rate "
            "never reaches its peak"
        )
    evaluations = math.ceil(steps / eval_every)
    if runner.patience is not None and runner.patience + 1 >= evaluations:
        yield (
            f"note: runner.patience={runner.patience} cannot end the run early: it has "
            f"{count_of(evaluations, 'evaluation')}"
        )
    # Skip the default, which the user has not asked for.
    logged = None if logger.every == Logger().every else logger.every
    balanced = config.weighting.every if isinstance(config.weighting, Balancing) else None
    for key, every, instead in (
        ("runner.eval_every", runner.eval_every, "the last step alone is evaluated"),
        ("runner.save_every", runner.save_every, "the best step and the last are saved"),
        ("logger.every", logged, "metrics.jsonl gets a row for the last step alone"),
        (
            "optim.unfreeze_every",
            optim.unfreeze_every,
            "what lies below the heads is never trained",
        ),
        ("weighting.every", balanced, "the weights are found in the first step alone"),
    ):
        if every is not None and every > steps:
            yield f"note: {key}={every} is beyond the run's {count_of(steps, 'step')}: {instead}"
    save_every = runner.save_every or eval_every
    saves = (
        len({*range(save_every, steps, save_every), *range(eval_every, steps, eval_every), steps})
        if steps < 10**6
        else steps
    )
    if runner.keep > max(saves, Runner().keep):
        yield (
            f"note: runner.keep={runner.keep} deletes nothing: the run saves "
            f"{count_of(saves, 'checkpoint')} at most"
        )


def nothing_left(run: Path, config: Config, step: int, steps: int) -> str | None:
    """Return a note that the run has made all its steps, with the command to train on; None when
    there are steps left.

    Raises UserError when the run would end before the step that it resumes from.
    """
    if step < steps:
        return None
    key, more = (
        ("steps", 2 * steps)
        if config.runner.steps is not None
        else ("epochs", 2 * (config.runner.epochs or 1))
    )
    if step > steps:
        what = (
            f"the run would end at step {steps:,}, and the checkpoint that it goes on from is "
            f"of step {step:,}"
        )
        fix = (
            f"give more {key}, or name an earlier checkpoint: resume={run / 'checkpoints'}/step_..."
        )
        raise UserError(what, f"runner.{key}", fix)
    command = f"{commands.resume(run)} runner.{key}={more:g} 'allow=[runner.{key}]'"
    return (
        f"note: nothing is left to do, the run has made its {count_of(steps, 'step')}; to train "
        f"on: {command}"
    )


def crowded(runner: Runner, local_ranks: int, threads: int) -> Iterator[str]:
    """Yield a line when CPU ranks or their threads have to share cores. `local_ranks`: the number
    of ranks on this machine; `threads`: the number of threads of each rank."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if local_ranks > cores:
        yield (
            f"note: {local_ranks} CPU ranks share {count_of(cores, 'core')}: more ranks than "
            "cores are slower"
        )
    elif runner.threads is not None and local_ranks * threads > cores:
        each = f"{local_ranks} x {threads}" if local_ranks > 1 else str(threads)
        yield (
            f"note: {each} threads share {count_of(cores, 'core')}: more threads than cores are "
            "slower"
        )
