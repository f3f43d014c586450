from __future__ import annotations

from typing import Any, cast

import pytest

from mtlcli.report.finished import Finished
from mtlcli.report.methods import Method
from mtlcli.report.words import costs_of


class Run:
    """What is read of a run."""

    def __init__(self, flops: float | None, **examples: int) -> None:
        cost = {"flops_per_example": flops, "peak_memory": None}
        self.results: dict[str, Any] = {"cost": cost, "parameters": {"total": 10, "shared": 4}}
        self.examples = examples
        self.seconds = 2.0


def costs(*seeds: list[Run]) -> dict[str, float | None]:
    return costs_of(Method("m", dict(enumerate(cast("list[list[Finished]]", seeds)))))


def test_the_operations_of_runs_that_share_the_tasks_out_add_up() -> None:
    """A group of three tasks has three times the examples of a task alone."""
    found = costs([Run(7e6, a=30, b=30, c=36), Run(3e6, d=32)], [Run(6e6, a=96), Run(2e6, d=32)])
    first, second = (7e6 * 96 + 3e6 * 32), (6e6 * 96 + 2e6 * 32)
    assert found["TFLOP"] == pytest.approx((first + second) / 2 / 1e12)
    assert found["examples"] == 128
    # Operations of an example times examples are all operations.
    assert found["MFLOP/example"] == pytest.approx((first + second) / 2 / 128 / 1e6)
    assert (found["parameters"], found["shared"], found["seconds"]) == (20, 8, 4)


def test_what_a_run_does_not_say_is_not_guessed() -> None:
    merged = costs([Run(None)])
    assert merged["TFLOP"] is merged["MFLOP/example"] is merged["examples"] is None
    assert costs([Run(5e6)])["MFLOP/example"] == 5, "without metrics.jsonl"
    assert costs([Run(5e6)])["TFLOP"] is None
