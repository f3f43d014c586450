"""`runner.eval_share`: how often a run is evaluated, from the numbers of tokens; as the command
does it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.warm import mtl

QUICK = [
    *(
        "task=[cola,rte]",
        "data=sample",
        "model=tiny",
        "model.layers=1",
        "model.hidden=16",
        "model.heads=2",
        "data.max_train_rows=40",
    ),
    *(
        "data.max_eval_rows=150",
        "runner.batch_size=8",
        "runner.steps=60",
        "logger.console=plain",
        "logger.every=10",
    ),
]


@pytest.mark.parametrize("share", [0.4, 0.25])
def test_evaluation_takes_no_more_than_its_share_of_the_tokens(
    tmp_path: Path, share: float
) -> None:
    done = mtl("train", *QUICK, f"runner.eval_share={share}", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    steps = [
        int(found)
        for found in re.findall(
            r"^step (\d+): ", (tmp_path / "run" / "log.txt").read_text(), re.MULTILINE
        )
    ]
    every = steps[0]
    assert steps == [*range(every, 60, every), 60] and every > 10, "an epoch is 10 steps"

    found = {
        name: entry["examples"]
        for name, entry in json.loads((tmp_path / "run" / "results.json").read_text())[
            "tasks"
        ].items()
    }
    assert found == {"cola": 150, "rte": 150}
    # Train and validation texts of the sample world are equally long, so an evaluation is 300 / 8
    # steps' tokens, at a third of the cost.
    cost = 300 / 8 / 3
    assert cost / (cost + every) == pytest.approx(share, rel=0.15)


def test_once_an_epoch_where_that_is_within_the_share(tmp_path: Path) -> None:
    done = mtl(
        "train",
        *QUICK,
        "data.max_eval_rows=4",
        "runner.eval_share=0.9",
        f"run_dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^step (\d+): ", (tmp_path / "run" / "log.txt").read_text(), re.MULTILINE)
    assert [int(step) for step in steps] == [10, 20, 30, 40, 50, 60]
