"""Sections of scripts/bench/speed.py: how mtl's speed goes with tasks, batch sizes, lengths and
ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from speed_data import write_long_texts
from speed_run import BATCH, SKIP, Bench, Speed, speed, spread, table


def scaling(bench: Bench) -> str:
    """Tokens a second over numbers of tasks, batch sizes and lengths."""
    texts = bench.fresh("long")
    write_long_texts(bench.data, texts)
    examples = 64 if bench.quick else 640
    order = [
        name
        for name in ("mnli", "qqp", "qnli", "rte", "mrpc", "stsb", "cola", "sst2")
        if name in bench.tasks
    ]
    runs: dict[tuple[str, str], tuple[Sequence[str], int, list[str]]] = {}
    for count in sorted({min(count, len(order)) for count in (1, 2, 4, 8)}):
        runs["tasks", str(count)] = (order[:count], examples // BATCH, [])
    for size in (8, 16, 32, 64):
        runs["examples a step", str(size)] = (
            bench.tasks,
            examples // size,
            [f"runner.batch_size={size}"],
        )
    for length in (16, 32, 64, 128):
        options = [f"data.root={texts}", f"data.max_length={length}"]
        runs["tokens an example", str(length)] = (
            ["rte"],
            max(2 if bench.quick else 6, examples // (2 * length)),
            options,
        )
    text = (
        f"mtl, {bench.precision}, {BATCH} examples a step where nothing else is said, medians "
        f"of {bench.rounds} rounds. "
    )
    text += "Tokens an example: texts of RTE joined so that all are that long; the other rows are "
    text += "texts as they are.\n\n"
    return text + _rates(_measured(bench, runs))


def ranks(bench: Bench) -> str:
    """Two processes against one of two threads."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if cores < 2:
        return "Not measured: this process may use one core only.\n"
    steps = 2 if bench.quick else 40
    one, two = ("ranks", "1 rank of 2 threads"), ("ranks", "2 ranks of 1 thread")
    runs: dict[tuple[str, str], tuple[Sequence[str], int, list[str]]] = {
        one: (bench.tasks, steps, ["runner.devices=1", "runner.threads=2"]),
        two: (bench.tasks, steps, ["runner.devices=2", "runner.threads=1"]),
    }
    found = _measured(bench, runs)
    ratios = [
        (b.tokens / b.seconds) / (a.tokens / a.seconds)
        for a, b in zip(found[one], found[two], strict=True)
    ]
    text = (
        f"mtl, {bench.precision}, the mixture, {BATCH} examples a step, {steps} steps, medians "
        f"of {bench.rounds} rounds.\n\n"
    )
    return (
        text
        + _rates(found)
        + f"\nTwo ranks of one thread against one rank of two threads: {spread(ratios)} of its "
        "tokens/s.\n"
    )


def _measured(
    bench: Bench, runs: dict[tuple[str, str], tuple[Sequence[str], int, list[str]]]
) -> dict[tuple[str, str], list[Speed]]:
    """The speed of each of some runs (tasks, steps, options) in each round."""
    found: dict[tuple[str, str], list[Speed]] = {key: [] for key in runs}
    for number in range(bench.rounds):
        for key, (tasks, steps, options) in runs.items():
            metrics, _, _ = bench.train(tasks, SKIP + steps, *options)
            found[key].append(speed(metrics, SKIP))
        rates = [f"{each[-1].tokens / each[-1].seconds:.0f}" for each in found.values()]
        bench.say(f"round {number + 1} of {bench.rounds}: {', '.join(rates)} tokens/s")
    return found


def _rates(found: dict[tuple[str, str], list[Speed]]) -> str:
    lines = []
    for (what, value), each in found.items():
        rates, milliseconds = (
            [one.tokens / one.seconds for one in each],
            [1000 * one.seconds / one.steps for one in each],
        )
        mean = f"{each[0].tokens / each[0].examples:.1f}"
        lines.append(
            [
                what,
                value,
                mean,
                spread(milliseconds, 1),
                spread(rates, 0),
                f"{each[0].padded / each[0].tokens:.3f}",
            ]
        )
    head = ["", "", "tokens of an example", "ms a step", "tokens/s", "padded per real token"]
    return table(head, lines)
