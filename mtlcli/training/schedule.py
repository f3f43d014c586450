"""The plan of a run's steps, known before the first one: batches, stages, number, evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtlcli.config import Config, samplings
from mtlcli.config.optim import Optim
from mtlcli.config.sharing import Staging
from mtlcli.errors import UserError, count_of
from mtlcli.prepare.prepare import Prepared

if TYPE_CHECKING:
    from mtlcli.data.batches import Stream
    from mtlcli.training.stages import Stages

MOST_STEPS = 99_999_999
"""The largest number of steps: the name of a checkpoint has eight digits for the step."""


@dataclass
class Schedule:
    """What a run does in which step."""

    streams: dict[str, Stream]
    """The batches of each trained task."""
    stages: Stages
    """The stages, with the sampling of each."""
    steps: int
    """The number of updates of the whole run."""
    eval_every: int
    """The number of steps between evaluations."""

    def saves(self, save_every: int | None, *, after: int) -> int:
        """Return the number of checkpoints that are saved after a step, one of them at the end.
        `save_every`: the number of steps between two; None: one with each evaluation."""
        every = save_every or self.eval_every
        at_end = self.steps % every > 0 and after < self.steps
        return self.steps // every - after // every + at_end


def schedule(config: Config, prepared: Prepared) -> Schedule:
    """Return the schedule of a run. As long as `runner.max_tokens=auto` is open, the plan is made
    without a bound.

    Raises UserError when a stage would have no step, or no step after the warm-up.
    """
    from mtlcli.training.plateau import watched_tasks
    from mtlcli.training.stages import Stages

    streams, policies = _batches(config, prepared)
    staged = config.sharing if isinstance(config.sharing, Staging) else None
    stages = Stages(policies, patience=staged.patience if staged else None)
    steps = config.runner.steps or math.ceil((config.runner.epochs or 0) * stages.steps_per_epoch)
    if steps > MOST_STEPS:
        raise UserError(
            f"the run would have {steps:,} steps, more than {MOST_STEPS:,}",
            "runner.epochs",
            "lower it",
        )
    stages.fit(steps, staged.lengths if staged else None)
    trained = list(prepared.train_features)
    if config.sampling.needs_scores:
        _check_scores(prepared, trained, f"sampling={config.sampling.name}")
    if config.weighting.needs.validation:
        _check_scores(prepared, trained, f"weighting={config.weighting.name}")
    _check_scores(prepared, watched_tasks(config.optim, trained), "optim.plateau")
    _check_warmup(config.optim, stages)
    eval_every = _eval_every(config, prepared, stages)
    if config.optim.plateau is not None:
        _check_plateau(config.optim.plateau, stages.spans(), eval_every)
    return Schedule(streams, stages, steps, eval_every)


def _batches(config: Config, prepared: Prepared) -> tuple[dict[str, Stream], list[Any]]:
    """Return the batches of each trained task, and the sampling policy of each stage."""
    from mtlcli.data.batches import Stream
    from mtlcli.sampling.base import TaskSize

    # Only the ranks can find the bound for `auto`; until then, plan without one.
    bound = None if config.runner.max_tokens == "auto" else config.runner.max_tokens
    streams, sizes = {}, {}
    for number, (name, features) in enumerate(prepared.train_features.items()):
        batch_size = prepared.tasks[name].config.batch_size or config.runner.batch_size
        streams[name] = Stream(
            features.example_lengths,
            sizes=features.example_sizes,
            targets=features.example_targets,
            batch_size=batch_size,
            seed=config.seed * 1000 + number,
            max_tokens=bound,
            variants=features.variants,
        )
        sizes[name] = TaskSize(
            len(features.example_sizes) // features.variants,
            streams[name].batches_in_epoch(0),
            batch_size,
        )
    owners = {name: prepared.tasks[name].config.head or name for name in sizes}
    policy = samplings.implementation(config.sampling.name)
    policies = [
        policy(config.sampling, {name: sizes[name] for name in names}, config.seed)
        for names in config.sharing.stages_of(owners)
    ]
    return streams, policies


def _check_scores(prepared: Prepared, names: list[str], what: str) -> None:
    """Raise UserError when one of these tasks has no validation row with a label, from which `what`
    learns."""
    for name in names:
        task = prepared.tasks[name]
        table = prepared.tables[name][task.config.splits.validation[0]]
        if task.references(table) is None and all(gold is None for gold in task.gold(table)):
            raise UserError(
                f"{what} learns from validation rows, and no row of the split has a label",
                f"tasks.{name}.splits.validation",
                f"name a split with labels, or leave {what} out",
            )


def _check_warmup(optim: Optim, stages: Stages) -> None:
    """Raise UserError when the warm-up and the decay leave no step with the full learning rate."""
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


def _check_plateau(patience: int, spans: list[tuple[int, int]], eval_every: int) -> None:
    """Raise UserError when no learning rate could fall before the end of the stage that trains its
    task: the first evaluation only sets the score that the next `patience` have to surpass.
    `spans`: the first step of each stage and the one before which it ends."""
    # An evaluation at the end of a stage comes after its last step.
    counts = [(end - 1) // eval_every - begin // eval_every for begin, end in spans]
    if (found := max(counts)) > patience:
        return
    whole = "the run has" if len(spans) == 1 else "no stage has more than"
    raise UserError(
        "the value has no effect: a learning rate first falls after "
        f"{count_of(patience + 1, 'evaluation')}, and {whole} {found} before the last step",
        where="optim.plateau",
        fix=f"lower runner.eval_every (it is {eval_every} steps), train longer, or leave it out",
    )


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
