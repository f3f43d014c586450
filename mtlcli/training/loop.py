"""The training loop, written to be read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mtlcli import commands
from mtlcli.config import Config
from mtlcli.data.batches import InputFormat, Stream
from mtlcli.data.features import Features, Split
from mtlcli.data.source import DataSource
from mtlcli.distributed.process_group import Ranks
from mtlcli.distributed.signals import Asked, Interrupt
from mtlcli.errors import Interrupted, NotFinite, RunError, count_of
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.rundir import checkpoint
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.rundir.saver import Saver
from mtlcli.seeds import folded
from mtlcli.training.analysis.affinity import Affinity
from mtlcli.training.analysis.conflicts import Conflicts
from mtlcli.training.optim import Unfreezing, build_optimizer, schedule_lr_factor, set_lr
from mtlcli.training.restore import restore
from mtlcli.training.stages import Stages
from mtlcli.training.state import Stage, TrainState, Window
from mtlcli.training.step import Backward, TaskBatch, build_task_batch
from mtlcli.weighting.base import Step, Weighting


@dataclass
class Run:
    """The parts of a run, built and ready to train."""

    config: Config
    """The resolved config: steps, learning rate and precision are known."""
    model: MultiTaskModel
    """The trunk and the heads, on this rank's device."""
    stages: Stages
    """The stages, which choose the tasks of each step."""
    weighting: Weighting
    """The weighting method, which turns losses or gradients into one update."""
    streams: dict[str, Stream]
    """The order of each trained task's features."""
    train: dict[str, Features]
    """Encoded train splits."""
    splits: dict[str, dict[str, Split]]
    """Validation splits by task."""
    input_format: InputFormat
    """The rule by which features become batches."""
    steps: int
    """The number of updates."""
    eval_every: int
    """The number of steps between evaluations."""
    folder: RunFolder
    """The run folder."""
    saver: Saver
    """The writer of checkpoints."""
    begin: Callable[[], None]
    """Function that is called after a checkpoint, if there is one, has been restored. It writes
    what a resumed run starts from, and prints what the run is about to do."""
    console: Console
    """The output to the terminal and log.txt."""
    ranks: Ranks
    """The place of this process among the ranks."""
    interrupt: Interrupt
    """The signals that ask the run to stop."""
    source: DataSource
    """The source of the table rows."""

    @property
    def max_tokens(self) -> int | None:
        """The number of padded tokens of a task that may go through the model at once on this rank;
        None: no bound."""
        bound = self.config.runner.max_tokens
        return (
            bound // (self.ranks.world_size * self.config.runner.accumulation)
            if isinstance(bound, int)
            else None
        )

    def fetch(self, task: str, position: int) -> TaskBatch:
        """Return this rank's share of a batch of a task's stream."""
        return build_task_batch(
            self.model.tasks[task],
            self.train[task],
            self.streams[task].indices(position),
            input_format=self.input_format,
            accumulation=self.config.runner.accumulation,
            ranks=self.ranks,
            max_tokens=self.max_tokens,
        )


