"""The section `gpu` of scripts/bench/speed.py: training, start and evaluation on a GPU, in less
than eight minutes.

Three parts make a round: batches of one size whose inputs all have 128 tokens, the GLUE mixture at
its real lengths, and whole programs on MRPC. Rounds go on while there is time for another.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from speed_data import (
    flops_per_example,
    minilm,
    product_limit,
    rows,
    train_features,
    trainer_epoch,
    write_bert_base,
    write_long_texts,
)
from speed_mixture import Arm, Mixture
from speed_run import MAX_LENGTH, Bench, speed, spread, table

from mtlcli.data.features import Features
from mtlcli.errors import count_of

SECONDS = 420
"""A round begins only where it will end by then, as far as the one before it shows."""
MTL = "mtl train, bf16"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    batches: tuple[int, ...] = (32, 128)
    """Examples of a step."""
    window: int = 20
    """Steps of mtl between two rows of metrics.jsonl; they are not waited for one by one."""
    warmup: int = 1
    """Windows that are not counted."""
    count: int = 2
    """Windows that are."""
    long_warmup: int = 8
    """The same on the mixture, where many shapes are new."""
    long_count: int = 15
    shapes: int = 8
    """Batches of each task that stand for its epoch with the Trainer. Each is met once before it is
    timed."""
    layers: int | None = None
    """Layers of the second model; None: those of BERT-base."""
    backend: str = "inductor"
    """Of torch.compile."""

    @property
    def steps(self) -> int:
        """Return the timed steps at one size."""
        return self.window * self.count


REHEARSAL = Sizes((4,), 1, 1, 1, 1, 1, 1, layers=1, backend="eager")
"""On a CPU: does the section work?"""

Found = dict[tuple[str, ...], list[list[float]]]
"""Numbers of each round, by the words of a line of a table."""


def gpu(bench: Bench) -> str:
    """Tokens and examples a second on a GPU, time to the first step, and evaluation."""
    if bench.device == "cpu" and not bench.quick:
        return (
            "No GPU here: nothing was measured. On a GPU: `python scripts/bench/speed.py --data "
            "DATA --only gpu --device cuda`.\n"
        )
    sizes = REHEARSAL if bench.device == "cpu" else Sizes()
    parts = [FixedLength(bench, sizes), RealLengths(bench, sizes), Programs(bench, sizes)]
    begin, rounds = time.monotonic(), 0
    while rounds < bench.rounds:
        start = time.monotonic()
        for part in parts:
            part.measure()
            bench.say(f"gpu, round {rounds + 1}: {type(part).__name__} is done")
        rounds += 1
        if 2 * time.monotonic() - start - begin > SECONDS:
            break
    return f"Medians of {count_of(rounds, 'round')}.\n\n" + "\n".join(part.text() for part in parts)


def settings(sizes: Sizes) -> list[Arm]:
    """Return the settings of the Trainer that a user might find on a GPU."""
    plain = Arm("Trainer, sdpa, bf16", bf16=True, attention="sdpa")
    found = [plain, replace(plain, label="Trainer, sdpa, bf16, compiled", compiled=sizes.backend)]
    if find_spec("flash_attn"):
        label = "Trainer, flash attention, bf16"
        found.append(replace(plain, label=label, attention="flash_attention_2"))
    return found


class Part(ABC):
    """A part of the section."""

    def __init__(self, bench: Bench, sizes: Sizes) -> None:
        self.bench, self.sizes = bench, sizes
        self.found: Found = defaultdict(list)

    @abstractmethod
    def measure(self) -> None:
        """Measure one round."""

    @abstractmethod
    def text(self) -> str:
        """Return what was found."""

    def train(self, tasks: list[str], *options: str, warmup: int, count: int) -> Any:
        """Return the speed of a run of mtl over `count` windows, after `warmup` others."""
        window = self.sizes.window
        metrics, _, _ = self.bench.train(
            tasks,
            window * (warmup + count),
            f"logger.every={window}",
            f"runner.device={self.bench.device}",
            "runner.precision=bf16",
            *options,
        )
        return speed(metrics, warmup)

    def ratios(self, mine: tuple[str, ...], other: tuple[str, ...]) -> str:
        """Return the first number of one line against that of another, in each round."""
        pairs = zip(self.found[mine], self.found[other], strict=True)
        return spread([one[0] / two[0] for one, two in pairs])


class FixedLength(Part):
    """Batches whose inputs all have 128 tokens."""

    def __init__(self, bench: Bench, sizes: Sizes) -> None:
        super().__init__(bench, sizes)
        self.texts, base = bench.fresh("long"), bench.fresh("bert-base")
        write_long_texts(bench.data, self.texts)
        write_bert_base(minilm(), base, layers=sizes.layers)
        self.features = train_features(self.texts, ["rte"], MAX_LENGTH)["rte"]
        self.models = {"MiniLM": minilm(), "BERT-base": base}

    def measure(self) -> None:
        """Measure each model with all settings."""
        sizes = self.sizes
        for name, folder in self.models.items():
            limit = product_limit(torch.bfloat16, self.bench.device)
            architecture = json.loads((folder / "config.json").read_text())
            # On a GPU, mtl computes the whole last layer too.
            flops = flops_per_example(architecture, self.features.lengths)
            rates: dict[str, dict[int, float]] = {}
            for arm in settings(sizes):
                measured, _ = self.bench.work("trainer", self.job(arm, folder))
                seconds = measured["seconds"]
                rates[arm.label] = {size: size / seconds[str(size)] for size in sizes.batches}
            rates[MTL] = {}
            for size in sizes.batches:
                options = [f"data.root={self.texts}", f"model.name={folder}"]
                options.append(f"runner.batch_size={size}")
                run = self.train(["rte"], *options, warmup=sizes.warmup, count=sizes.count)
                rates[MTL][size] = run.examples / run.seconds
            for label, each in rates.items():
                for size, rate in each.items():
                    share = rate * flops / limit
                    self.found[name, str(size), label].append([rate, share])

    def job(self, arm: Arm, folder: Path) -> dict[str, Any]:
        """Return the worker's job: a Trainer for each size, in one process."""
        warmup = self.sizes.window * self.sizes.warmup
        tasks = {
            str(size): {
                "labels": 2,
                "batch_size": size,
                "batches": batches(self.features, size, warmup + self.sizes.steps),
            }
            for size in self.sizes.batches
        }
        job = asdict(arm) | {"model": str(folder), "max_length": MAX_LENGTH, "tasks": tasks}
        return job | {"device": self.bench.device, "warmup": warmup}

    def text(self) -> str:
        """Return the table."""
        length = float(self.features.lengths.mean())
        lines = []
        for (model, size, label), each in self.found.items():
            tokens = median(one[0] for one in each) * length
            times = self.ratios((model, size, MTL), (model, size, label))
            lines.append([model, size, label, f"{tokens:.0f}", times])
            lines[-1].append(spread([one[1] for one in each]))
        head = ["encoder", "examples a step", "", "tokens/s", "mtl against it"]
        what = f"{length:.0f} tokens an example. BERT-base has random weights.\n\n"
        return what + table([*head, "share of the matrix-product limit"], lines)


