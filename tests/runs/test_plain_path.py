"""The loss of every step of `mtl train` against the plain path of `runner.fast=off`, against a
textbook's loop, and against a list kept here.

The fast path computes the last layer for the first token alone, lets the inputs of all tasks go
through the trunk together and sums sparse gradients of word embeddings. The textbook takes one
example after the other without padding, with eager attention, fp32, torch's optimiser and the
schedule of the transformers library. Dropout is 0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
from mtlcli.data.batches import InputFormat, Stream, collate
from mtlcli.models.build import build_model
from mtlcli.prepare.prepare import prepare
from tests.ranks import fork_ranks
from tests.warm import mtl

STEPS, BATCH, LR = 24, 8, 2e-3
TASKS = ["cola", "stsb", "squad_v2"]
GOLDEN = json.loads((Path(__file__).parent / "losses.json").read_text())


Losses = list[dict[str, float]]
"""The losses of all tasks in each step."""


def train(folder: Path, *options: str) -> Losses:
    """Run the command, and return the losses that it has written."""
    done = mtl(
        *(
            "train",
            f"task=[{','.join(TASKS)}]",
            "data=sample",
            "model=tiny",
            "sampling=all",
            f"run_dir={folder}",
            "seed=5",
        ),
        *(
            f"runner.batch_size={BATCH}",
            f"runner.steps={STEPS}",
            f"runner.eval_every={STEPS}",
            "data.max_train_rows=64",
        ),
        *(
            "data.max_eval_rows=8",
            "logger.every=1",
            f"optim.lr={LR}",
            "optim.warmup=4",
            "data.max_length=64",
            "tasks.stsb.weight=0.5",
        ),
        *("runner.precision=fp32", "runner.device=cpu"),
        *options,
        before=fork_ranks,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: row["tasks"][name]["loss"] for name in TASKS} for row in rows]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Losses]:
    """The run folder, and the losses of each step."""
    folder = tmp_path_factory.mktemp("golden") / "run"
    return folder, train(folder)


def textbook(folder: Path) -> Losses:
    """The same run with nothing clever in it."""
    config = replaced(load_config(folder / "config.yaml"), {"model.attention": "eager"})
    prepared = prepare(config)
    torch.manual_seed(config.seed)
    model = build_model(config, prepared.tasks, prepared.files).train()
    features = {name: prepared.features[name]["train"] for name in TASKS}
    streams = {
        name: Stream(features[name].lengths, batch_size=BATCH, seed=config.seed * 1000 + number)
        for number, name in enumerate(TASKS)
    }
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, foreach=False)
    schedule = get_linear_schedule_with_warmup(optimizer, 4, STEPS)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = {}
        for name, task in prepared.tasks.items():
            indices = streams[name].indices(step)
            items = float(task.items(features[name], indices))
            losses[name] = 0.0
            for index in indices:
                one = collate(
                    features[name],
                    np.array([index]),
                    input_format=InputFormat(prepared.encoder.pad_id, True),
                    denominator=items,
                )
                loss = model(name, one).loss
                (task.config.weight * loss).backward()
                losses[name] += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip or 0.0)
        optimizer.step()
        schedule.step()
        found.append(losses)
    return found


def agree(losses: Losses, theirs: Losses) -> None:
    """Compare losses within rounding, which grows with the steps: Adam divides small gradients by
    their own size."""
    assert losses[-1] != losses[0]
    for number, (found, expected) in enumerate(zip(losses, theirs, strict=True)):
        assert found == pytest.approx(expected, rel=1e-5 + 1e-4 * number), f"step {number}"


def test_every_step_has_the_loss_of_the_textbook(fast: tuple[Path, Losses]) -> None:
    folder, losses = fast
    assert len(losses) == STEPS
    agree(losses, textbook(folder))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["sharing=soft", "sharing.layers=[-1]", "weighting=pcgrad"],
        ["sharing=cross_stitch", "weighting=uncertainty"],
        ["sharing=lora", "weighting=famo", "runner.accumulation=2"],
        ["runner.devices=2", "weighting=mgda"],
    ],
)
def test_every_step_has_the_loss_of_the_plain_path(
    fast: tuple[Path, Losses], tmp_path: Path, options: list[str]
) -> None:
    few = [*options, "runner.steps=8", "runner.eval_every=8"] if options else []
    losses = train(tmp_path / "fast", *few) if few else fast[1]
    agree(losses, train(tmp_path / "plain", *few, "runner.fast=off", "runner.together=false"))


def test_the_losses_are_those_of_the_list(fast: tuple[Path, Losses]) -> None:
    """On other hardware products round differently; a change of the data, the start, the order or
    the update shows in the second step."""
    for number, (found, expected) in enumerate(zip(fast[1], GOLDEN, strict=True)):
        assert found == pytest.approx(expected, rel=1e-4 + 1e-3 * number), f"step {number}"
