"""The training loop, readable top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from mtlcli import checkpoint
from mtlcli.config import Config
from mtlcli.data.batches import Stream
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, Split
from mtlcli.errors import RunError
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.runner.affinity import Affinity
from mtlcli.runner.conflicts import Conflicts
from mtlcli.runner.console import Console
from mtlcli.runner.distributed import Ranks
from mtlcli.runner.folder import RunFolder
from mtlcli.runner.optim import build_optimizer, optimizer_tensors, rate, set_rate
from mtlcli.runner.state import TrainState, Window
from mtlcli.runner.step import NOT_FINITE, Backward, TaskBatch, cut
from mtlcli.sampling.base import Sampling
from mtlcli.weighting.base import Step, Weighting


@dataclass
class Run:
    """The parts of a run, built and ready to train."""

    config: Config
    """The resolved config: steps, learning rate and precision are known."""
    model: MultiTaskModel
    """Trunk and heads, on this rank's device."""
    sampling: Sampling
    """Which tasks make up a step."""
    weighting: Weighting
    """How losses or gradients become one update."""
    streams: dict[str, Stream]
    """Order of each trained task's features."""
    train: dict[str, Features]
    """Encoded train splits."""
    splits: dict[str, dict[str, Split]]
    """Validation splits by task."""
    encoder: TextEncoder
    """The backbone's text encoder."""
    steps: int
    """Number of updates."""
    eval_every: int
    """Steps between evaluations."""
    folder: RunFolder
    """Where things are written."""
    console: Console
    """What the user sees."""
    ranks: Ranks
    """This process among the others."""
    data_source: str
    """hub, local or sample."""

    def fetch(self, task: str, position: int) -> TaskBatch:
        """This rank's share of a batch of a task's stream."""
        return cut(
            self.model.tasks[task],
            self.train[task],
            self.streams[task].indices(position),
            pad_id=self.encoder.pad_id,
            uses_segments=self.encoder.uses_segments,
            accumulation=self.config.runner.accumulation,
            ranks=self.ranks,
        )


def train(run: Run) -> dict[str, Any]:
    """Train to the last step or until patience runs out; return the content of results.json: the scores of the best checkpoint.

    Evaluate, save and stop stand before the step, so that the last step needs no second path.
    """
    config, ranks = run.config, run.ranks
    bf16 = config.runner.precision == "bf16"
    optimizer = build_optimizer(config.optim, run.model, run.weighting)
    backward = Backward(run.model, run.weighting, ranks, bf16=bf16, seed=config.seed)
    parameters = backward.parameters
    state = TrainState(positions=dict.fromkeys(run.streams, 0))
    conflicts = Conflicts(state.conflicts)
    affinity = Affinity(state.affinity, backward, run.fetch, list(run.streams))
    best: dict[str, Any] = {}
    window = Window()
    run.console.start(list(run.model.tasks), state.step, run.steps)

    while True:
        # Evaluate, save, stop.
        last = state.step == run.steps
        if state.step and (state.step % run.eval_every == 0 or last):
            results = _evaluate(run, state, bf16=bf16)
            state.note_score(results["average"])
            if state.best_step == state.step:
                best = results
            run.console.scores(state.step, results, best=state.best_step == state.step)
            learned: dict[str, Any] = {
                "throughput": state.throughput,
                "weighting": {"name": config.weighting.name, **run.weighting.report()},
                "gradients": conflicts.report(),
                "affinity": affinity.report(),
            }
            if ranks.first:
                _save(run, state, optimizer)
                run.folder.write_results(best | learned)
            if config.runner.patience is not None and state.stale >= config.runner.patience:
                run.console.say(f"stopped: {state.stale} evaluations without a better average")
                last = True
        if last:
            return best | learned

        # Plan and fetch.
        start = time.perf_counter()
        run.model.train()
        if due(config.logger.affinity, state.step):
            affinity.measure(state, lr=optimizer.param_groups[0]["peak"])
        step = Step(state.step, run.steps, state.step // run.sampling.steps_per_epoch, config.seed, [])
        batches: dict[str, TaskBatch] = {}
        for name, _ in run.sampling.plan(state.step):
            batches[name] = run.fetch(name, state.positions[name])
            state.positions[name] += 1
        step.tasks = list(batches)

        # Forward, backward, combine, reduce.
        optimizer.zero_grad(set_to_none=True)
        seed_dropout(config.seed, state.step, ranks.rank)
        outcome = backward(batches, step, probe=due(config.logger.probe, state.step))
        conflicts.add(step, run.weighting.tasks)

        # Clip, check, update.
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.optim.clip or math.inf))
        if not math.isfinite(norm):
            raise RunError(f"the gradient norm is {norm} (tasks: {', '.join(batches)})", where=f"step {state.step}", fix=NOT_FINITE)
        share = rate(config.optim, state.step, run.steps)
        set_rate(optimizer, share)
        optimizer.step()
        if run.weighting.losses_after_step:
            # The same dropout as before the update: what differs is the update alone.
            seed_dropout(config.seed, state.step, ranks.rank)
            run.weighting.observe_after(step, backward.losses_again(batches))
        state.step += 1
        seconds = time.perf_counter() - start
        state.seconds += seconds

        # Log.
        state.count(batches)
        window.add(batches, outcome, seconds)
        run.console.progress(state.step)
        if ranks.first and (state.step % config.logger.every == 0 or state.step == run.steps):
            row = {
                "step": state.step,
                "tasks": window.tasks(),
                "lr": optimizer.param_groups[0]["lr"],
                "gradient_norm": norm,
                "gradients": window.gradients(),
                **window.speed(),
                "seconds": round(state.seconds, 3),
                "seconds_left": round(state.seconds / state.step * (run.steps - state.step), 1),
            }
            window = Window()
            run.folder.append_metrics(row)
            run.console.metrics(row)


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make dropout a pure function of (seed, step, rank): nothing to save, nothing to restore."""
    torch.manual_seed((seed * 1_000_003 + step) * 4096 + rank)


def due(every: int | None, step: int) -> bool:
    """Whether something that happens every n-th step (None: never) happens now."""
    return every is not None and step % every == 0


def _evaluate(run: Run, state: TrainState, *, bf16: bool) -> dict[str, Any]:
    scored, _ = evaluate(
        run.model,
        run.splits,
        eval_batch_size=run.config.runner.eval_batch_size,
        pad_id=run.encoder.pad_id,
        uses_segments=run.encoder.uses_segments,
        bf16=bf16,
        ranks=run.ranks,
        on_split=run.console.evaluating,
    )
    head = {"format": 1, "data_source": run.data_source, "split": "validation", "step": state.step}
    return head | scored | {"throughput": state.throughput, "parameters": run.model.parameter_counts()}


def _save(run: Run, state: TrainState, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint of this step, then delete all but the best and the last one."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in run.model.named_parameters()}
    names |= {parameter: f"weighting/{index}" for index, parameter in enumerate(run.weighting.parameters())}
    state.weighting = run.weighting.state_dict()
    checkpoint.write(run.folder.checkpoints, run.model.state_dict(), optimizer_tensors(optimizer, names), state.to_json())
    checkpoint.keep(run.folder.checkpoints, {state.step, state.best_step or state.step})
