"""A comparison as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mtlcli.errors import count_of
from mtlcli.report.comparison import Compared, Comparison, Score
from mtlcli.report.finished import CLASSES
from mtlcli.report.methods import Method
from mtlcli.report.statistics import LEVEL, Estimate
from mtlcli.screen import Column, FittingTable


def points(value: float) -> str:
    """Return a change of a fraction in points, hundredths, with its sign."""
    return f"{100 * value:+.1f}"


def interval(found: Estimate, scale: float = 100) -> str:
    """Return an interval of changes, by default in points."""
    return f"{scale * found.low:+.1f} to {scale * found.high:+.1f}"


def change(score: Score) -> tuple[str, str]:
    """Return a gain and its interval as text: in points where the score is a fraction, else in the
    unit of the score."""
    if score.rises:
        return points(score.gain.value), interval(score.gain)
    found = score.gain
    return f"{found.value:+.3g}", f"{found.low:+.3g} to {found.high:+.3g}"


def main_cells(score: Score) -> list[str]:
    """Return the main score of a task as the cells of a row: task, metric, both scores, the gain,
    its interval, the corrected p-value and the verdict."""
    return [
        score.task,
        score.key,
        f"{score.baseline.value:.4f}",
        f"{score.candidate.value:.4f}",
        *change(score),
        probability(score.adjusted),
        score.verdict,
    ]


def number(value: float) -> str:
    """Return a count or a measure as text, with at least three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def probability(value: float) -> str:
    """Return a p-value as text."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def seeds_of(method: Method) -> str:
    """Return the label of a method with the number of its seeds."""
    return f"{method.label} ({count_of(len(method.runs), 'seed')})"


# ------------------------------------------------------------------------------------------------
# tables


def tables(comparison: Comparison, whole: str = "") -> list[FittingTable]:
    """Return the tables of a comparison: the gains of each candidate; accuracy, precision, recall
    and F1 of tasks with classes; what each method took. `whole`: where all columns can be read."""
    made = [_gains(comparison, each, whole) for each in comparison.candidates]
    classes = class_scores(comparison)
    return [*made, *([_classes(classes, whole)] if classes else []), costs(comparison, whole)]


def _gains(comparison: Comparison, compared: Compared, whole: str) -> FittingTable:
    name, base = compared.method.label, comparison.baseline.label
    table = FittingTable(
        [
            Column("task", fold=24),
            Column("metric", goes=2),
            Column(base, right=True),
            Column(name, right=True),
            Column("gain", right=True),
            Column(f"{LEVEL:.0%} interval", right=True, goes=1),
            Column("p (Holm)", right=True, goes=3),
            Column("verdict"),
        ],
        title=f"{seeds_of(compared.method)} against {seeds_of(comparison.baseline)}",
        whole=whole,
    )
    for place, cells in enumerate(gain_rows(compared)):
        if place == len(compared.mains):
            table.add_line()
        table.add_row(*cells)
    return table


def gain_rows(compared: Compared) -> Iterator[list[str]]:
    """Yield the rows of the table of a candidate, each with the cells of `main_cells`: its tasks,
    then their average and Delta-m, where there are such."""
    yield from map(main_cells, compared.mains)
    judged = [probability(compared.adjusted), compared.verdict]
    if (found := compared.average) is not None:
        ours, theirs = (
            float(np.mean([getattr(score, side).value for score in compared.mains]))
            for side in ("candidate", "baseline")
        )
        sides = [f"{theirs:.4f}", f"{ours:.4f}", points(found.value), interval(found)]
        yield ["average", "", *sides, *judged]
    if (found := compared.relative) is not None:
        cells = ["", "", f"{100 * found.value:+.1f} %", f"{interval(found)} %"]
        yield ["Delta-m", "", *cells, *(judged if compared.average is None else ["", ""])]


STARRED = f"* p below {1 - LEVEL:.2f}, corrected"
"""What a star behind a gain says."""


def side_by_side(comparison: Comparison, whole: str = "") -> FittingTable:
    """Return one table of all candidates: of each main score the baseline's, and the gain of every
    candidate with its interval. `whole`: where all columns can be read, if not in the tables of
    single candidates, which follow."""
    made = FittingTable(
        [
            Column("task", fold=24),
            Column("metric", goes=1),
            Column(comparison.baseline.label, right=True),
            *(
                Column(each.method.label, right=True, goes=place)
                for place, each in enumerate(comparison.candidates, start=2)
            ),
        ],
        title=f"gains over {seeds_of(comparison.baseline)}, with {LEVEL:.0%} intervals ({STARRED})",
        whole=whole or "the tables below",
    )
    for place, cells in enumerate(side_by_side_rows(comparison)):
        if place == len(comparison.tasks):
            made.add_line()
        made.add_row(*cells)
    return made


def side_by_side_rows(comparison: Comparison) -> Iterator[list[str]]:
    """Yield the rows of the table of all candidates: task, metric, the baseline's score, and the
    gain of each candidate; last the average, where all candidates have one."""

    def cell(value: str, around: str, verdict: str) -> str:
        return f"{value}{'*' if verdict in ('helps', 'hurts') else ''} ({around})"

    for task in comparison.tasks:
        scores = [
            next((score for score in each.mains if score.task == task), None)
            for each in comparison.candidates
        ]
        there = [score for score in scores if score is not None]
        cells = ["" if each is None else cell(*change(each), each.verdict) for each in scores]
        yield [task, there[0].key, f"{there[0].baseline.value:.4f}", *cells]
    if all(each.average is not None for each in comparison.candidates):
        cells = [
            cell(points(found.value), interval(found), each.verdict)
            for each in comparison.candidates
            if (found := each.average) is not None
        ]
        yield ["average", "", "", *cells]


MEAN = "mean of these tasks"
"""What stands in place of a task for the means."""


def class_scores(comparison: Comparison) -> list[tuple[str, str, dict[str, Estimate]]]:
    """Return accuracy, precision, recall and F1 of each task with classes and each method, then
    their means: (task, label of the method, key -> score)."""
    rows: list[tuple[str, str, dict[str, Estimate]]] = []
    for task in comparison.tasks:
        baseline: dict[str, Estimate] = {}
        ours = []
        for compared in comparison.candidates:
            found = {
                score.key: score
                for score in (*compared.mains, *compared.others)
                if score.task == task and score.key in CLASSES
            }
            if set(CLASSES) <= set(found):
                baseline = {key: found[key].baseline for key in CLASSES}
                values = {key: found[key].candidate for key in CLASSES}
                ours.append((task, compared.method.label, values))
        if baseline:
            rows += [(task, comparison.baseline.label, baseline), *ours]
    means = [each for each in comparison.candidates if each.classes]
    for place, compared in enumerate(means):
        for side, label in enumerate((comparison.baseline.label, compared.method.label)):
            if side == 1 or place == 0:
                values = {key: both[side] for key, both in compared.classes.items()}
                rows.append((MEAN, label, values))
    return rows


def _classes(rows: list[tuple[str, str, dict[str, Estimate]]], whole: str) -> FittingTable:
    table = FittingTable(
        [
            Column("task", fold=24),
            Column("method", fold=24),
            *(Column(key, right=True) for key in CLASSES),
        ],
        title=f"tasks with classes, with {LEVEL:.0%} intervals of each score",
        whole=whole,
    )
    for place, (task, label, values) in enumerate(rows):
        if place and rows[place - 1][0] != task:
            table.add_line()
        cells = [
            f"{found.value:.3f} [{max(0, found.low):.3f}, {min(1, found.high):.3f}]"
            for found in values.values()
        ]
        table.add_row(task, label, *cells)
    return table


COSTS = {
    "parameters": ("parameters", "total"),
    "shared": ("parameters", "shared"),
    "MFLOP/example": ("cost", "flops_per_example"),
    "peak MB": ("cost", "peak_memory"),
}
"""The columns of costs, each with its place in results.json."""


def costs_of(method: Method) -> dict[str, float | None]:
    """Return what a method took, by the titles of columns: means over seeds, where runs that share
    the tasks out add up (but for memory, and for the operations of an example, which are those of
    all runs over all their examples). None where a run does not say."""
    found: dict[str, float | None] = {}
    for title, (part, key) in COSTS.items():
        adds = part == "parameters"
        found[title] = _mean_of(
            [[run.results.get(part, {}).get(key) for run in runs] for runs in method.runs.values()],
            adds=adds,
        )
    examples = [
        [sum(run.examples.values()) or None for run in runs] for runs in method.runs.values()
    ]
    found["examples"] = _mean_of(examples, adds=True)
    seconds = [[run.seconds for run in runs] for runs in method.runs.values()]
    found["seconds"] = _mean_of(seconds, adds=True)
    flops = [
        [
            _product(
                run.results.get("cost", {}).get("flops_per_example"), sum(run.examples.values())
            )
            for run in runs
        ]
        for runs in method.runs.values()
    ]
    if (total := _mean_of(flops, adds=True)) is not None and found["examples"]:
        found["TFLOP"] = total / 1e12
        found["MFLOP/example"] = total / found["examples"]
    if found["MFLOP/example"] is not None:
        found["MFLOP/example"] /= 1e6
    if found["peak MB"] is not None:
        found["peak MB"] /= 1e6
    return {"TFLOP": None} | found


def _product(flops: float | None, examples: int) -> float | None:
    return None if flops is None else flops * examples


def _mean_of(values: Sequence[Sequence[float | None]], *, adds: bool) -> float | None:
    """Return the mean over seeds of the sum (or the mean) over runs of a seed; None where one is
    not known."""
    if any(value is None for of in values for value in of):
        return None
    known = [[value for value in of if value is not None] for of in values]
    return float(np.mean([sum(of) if adds else float(np.mean(of)) for of in known]))


def costs(comparison: Comparison, whole: str = "") -> FittingTable:
    """Return the table of what each method took. `whole`: where all columns can be read."""
    titles = ("parameters", "shared", "MFLOP/example", "TFLOP", "examples", "seconds", "peak MB")
    table = FittingTable(
        [
            Column("method", fold=24),
            *(Column(title, right=True, goes=place) for place, title in enumerate(titles)),
        ],
        title="what each took, a seed (operations are those of training's matrix products)",
        whole=whole,
    )
    for method in comparison.methods:
        found = costs_of(method)
        cells = []
        for title in titles:
            value = found[title]
            cells.append("-" if value is None else number(value))
        table.add_row(method.label, *cells)
    return table


# ------------------------------------------------------------------------------------------------
# sentences


def sentences(comparison: Comparison) -> Iterator[str]:
    """Yield the answer in words, the closing sentence last."""
    for compared in comparison.candidates:
        name = compared.method.label
        for what in ("helps", "hurts"):
            of = [score for score in compared.mains if score.verdict == what]
            if of:
                yield f"{name} {what} {', '.join(map(_with_size, of))}."
        if of := [score for score in compared.mains if score.verdict == "no difference shown"]:
            yield f"{name}: no difference shown on {', '.join(map(_with_size, of))}."
    yield from comparison.notes
    yield how(comparison)
    yield closing(comparison)


def _with_size(score: Score) -> str:
    value, around = change(score)
    return f"{score.task} ({value}, {LEVEL:.0%} interval {around})"


def how(comparison: Comparison) -> str:
    """Return what the intervals and the verdicts are."""
    kinds: dict[str, list[str]] = {unit: [] for _, unit in comparison.units.values()}
    for task, (_, unit) in comparison.units.items():
        kinds[unit].append(task)
    drawn = "; ".join(f"{plural(unit)} of {', '.join(tasks)}" for unit, tasks in kinds.items())
    seeds = all(score.gain.covers_seeds for each in comparison.candidates for score in each.mains)
    family = sum(len(each.mains) for each in comparison.candidates)
    counts = sorted(set(comparison.replicates.values()), reverse=True)
    return (
        f"Gains are in points (hundredths) of each metric. Intervals are of each gain by itself; "
        f"they cover {'rows and seeds' if seeds else 'rows only'} "
        f"(paired bootstrap, {' or '.join(f'{count:,}' for count in counts)} resamples of "
        f"the {drawn}). A verdict needs p below {1 - LEVEL:.2f} after Holm's "
        f"correction for {count_of(family, 'comparison')}."
    )


def plural(unit: str) -> str:
    """Return the plural of the name of a unit."""
    return "queries" if unit == "query" else f"{unit}s"


def closing(comparison: Comparison) -> str:
    """Return one sentence about the candidates as a whole."""
    base = comparison.baseline.label
    parts = []
    for compared in comparison.candidates:
        found = compared.average or compared.relative
        if found is None:
            parts.append(f"{compared.method.label} has no average to judge by")
            continue
        size = (
            f"{points(found.value)} points"
            if compared.average is not None
            else f"{100 * found.value:+.1f} %"
        )
        around = f"{LEVEL:.0%} interval {interval(found)}"
        what = {
            "helps": "is better than",
            "hurts": "is worse than",
            "no difference shown": "is not shown to differ from",
        }[compared.verdict]
        tasks = count_of(len(compared.mains), "task")
        parts.append(
            f"{compared.method.label} {what} {base} on the average of {tasks} ({size}, {around})"
        )
    return f"{'; '.join(parts)}."