class RealLengths(Part):
    """The GLUE mixture with texts as they are."""

    def __init__(self, bench: Bench, sizes: Sizes) -> None:
        super().__init__(bench, sizes)
        self.work = Mixture(bench)

    def measure(self) -> None:
        """Measure each number of examples a step with all settings."""
        sizes, work = self.sizes, self.work
        for size in sizes.batches:
            # Compiled for batches of any size, which takes a minute: only where it can pay most.
            small = size < max(sizes.batches)
            for arm in [arm for arm in settings(sizes) if not (small and arm.compiled)]:
                grouped = replace(arm, grouped=True, batch_size=size)
                job, _ = work.plan(grouped, sizes.shapes, sizes.shapes + 1, self.bench.device)
                measured, _ = self.bench.work("trainer", job)
                seconds = {name: each / size for name, each in measured["seconds"].items()}
                rate = work.rate(seconds, work.counts)
                self.found[str(size), f"{arm.label}, grouped"].append([rate])
            run = self.train(
                self.bench.tasks,
                f"runner.batch_size={size}",
                warmup=sizes.long_warmup,
                count=sizes.long_count,
            )
            rate = run.tokens / run.seconds / float(work.lengths.mean())
            self.found[str(size), MTL].append([rate])

    def text(self) -> str:
        """Return the table."""
        lines = []
        for (size, label), each in self.found.items():
            rates = spread([one[0] for one in each], 0)
            lines.append([size, label, rates, self.ratios((size, MTL), (size, label))])
        what = f"The GLUE mixture, MiniLM, {self.work.lengths.mean():.1f} tokens an example. "
        what += (
            "The Trainer has met each timed shape before; mtl, which meets shapes as they come, "
        )
        what += "has made some hundred steps before.\n\n"
        return what + table(["examples a step", "", "examples/s", "mtl against it"], lines)


class Programs(Part):
    """Whole programs on MRPC: time to the first step, and evaluation."""

    def measure(self) -> None:
        """Measure a script with the Trainer, and mtl."""
        few = self.bench.quick
        rows_of = {"train_rows": 64 if few else None, "eval_rows": 64 if few else None}
        arm = settings(self.sizes)[0]
        size, steps = self.sizes.batches[0], self.sizes.window
        job = asdict(replace(arm, grouped=True, batch_size=size)) | rows_of
        job |= {"model": str(minilm()), "data": str(self.bench.data), "max_length": MAX_LENGTH}
        job |= {"device": self.bench.device, "warmup": 0, "steps": steps, "eval_batch_size": 512}
        # The train split is evaluated: the validation split is two batches.
        measured, ended = self.bench.work("script", job | {"eval_split": "train"})
        count = measured["eval_rows"]
        first, rate = measured["first_step"] - ended.begin, count / measured["evaluation"]
        self.found[(arm.label,)].append([first, rate])
        options = [f"runner.device={self.bench.device}", "runner.precision=bf16"]
        options += [f"runner.batch_size={size}"]
        options += ["tasks.mrpc.splits.validation=[train]", "data.warnings=off"]
        limit = 64 if few else "null"
        options += [f"data.max_train_rows={limit}", f"data.max_eval_rows={limit}"]
        _, measured, ended = self.bench.train(["mrpc"], steps, *options, hook="evaluation")
        assert ended.first_step is not None
        self.found[(MTL,)].append([ended.first_step, count / measured["evaluation"]])
        self.rows = count

    def text(self) -> str:
        """Return the table."""
        lines = []
        for (label,), each in self.found.items():
            first, rate = ([one[place] for one in each] for place in (0, 1))
            lines.append([label, spread(first, 1), spread(rate, 0)])
        what = (
            f"Whole programs on MRPC, with filled caches, {self.rows} rows evaluated, by the "
            "Trainer in 512s:\n\n"
        )
        return what + table(["", "first step begins after, s", "evaluation, rows/s"], lines)


def batches(features: Features, size: int, count: int) -> list[list[dict[str, Any]]]:
    """Return `count` batches in a random order, over again where there are not so many."""
    epoch = trainer_epoch(features.lengths, size, grouped=False)
    order: NDArray[np.int64] = np.resize(epoch, (count, size))
    return [rows(features, batch, score=False) for batch in order]
