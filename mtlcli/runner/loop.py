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
from mtlcli.runner.console import Console
from mtlcli.runner.distributed import Ranks
from mtlcli.runner.folder import RunFolder
from mtlcli.runner.optim import build_optimizer, optimizer_tensors, rate, set_rate
from mtlcli.runner.state import TrainState, Window
from mtlcli.runner.step import TaskBatch, backward, cut
from mtlcli.sampling.base import Sampling
from mtlcli.weighting.base import LossWeighting


@dataclass
class Run:
    """The parts of a run, built and ready to train."""

    config: Config
    """The resolved config: steps, learning rate and precision are known."""
    model: MultiTaskModel
    """Trunk and heads, on this rank's device."""
    sampling: Sampling
    """Which tasks make up a step."""
    weighting: LossWeighting
    """How losses become one update."""
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


def train(run: Run) -> dict[str, Any]:
    """Train to the last step or until patience runs out; return the content of results.json: the scores of the best checkpoint.

    Evaluate, save and stop stand before the step, so that the last step needs no second path.
    """
    config, ranks = run.config, run.ranks
    bf16 = config.runner.precision == "bf16"
    optimizer = build_optimizer(config.optim, run.model, run.weighting)
    parameters = list(run.model.parameters())
    state = TrainState(positions=dict.fromkeys(run.streams, 0))
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
            if ranks.first:
                _save(run, state, optimizer)
                run.folder.write_results(best | {"throughput": state.throughput})
            if config.runner.patience is not None and state.stale >= config.runner.patience:
                run.console.say(f"stopped: {state.stale} evaluations without a better average")
                last = True
        if last:
            return best | {"throughput": state.throughput}

        # Plan and fetch.
        start = time.perf_counter()
        run.model.train()
        # Seeding by (seed, step, rank) makes dropout a pure function of the step: nothing to save, nothing to restore.
        torch.manual_seed((config.seed * 1_000_003 + state.step) * 4096 + ranks.rank)
        batches: dict[str, TaskBatch] = {}
        for name, _ in run.sampling.plan(state.step):
            batches[name] = cut(
                run.model.tasks[name],
                run.train[name],
                run.streams[name].indices(state.positions[name]),
                pad_id=run.encoder.pad_id,
                uses_segments=run.encoder.uses_segments,
                accumulation=config.runner.accumulation,
                ranks=ranks,
            )
            state.positions[name] += 1

        # Forward, backward, reduce.
        optimizer.zero_grad(set_to_none=True)
        losses, weights = backward(run.model, run.weighting, batches, ranks, bf16=bf16)

        # Clip, check, update.
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.optim.clip or math.inf)
        _check_finite(state.step, losses, float(norm))
        share = rate(config.optim, state.step, run.steps)
        set_rate(optimizer, share)
        optimizer.step()
        state.step += 1
        seconds = time.perf_counter() - start
        state.seconds += seconds

        # Log.
        state.count(batches)
        window.add(batches, losses, weights, seconds)
        run.console.progress(state.step)
        if ranks.first and (state.step % config.logger.every == 0 or state.step == run.steps):
            row = {
                "step": state.step,
                "tasks": window.tasks(),
                "lr": optimizer.param_groups[0]["lr"],
                "gradient_norm": float(norm),
                **window.speed(),
                "seconds": round(state.seconds, 3),
                "seconds_left": round(state.seconds / state.step * (run.steps - state.step), 1),
            }
            window = Window()
            run.folder.append_metrics(row)
            run.console.metrics(row)


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


def _check_finite(step: int, losses: dict[str, torch.Tensor], norm: float) -> None:
    """Stop before a number that is not finite reaches the weights."""
    bad = [f"the loss of {name} is {loss.item()}" for name, loss in losses.items() if not torch.isfinite(loss)]
    if not bad and not math.isfinite(norm):
        bad = [f"the gradient norm is {norm} (tasks of the step: {', '.join(losses)})"]
    if bad:
        raise RunError("; ".join(bad), where=f"step {step}", fix="lower optim.lr, set optim.clip, or look at the rows of that task")
