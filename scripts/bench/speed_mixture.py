"""Sections of scripts/bench/speed.py: training speed on the GLUE mixture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from speed_data import (
    LABELS,
    PUBLISHED,
    flops_per_example,
    minilm,
    product_limit,
    representative,
    rows,
    train_features,
    trainer_epoch,
    write_model,
)
from speed_run import BATCH, MAX_LENGTH, SKIP, Bench, speed, spread, table


@dataclass(frozen=True)
class Arm:
    """Settings of the Trainer."""

    label: str
    padded: bool = False
    """Every batch to MAX_LENGTH, not to its longest example."""
    grouped: bool = False
    bf16: bool = False
    attention: str | None = None
    """None: what the library chooses."""
    compiled: str | None = None
    """The backend of torch.compile; None: not compiled."""
    batch_size: int = BATCH


@dataclass(frozen=True)
class Ours:
    """Settings of `mtl train`."""

    label: str
    bf16: bool
    options: tuple[str, ...] = ()


class Mixture:
    """The train splits of all tasks, and what is trained on them."""

    def __init__(self, bench: Bench) -> None:
        self.features = train_features(bench.data, bench.tasks, MAX_LENGTH)
        self.counts = {name: len(each) for name, each in self.features.items()}
        self.lengths = np.concatenate([each.lengths for each in self.features.values()])
        architecture = json.loads((minilm() / "config.json").read_text())
        self.flops = {
            ours: flops_per_example(architecture, self.lengths, first_token=ours)
            for ours in (False, True)
        }
        """Operations of an example, as the Trainer computes it and as mtl does."""

    def plan(self, arm: Arm, count: int, warmup: int, device: str) -> tuple[dict[str, Any], float]:
        """Return the worker's job, and the padded tokens per real token of a whole epoch.

        `count`: timed batches of each task, which stand for its epoch. `warmup`: batches before
        them: the largest first, then others of these, so that no timed batch has a new shape where
        `warmup` is larger than `count`.
        """
        tasks, padded = {}, 0
        for name, each in self.features.items():
            batches = trainer_epoch(each.lengths, arm.batch_size, grouped=arm.grouped)
            widths = (
                np.full(len(batches), MAX_LENGTH) if arm.padded else each.lengths[batches].max(1)
            )
            sizes = arm.batch_size * widths
            padded += int(sizes.sum()) * self.counts[name] // batches.size
            chosen = representative(sizes, count)
            before = [chosen[int(sizes[chosen].argmax())], *(chosen * warmup)][:warmup]
            score = LABELS.get(name, 2) == 1
            tasks[name] = {
                "labels": LABELS.get(name, 2),
                "batches": [rows(each, batches[number], score=score) for number in before + chosen],
            }
        job = asdict(arm) | {"tasks": tasks, "model": str(minilm()), "max_length": MAX_LENGTH}
        return job | {"device": device, "warmup": warmup}, padded / int(self.lengths.sum())

    def rate(self, seconds: dict[str, float], sizes: dict[str, int]) -> float:
        """Return the examples a second of the mixture, from the seconds of an example of each
        task."""
        return sum(sizes[name] for name in self.counts) / sum(
            sizes[name] * seconds[name] for name in self.counts
        )


def mixture(bench: Bench) -> str:
    """Training speed on all tasks: the Trainer in four settings, and mtl."""
    bf16 = bench.precision == "bf16"
    arms = [
        Arm(f"Trainer, run_glue's default: padded to {MAX_LENGTH}, fp32", padded=True),
        Arm("Trainer, dynamic padding, fp32"),
    ]
    if bf16:
        arms.append(Arm("Trainer, dynamic padding, bf16", bf16=True))
    return _compared(bench, arms, [bf16], [bf16])


def amx(bench: Bench) -> str:
    """The mixture in bf16 and in fp32, on a CPU that multiplies bf16 in tiles."""
    if not torch.cpu.get_capabilities().get("amx_bf16", False) and not bench.quick:
        return "No AMX here: nothing was measured.\n"
    arms = [Arm("Trainer, dynamic padding, bf16", bf16=True)]
    return _compared(bench, arms, [True, False], [True, False])


def _best(bench: Bench, work: Mixture, *, bf16: bool) -> Arm:
    """Return the fastest of the settings that a user of the Trainer might try here, on two of the
    tasks."""
    tried: dict[float, Arm] = {}
    for attention, compiled in (("eager", None), ("sdpa", None), ("sdpa", "inductor")):
        if bench.quick and tried:
            break
        label = f"Trainer, best: grouped, fused, {attention}{', compiled' * bool(compiled)}, "
        arm = Arm(label + _name(bf16), False, True, bf16, attention, compiled)
        # A compiled model is compiled again for the second shape, then for shapes of any size.
        job, _ = work.plan(arm, 1 if bench.quick else 3, 4 if compiled else 1, "cpu")
        few = {name: task for name, task in job["tasks"].items() if name in ("sst2", "mnli")}
        measured, _ = bench.work("trainer", job | {"tasks": few or job["tasks"]})
        tried[sum(measured["seconds"].values())] = arm
    best = tried[min(tried)]
    seconds = ", ".join(f"{each:.3f} s ({arm.label})" for each, arm in tried.items())
    bench.say(f"best settings of the Trainer: {best.label}; {seconds}")
    return best


def _compared(bench: Bench, arms: list[Arm], best_in: list[bool], ours_in: list[bool]) -> str:
    """Measure settings of the Trainer, its best ones in the formats of `best_in` (True: bf16), and
    mtl in those of `ours_in`, with and without dropout; against the first of mtl's."""
    work = Mixture(bench)
    arms = [*arms, *(_best(bench, work, bf16=bf16) for bf16 in best_in)]
    without_dropout = bench.fresh("model")
    write_model(
        minilm(), without_dropout, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    ours = [
        Ours(f"mtl train, {_name(bf16)}{label}", bf16, options)
        for bf16 in ours_in
        for label, options in (("", ()), (", dropout 0", (f"model.name={without_dropout}",)))
        if not (bench.quick and options)
    ]
    steps = 1 if bench.quick else 2
    plans = [work.plan(arm, 1 if arm.padded else steps, 1, "cpu") for arm in arms]
    every: list[Arm | Ours] = [*arms, *ours]
    padding = {arm.label: padded for arm, (_, padded) in zip(arms, plans, strict=True)}
    per_s: dict[str, list[float]] = {arm.label: [] for arm in every}
    published: dict[str, list[float]] = {arm.label: [] for arm in every}
    shares: dict[str, list[float]] = {arm.label: [] for arm in every}
    steps_ms = {arm.label: {name: list[float]() for name in work.counts} for arm in every}
    for number in range(bench.rounds):
        limits = {
            bf16: product_limit(torch.bfloat16 if bf16 else torch.float32)
            for bf16 in {arm.bf16 for arm in every}
        }
        for place, arm in enumerate(every):
            label = arm.label
            if isinstance(arm, Arm):
                measured, _ = bench.work("trainer", plans[place][0])
                seconds = {name: each / BATCH for name, each in measured["seconds"].items()}
            else:
                seconds, padding[label] = _ours(bench, work, arm, f"seed={number}")
            per_s[label].append(work.rate(seconds, work.counts))
            published[label].append(work.rate(seconds, PUBLISHED))
            flops = work.flops[isinstance(arm, Ours)]
            shares[label].append(per_s[label][-1] * flops / limits[arm.bf16])
            for name, each_s in seconds.items():
                steps_ms[label][name].append(1000 * BATCH * each_s)
        rates = ", ".join(f"{values[-1]:.1f}" for values in per_s.values())
        bench.say(f"mixture, round {number + 1}: {rates} examples/s")

    lines = []
    for label in per_s:
        times, at_published = (
            spread([a / b for a, b in zip(each[ours[0].label], each[label], strict=True)])
            for each in (per_s, published)
        )
        per_token = f"{median(per_s[label]) * work.lengths.mean():.0f}"
        share = f"{median(shares[label]):.2f}"
        lines.append(
            [label, spread(per_s[label], 1), times, at_published, per_token]
            + [f"{padding[label]:.3f}", share]
        )
    text = (
        f"{len(work.lengths)} examples of {len(work.counts)} tasks, {work.lengths.mean():.1f} "
        f"tokens each, {BATCH} a step; medians of {bench.rounds} rounds. The files may hold less "
        "than the tasks have: one column tells the ratio at their published sizes, where long "
        "texts weigh more.\n\n"
    )
    head = ["", "examples/s", f"{ours[0].label} against it", "at published sizes", "tokens/s"]
    text += table([*head, "padded per real token", "share of the matrix-product limit"], lines)
    text += f"\nMilliseconds for {BATCH} examples of each task. Those of mtl are its mean "
    text += "milliseconds a token times the task's tokens:\n\n"
    each_task = []
    for name, each in work.features.items():
        cells = [f"{median(steps_ms[label][name]):.0f}" for label in per_s]
        each_task.append([name, str(work.counts[name]), f"{each.lengths.mean():.1f}", *cells])
    return text + table(["task", "examples", "tokens each", *per_s], each_task)


def _ours(bench: Bench, work: Mixture, arm: Ours, seed: str) -> tuple[dict[str, float], float]:
    """Return the seconds of an example of each task in a run of mtl, and its padded tokens per real
    token."""
    steps = 4 if bench.quick else 60
    options = [seed, f"runner.precision={_name(arm.bf16)}", *arm.options]
    metrics, _, _ = bench.train(bench.tasks, SKIP + steps, *options)
    found = speed(metrics, SKIP)
    a_token = found.seconds / found.tokens
    seconds = {name: a_token * float(each.lengths.mean()) for name, each in work.features.items()}
    return seconds, found.padded / found.tokens


def _name(bf16: bool) -> str:
    return "bf16" if bf16 else "fp32"
