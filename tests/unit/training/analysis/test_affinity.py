"""Lookahead affinity: against its first-order value, without a trace in the model; and groupings by
hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.training.analysis.affinity import Affinity, grouping
from mtlcli.training.state import TrainState
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import TaskBatch, build_task_batch
from tests.small import small_data, small_model, small_step

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_affinity_is_its_first_order_value_for_small_steps() -> None:
    """1 - L_j(theta - eta g_i) / L_j(theta) = eta <g_i, g_j> / L_j + O(eta^2)."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard")
    backward = Backward(model, weighting, ALONE, bf16=False)
    asked = []

    def fetch(name: str, position: int) -> TaskBatch:
        asked.append((name, position))
        rows = np.arange(8) + 8 * position
        return build_task_batch(
            model.tasks[name],
            features[name],
            rows,
            input_format=InputFormat(0, True),
            accumulation=2,
            ranks=ALONE,
        )

    names = list(model.tasks)
    state = TrainState(positions={"cola": 0, "stsb": 1, "squad": 2})
    affinity = Affinity(state.affinity, backward.passes, fetch, names)
    assert affinity.report() is None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for parameter in model.parameters():
        # What the step before has left.
        parameter.grad = torch.ones_like(parameter)
    affinity.measure(state, lr=1e-5)
    assert (
        model.training
        and asked == [("cola", 0), ("stsb", 1), ("squad", 2)]
        and state.positions == {"cola": 0, "stsb": 1, "squad": 2}
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())

    outcome = backward.probe(
        {name: fetch(name, state.positions[name]) for name in names}, small_step(names)
    )
    assert outcome.gram is not None
    count = sum(parameter.numel() for parameter in backward.passes.parameters.shared)
    report = affinity.report()
    assert report is not None and report["measured"] == 1
    for one, first in enumerate(names):
        eta = 1e-5 * count**0.5 / outcome.gram[one, one].sqrt().item()
        for other, second in enumerate(names):
            expected = eta * outcome.gram[one, other].item() / outcome.losses[other].item()
            assert report["affinity"][first][second] == pytest.approx(
                expected, rel=0.1, abs=2e-6
            ), (first, second)


def symmetric(names: str, helps: set[str]) -> dict[str, dict[str, float]]:
    return {
        one: {
            other: 0.0
            if one == other
            else (0.1 if one + other in helps or other + one in helps else -0.1)
            for other in names
        }
        for one in names
    }


def test_grouping_keeps_those_together_that_help() -> None:
    found = grouping(symmetric("abcd", {"ab", "cd"}))
    assert sorted(sorted(group) for group in found) == [["a", "b"], ["c", "d"]]
    assert sorted(len(group) for group in grouping(symmetric("abcd", set()))) == [1, 1, 1, 1]
    everyone = {one + other for one, other in combinations("abcde", 2)}
    assert [sorted(group) for group in grouping(symmetric("abcde", everyone))] == [list("abcde")]


def test_help_in_one_direction_counts_for_the_one_helped() -> None:
    # a helps b by 0.3, b harms a by 0.1: together is better than apart, in sum.
    assert len(grouping({"a": {"a": 0, "b": 0.3}, "b": {"a": -0.1, "b": 0}})) == 1
    assert len(grouping({"a": {"a": 0, "b": 0.1}, "b": {"a": -0.3, "b": 0}})) == 2


def test_many_tasks_are_merged_step_by_step() -> None:
    names = "abcdefghijkl"
    helps = {
        one + other for block in ("abcd", "efgh", "ijkl") for one, other in combinations(block, 2)
    }
    found = grouping(symmetric(names, helps))
    assert sorted("".join(sorted(group)) for group in found) == ["abcd", "efgh", "ijkl"]
