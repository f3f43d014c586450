"""Which task helps which, from the joint run and the joint runs without one task each: a table and
sentences.

What a task brings to another is the other's score in the joint run minus its score in the run
without the task, so the gains of the candidates, which lack a task, are turned round here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mtlcli.report.comparison import Compared, Comparison, Score
from mtlcli.report.statistics import LEVEL, Estimate
from mtlcli.report.words import STARRED, how, seeds_of
from mtlcli.screen import Column, FittingTable

TURNED = {"helps": "hurts", "hurts": "helps"}
"""What the presence of a task does, by what its absence does."""


def turned(found: Estimate) -> Estimate:
    """Return what the presence of a task brings, from what its absence brings."""
    # 0 minus 0 has no sign.
    return replace(found, value=0 - found.value, low=0 - found.high, high=0 - found.low)


def table(comparison: Comparison, whole: str = "") -> FittingTable:
    """Return the table with a row for each task that was left out, and a column for each task: what
    the row's task brings to it, with its interval. `whole`: where all columns can be read."""
    averages = all(each.average is not None for each in comparison.candidates)
    made = FittingTable(
        [
            Column("left out", fold=24),
            *(
                Column(task, right=True, goes=place)
                for place, task in enumerate(comparison.tasks, start=2)
            ),
            *([Column("mean of the others", right=True, goes=1)] if averages else []),
        ],
        title=(
            "what the task of the row brings to that of the column: the score of "
            f"{seeds_of(comparison.baseline)} minus that without it, with {LEVEL:.0%} intervals "
            f"({STARRED})"
        ),
        whole=whole,
    )
    for cells in rows(comparison):
        made.add_row(*cells)
    return made


def rows(comparison: Comparison) -> list[list[str]]:
    """Return the cells of the table: the task that was left out, then what it brings to each
    task, then to all others on average where there is such a mean."""
    found = []
    for compared in comparison.candidates:
        gains = {score.task: score for score in compared.mains}
        cells = [comparison.left_out[compared.method.label]]
        for task in comparison.tasks:
            cells.append(_cell(gains[task]) if task in gains else "")
        if compared.average is not None:
            cells.append(_size(turned(compared.average), 100, compared.verdict))
        found.append(cells)
    return found


def _cell(score: Score) -> str:
    return _size(turned(score.gain), 100 if score.rises else 1, score.verdict)


def _size(found: Estimate, scale: float, verdict: str) -> str:
    """Return a gain with its interval, and a star where it counts. `scale`: 100 for points."""
    form = "+.1f" if scale == 100 else "+.3g"
    star = "*" if verdict in TURNED else ""
    ends = f"{scale * found.low:{form}} to {scale * found.high:{form}}"
    return f"{scale * found.value:{form}}{star} ({ends})"


def sentences(comparison: Comparison) -> Iterator[str]:
    """Yield the answer in words, the closing sentences last."""
    unsure = []
    for compared in comparison.candidates:
        task = comparison.left_out[compared.method.label]
        for score in compared.mains:
            if score.verdict in TURNED:
                yield f"{task} {_verb(score, TURNED[score.verdict])}."
            else:
                unsure.append(f"{task} to {score.task} {_cell(score)}")
    if unsure:
        yield f"No difference shown: {'; '.join(unsure)}."
    yield from comparison.notes
    yield how(comparison)
    for compared in comparison.candidates:
        if compared.average is not None:
            yield _closing(compared, comparison.left_out[compared.method.label])


def _verb(score: Score, what: str) -> str:
    """Return what a task does to another, and by how much."""
    found = turned(score.gain)
    sign = 1 if what == "helps" else -1
    scale = 100 if score.rises else 1
    form = ".1f" if score.rises else ".3g"
    value, *ends = (
        f"{sign * scale * each:{form}}"
        for each in (found.value, *sorted((found.low, found.high), key=lambda end: sign * end))
    )
    unit = " points" if score.rises else ""
    around = f"({LEVEL:.0%} interval {ends[0]} to {ends[1]})"
    return f"{what} {score.task} by {value}{unit} {around}"


def _closing(compared: Compared, task: str) -> str:
    """Return one sentence about what a task brings to the others as a whole."""
    assert compared.average is not None
    what = {
        "helps": "hurts the others on average",
        "hurts": "helps the others on average",
        "no difference shown": "is not shown to change the others on average",
    }[compared.verdict]
    found = turned(compared.average)
    around = f"{LEVEL:.0%} interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return f"{task} {what} ({100 * found.value:+.1f} points, {around})."
