"""Groups of tasks: by hand, and against all partitions of random matrices in plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from mtlcli.training.analysis.partitions import (
    EXACT,
    Value,
    density,
    grouping,
    mean_affinity,
)


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
    names = "abcdefghijklmnop"
    assert len(names) > EXACT
    blocks = ["abcd", "efgh", "ijkl", "mnop"]
    helps = {one + other for block in blocks for one, other in combinations(block, 2)}
    found = grouping(symmetric(names, helps))
    assert sorted("".join(sorted(group)) for group in found) == blocks
    for count in (1, 3, 6):
        assert len(grouping(symmetric(names, helps), count, density)) == count


def partitions(items: str) -> Iterator[list[str]]:
    """All partitions of some tasks, whose names are letters."""
    if not items:
        yield []
        return
    for others in partitions(items[1:]):
        yield [items[0], *others]
        for place, group in enumerate(others):
            yield [*others[:place], items[0] + group, *others[place + 1 :]]


@pytest.mark.parametrize("value", [mean_affinity, density])
def test_no_partition_is_better(value: Value) -> None:
    random = np.random.default_rng(7)
    for names in ("abc", "abcdef"):
        everyone = list(partitions(names))
        for _ in range(5):
            numbers = random.normal(size=(len(names), len(names)))
            affinity = {
                one: {to: float(numbers[row, column]) for column, to in enumerate(names)}
                for row, one in enumerate(names)
            }

            def total(groups: list[str]) -> float:
                found = 0.0
                for group in groups:
                    for to in group:
                        helped = [affinity[one][to] for one in group if one != to]  # noqa: B023
                        below = len(group) if value is density else max(1, len(group) - 1)
                        found += sum(helped) / below
                return found

            for count in (None, 2, len(names) - 1):
                allowed = [each for each in everyone if count in (None, len(each))]
                best = max(allowed, key=total)
                found = ["".join(group) for group in grouping(affinity, count, value)]
                assert total(found) == pytest.approx(total(best), abs=1e-9)
                assert sorted("".join(found)) == sorted(names)
                assert count in (None, len(found))