def train(run: Run, resumed: checkpoint.Checkpoint | None = None) -> dict[str, Any]:
    """Train to the last step or until patience runs out. Return the content of results.json: the
    scores of the best checkpoint.

    `resumed`: continue from this checkpoint, as if there had been no break. The loop evaluates,
    saves and stops before a step, so that the last step needs no second path. Raises Interrupted
    after saving when a signal asks for it.
    """
    config, ranks, stages = run.config, run.ranks, run.stages
    bf16 = config.runner.precision == "bf16"
    optimizer = build_optimizer(config.optim, run.model, run.weighting)
    parameters = [*run.model.parameters(), *run.weighting.parameters()]
    names = {parameter: name for name, parameter in run.model.named_parameters()}
    names |= {
        parameter: f"weighting/{name}"
        for name, parameter in run.weighting.named_parameters().items()
    }
    state = TrainState(positions=dict.fromkeys(run.streams, 0))
    saved: int | None = None
    verified: int | None = None
    if resumed is not None:
        state = restore(
            resumed,
            model=run.model,
            optimizer=optimizer,
            names=names,
            weighting=run.weighting,
            tasks=run.streams,
            steps=run.steps,
            stages=len(stages),
        )
        saved = state.step
    run.begin()

    def enter(*, anew: bool) -> Backward:
        """Begin the present stage (`anew`), or continue in it. The shared parameters are those of
        the tasks that this stage trains."""
        run.model.enter(state.stage.number, anew=anew)
        if len(stages) > 1:
            run.console.say(stages.describe(state.stage, run.steps))
        return Backward(
            run.model,
            run.weighting,
            ranks,
            bf16=bf16,
            seed=config.seed,
            tasks=stages.tasks(state.stage),
            together=config.runner.together,
            max_tokens=run.max_tokens,
            input_format=run.input_format,
        )

    backward = enter(anew=resumed is None)
    conflicts = Conflicts(state.conflicts)
    affinity = Affinity(state.affinity, backward, run.fetch, list(run.streams))
    save_every = config.runner.save_every or run.eval_every
    unfreezing = (
        Unfreezing(run.model, config.optim.unfreeze_every)
        if config.optim.unfreeze_every is not None
        else None
    )

    if resumed is None:
        for line in (
            *run.weighting.remarks(run.steps, stages.steps_per_epoch),
            *(unfreezing.remarks(run.steps) if unfreezing else []),
        ):
            run.console.say(line)

    def results() -> dict[str, Any]:
        return state.best | {
            "throughput": state.totals.throughput,
            "weighting": {"name": config.weighting.name, **run.weighting.report()},
            "gradients": conflicts.report(),
            "affinity": affinity.report(),
            **measures(),
        }

    def measures() -> dict[str, Any]:
        found = run.model.trunk.measures()
        return {"sharing": found} if found else {}

    def verify() -> None:
        """Raise RunError when a tensor of the next checkpoint is not finite, before anything is
        written about this step."""
        nonlocal verified
        if state.step != verified:
            tensors = dict(run.model.named_parameters()) | optimizer.tensors(names)
            require_finite(
                tensors,
                f"step {state.step}",
                "lower optim.lr, or set optim.clip; then go on from the checkpoint before",
            )
            verified = state.step

    def save() -> None:
        verify()
        state.weighting = run.weighting.state_dict()
        run.saver.save(
            run.model.state_dict(), optimizer.tensors(names), state.to_json(), best=state.best_step
        )

    run.console.start(list(run.model.tasks), state.step, run.steps)
    while True:
        # Evaluate, save, stop.
        last = state.step == run.steps
        asked = run.interrupt.signal_received(ranks)
        if (
            not asked
            and state.step != state.evaluated
            and state.step
            and (state.step % run.eval_every == 0 or last)
        ):
            verify()
            try:
                found = _evaluate(run, state, bf16=bf16)
            except Asked:
                asked = run.interrupt.signal_received(ranks)
            else:
                state.note_results(found)
                # If the run was resumed from a checkpoint of this step, that checkpoint does not
                # contain these scores: save it again.
                saved = None
                stages.note(state.stage, found)
                run.console.scores(state.step, found, best=state.best_step == state.step)
                if ranks.is_main:
                    run.folder.write_results(results())
        over = stages.over(state.stage, state.step, run.steps)
        stale = config.runner.patience is not None and state.stale >= config.runner.patience
        done = last or stale or (over and stages.is_last(state.stage))
        # Save the best step so far as well: `mtl eval RUN` reads its checkpoint.
        worth = state.step > 0 and (state.step % save_every == 0 or state.step == state.best_step)
        if ranks.is_main and state.step != saved and (asked or done or worth):
            save()
            saved = state.step
        if asked:
            run.saver.wait()
            raise Interrupted(asked, state.step, commands.resume(run.folder.path))
        if done:
            if not last:
                run.console.say(
                    "stopped: "
                    f"{count_of(state.stale if stale else state.stage.stale, 'evaluation')} "
                    "without a better average"
                )
            run.saver.wait()
            if ranks.is_main and (fault := run.folder.best_fault(state.best_step)):
                run.console.say(
                    f"warning: {fault}; results.json is about it, and mtl eval will refuse it"
                )
            return results()
        run.saver.check()

        # The next stage. A checkpoint of this step, saved above, resumes here too, because its
        # state shows that the stage is over.
        if over:
            state.stage = Stage(state.stage.number + 1, begin=state.step)
            backward = enter(anew=True)

        # Plan and fetch.
        start = time.perf_counter()
        run.model.train()
        if unfreezing is not None:
            unfreezing.apply(state.step)
        if due(config.logger.affinity, state.step):
            affinity.measure(state, lr=optimizer.param_groups[0]["peak"])
        batches: dict[str, TaskBatch] = {}
        for name, _ in stages.plan(state.stage, state.step):
            batches[name] = run.fetch(name, state.positions[name])
            state.positions[name] += 1
        step = Step(
            state.step, run.steps, state.step // stages.steps_per_epoch, config.seed, list(batches)
        )

        # Forward, backward, combine, reduce, check.
        optimizer.zero_grad()
        seed_dropout(config.seed, state.step, ranks.rank)
        try:
            outcome = backward(batches, step, probe=due(config.logger.probe, state.step))
            norm = float(outcome.norm)
        except NotFinite as error:
            if state.skipped == config.runner.skip_nonfinite:
                raise
            state.skipped += 1
            state.step += 1
            run.console.say(
                f"warning: {error.problems[0].where}: {error.problems[0].what}; the step is left "
                "out"
            )
            continue

        # Clip, update.
        if config.optim.clip is not None and norm > config.optim.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, config.optim.clip, outcome.norm)
        conflicts.add(step, run.weighting.tasks)
        begin = state.stage.begin
        set_lr(
            optimizer,
            schedule_lr_factor(
                config.optim, state.step - begin, stages.end(state.stage, run.steps) - begin
            ),
        )
        optimizer.step()
        require_finite(
            run.weighting.named_parameters(),
            f"step {state.step}",
            "lower weighting.lr, or choose another weighting",
        )
        if run.weighting.losses_after_step:
            # Use the same dropout as before the update, so that only the update makes a difference.
            seed_dropout(config.seed, state.step, ranks.rank)
            if not run.weighting.observe_after(step, backward.losses_again(batches)):
                what = (
                    "a loss is not finite after the update, and the weighting learns nothing "
                    "from it"
                )
                run.console.say(f"warning: step {state.step}: {what}")
        state.step += 1

        # Log.
        seconds = time.perf_counter() - start
        state.totals.add(batches, outcome.padded, seconds)
        state.window.add(batches, outcome, seconds)
        run.console.progress(state.step)
        if state.step % config.logger.every == 0 or state.step == run.steps:
            if ranks.is_main:
                row = {
                    "step": state.step,
                    **state.window.row(),
                    **measures(),
                    "lr": optimizer.param_groups[0]["lr"],
                    "gradient_norm": norm,
                    "seconds": round(state.totals.seconds, 3),
                    "seconds_left": round(
                        state.totals.seconds / state.step * (run.steps - state.step), 1
                    ),
                }
                run.folder.append_metrics(row)
                run.console.metrics(row)
            state.window = Window()


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make dropout a pure function of (seed, step, rank), so that no random state has to be
    saved."""
    torch.manual_seed(folded((seed * 1_000_003 + step) * 4096 + rank))


def require_finite(tensors: Mapping[str, torch.Tensor], where: str, fix: str) -> None:
    """Raise RunError unless all tensors are finite. The error names the first bad tensor and the
    place `where` it was found."""
    for name, tensor in tensors.items():
        # A sum is many times faster than looking at each number, but the sum of large finite
        # numbers may be infinite.
        if not bool(tensor.detach().sum().isfinite()) and not bool(
            tensor.detach().isfinite().all()
        ):
            value = f"is {tensor.item()}" if tensor.ndim == 0 else "is not finite"
            raise RunError(f"{name} {value} after the update", where=where, fix=fix)


def due(every: int | None, step: int) -> bool:
    """Return whether something that happens every n-th step (None: never) happens now."""
    return every is not None and step % every == 0


def _evaluate(run: Run, state: TrainState, *, bf16: bool) -> dict[str, Any]:
    """Evaluate the validation splits. Raises Asked when a signal comes: the resumed run repeats the
    evaluation, so waiting for its end is not worthwhile."""

    def on_batch() -> None:
        if run.interrupt.signal_received(run.ranks):
            raise Asked

    scored, _ = evaluate(
        run.model,
        run.splits,
        step=state.step,
        eval_batch_size=run.config.runner.eval_batch_size,
        input_format=run.input_format,
        bf16=bf16,
        ranks=run.ranks,
        on_split=run.console.evaluating,
        on_batch=on_batch,
    )
    run.source.note(scored, run.splits)
    head = {
        "format": 1,
        "data_source": run.source.kind,
        "split": "validation",
        "step": state.step,
        "train_rows": run.source.train_rows(),
        "precision": run.config.runner.precision,
    }
    return (
        head
        | scored
        | {"throughput": state.totals.throughput, "parameters": run.model.parameter_counts()}
    )
