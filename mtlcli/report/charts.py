"""The plots of the page, as Vega-Lite specifications (Satyanarayan et al. 2017) with their data
inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.report.comparison import Comparison
from mtlcli.report.finished import Finished
from mtlcli.report.words import costs_of

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
MOST_POINTS = 200
"""The most points of a curve."""
MOST_NUMBERS = 10
"""The most tasks of a map whose cells hold their numbers."""


@dataclass
class Chart:
    """A plot with its caption."""

    title: str
    spec: Spec
    files: list[Path]
    """The files that its numbers come from."""
    note: str = ""
    wide: bool = False
    """Whether it takes the whole width of the page."""


def _spec(rows: Rows, mark: Any, height: int, **encoding: Any) -> Spec:
    return {
        "data": {"values": rows},
        "mark": mark,
        "encoding": encoding,
        "width": "container",
        "height": height,
    }


def axis(field: str, title: str, kind: str = "quantitative", **more: Any) -> Spec:
    """Return the encoding of a field along an axis."""
    ticks = {"axis": {"tickCount": 5}} if kind == "quantitative" else {}
    return {"field": field, "title": title, "type": kind} | ticks | more


def tooltip(*names: str) -> list[Spec]:
    """Return the fields that are shown under the pointer."""
    return [{"field": name} for name in names]


def method_colours(comparison: Comparison) -> Spec:
    """Return the colours of methods, the same in all plots."""
    labels = [method.label for method in comparison.methods]
    legend = {"title": None, "orient": "bottom", "columns": 2, "labelLimit": 220}
    return axis("method", "method", "nominal", scale={"domain": labels}, legend=legend)


def gains(comparison: Comparison) -> Chart:
    """Return the gains of all candidates with their intervals."""
    rows = [
        {
            "task": score.task,
            "method": compared.method.label,
            "gain": 100 * score.gain.value,
            "low": 100 * score.gain.low,
            "high": 100 * score.gain.high,
            "verdict": score.verdict,
            "metric": score.key,
            "files": ", ".join(str(run.path) for run in compared.method.of(score.task)),
        }
        for compared in comparison.candidates
        for score in compared.mains
        if score.rises
    ]
    several = len(comparison.candidates) > 1
    y = axis("task", "", "nominal", sort=None, axis={"title": None, "labelLimit": 120})
    color = method_colours(comparison)
    offset = {"yOffset": {"field": "method"}} if several else {}
    shown = tooltip("task", "metric", "method", "verdict", "files") + [
        {"field": name, "format": "+.1f"} for name in ("gain", "low", "high")
    ]
    x = axis("low", "gain in points, with interval", scale={"zero": True})
    # The line at 0 has no task.
    none = dict.fromkeys(("y", "color", "tooltip", *offset))
    layers = [
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "strokeDash": [3, 3]},
            "encoding": {"x": {"datum": 0}, **none},
        },
        {"mark": "rule", "encoding": {"x": x, "x2": {"field": "high"}}},
        {
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {"x": axis("gain", "gain in points, with interval")},
        },
    ]
    spec = {
        "data": {"values": rows},
        "encoding": {"y": y, "color": color, "tooltip": shown, **offset},
        "layer": layers,
        "width": "container",
        "height": len({row["task"] for row in rows}) * (18 * len(comparison.candidates) + 12),
    }
    files = [run.path / "results.json" for method in comparison.methods for run in method.all]
    return Chart("Gain of each task over the baseline", spec, files, wide=True)


def pareto(comparison: Comparison) -> Chart | None:
    """Return the average score against the number of parameters; None for one candidate, or where
    runs do not say. Merged models have no operations of training, and are shown like the others."""
    rows: Rows = []
    for method in comparison.methods:
        cost = costs_of(method)
        averages = [
            sum(len(run.tasks) * run.results["average"] for run in runs)
            / sum(len(run.tasks) for run in runs)
            for runs in method.runs.values()
            if all(run.results.get("average") is not None for run in runs)
        ]
        if cost["parameters"] is None or len(averages) < len(method.runs):
            continue
        rows.append(
            {
                "method": method.label,
                "TFLOP": cost["TFLOP"],
                "average": float(np.mean(averages)),
                "parameters": cost["parameters"],
            }
        )
    if len(rows) < 3:
        return None
    for row in rows:
        row["front"] = not any(
            other["average"] >= row["average"]
            and other["parameters"] <= row["parameters"]
            and other is not row
            and (other["average"], -other["parameters"]) != (row["average"], -row["parameters"])
            for other in rows
        )
    shape = axis("front", "on the front", "nominal", legend={"orient": "bottom"})
    spec = _spec(
        rows,
        {"type": "point", "filled": True, "size": 120},
        260,
        x=axis(
            "parameters", "parameters", scale={"zero": False}, axis={"format": "~s", "tickCount": 5}
        ),
        y=axis("average", "average score", scale={"zero": False}),
        color=method_colours(comparison),
        shape=shape,
        tooltip=tooltip("method", "average", "parameters", "TFLOP"),
    )
    files = [run.path / "results.json" for method in comparison.methods for run in method.all]
    note = "On the front: no other method has a better average with as few parameters."
    return Chart("Average score and size (Pareto)", spec, files, note)


def curves(comparison: Comparison) -> Iterator[Chart]:
    """Yield the validation scores over steps: the average, then each task."""
    rows: Rows = []
    files = []
    for method in comparison.methods:
        for run, alone in ((run, len(of) == 1) for of in method.runs.values() for run in of):
            file = run.path / "scores.jsonl"
            if not file.exists():
                continue
            files.append(file)
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # A kill has cut the last line short.
                    continue
                scores = entry["tasks"] | (
                    {"average": entry["average"]} if alone and len(entry["tasks"]) > 1 else {}
                )
                rows += [
                    {
                        "step": entry["step"],
                        "task": task,
                        "score": score,
                        "method": method.label,
                        "seed": run.seed,
                        "file": str(file),
                    }
                    for task, score in scores.items()
                    if score is not None
                ]
    for task in ("average", *comparison.tasks):
        own = [row for row in rows if row["task"] == task]
        if len({row["step"] for row in own}) < 2:
            continue
        spec = _spec(
            own,
            {"type": "line", "point": {"size": 14}},
            170,
            x=axis("step", "step"),
            y=axis("score", "score", scale={"zero": False}),
            color=method_colours(comparison),
            detail={"field": "seed"},
            tooltip=tooltip("method", "seed", "step", "score", "file"),
        )
        yield Chart(
            task, spec, [file for file in files if any(r["file"] == str(file) for r in own)]
        )


def _thin(rows: Rows) -> Rows:
    step = max(1, len(rows) // MOST_POINTS)
    return rows[::step]


def training(comparison: Comparison) -> Iterator[Chart]:
    """Yield, for the first seed of each method, the weights over time where they change, the share
    of examples, and how the tasks' gradients and updates go together."""
    for method, run in ((each, run) for each in comparison.methods for run in each.first):
        if not run.metrics or len(run.tasks) < 2:
            continue
        file = [run.path / "metrics.jsonl"]
        part = f" ({'+'.join(run.tasks)})" if len(method.first) > 1 else ""
        name = f"{method.label}{part}, seed {run.seed}"
        yield from _weights(run, name, file)
        yield from _examples(run, name, file)
        yield from _gradients(run, name)


def _tasks_legend() -> Spec:
    return axis("task", "task", "nominal", legend={"title": None, "orient": "bottom", "columns": 3})


def _weights(run: Finished, name: str, file: list[Path]) -> Iterator[Chart]:
    rows = [
        {"step": row["step"], "task": task, "weight": entry["weight"]}
        for row in _thin(run.metrics)
        for task, entry in row["tasks"].items()
    ]
    by_task: dict[str, set[float]] = {}
    for row in rows:
        by_task.setdefault(row["task"], set()).add(row["weight"])
    if all(len(values) == 1 for values in by_task.values()):
        return
    spec = _spec(
        rows,
        "line",
        200,
        x=axis("step", "step"),
        y=axis("weight", "weight"),
        color=_tasks_legend(),
        tooltip=tooltip("task", "step", "weight"),
    )
    yield Chart(f"Weights over time: {name}", spec, file)


def _examples(run: Finished, name: str, file: list[Path]) -> Iterator[Chart]:
    window = max(1, len(run.metrics) // 20)
    rows: Rows = []
    for first in range(0, len(run.metrics), window):
        part = run.metrics[first : first + window]
        counts: dict[str, int] = {}
        for row in part:
            for task, entry in row["tasks"].items():
                counts[task] = counts.get(task, 0) + entry["examples"]
        rows += [
            {"step": part[-1]["step"], "task": task, "examples": count}
            for task, count in counts.items()
        ]
    spec = _spec(
        rows,
        {"type": "bar"},
        160,
        x=axis("step", "up to step", "ordinal", axis={"labelOverlap": True, "labelAngle": 0}),
        y=axis("examples", "share of examples", stack="normalize", axis={"format": "%"}),
        color=_tasks_legend(),
        tooltip=tooltip("task", "step", "examples"),
    )
    yield Chart(f"Share of examples: {name}", spec, file)


def _gradients(run: Finished, name: str) -> Iterator[Chart]:
    file = [run.path / "results.json"]
    logged = [row["gradients"] for row in run.metrics if row.get("gradients")]
    if logged:
        sums: dict[tuple[str, str], list[float]] = {}
        for each in logged:
            for one, cosines in zip(each["tasks"], each["cosines"], strict=True):
                for other, cosine in zip(each["tasks"], cosines, strict=True):
                    sums.setdefault((one, other), []).append(cosine)
        rows = [
            {"one": one, "other": other, "cosine": float(np.mean(values)), "steps": len(values)}
            for (one, other), values in sums.items()
            if one != other
        ]
        title = f"Cosines of the tasks' gradients: {name}"
        note = f"Means over {len(logged)} logged steps; below 0 two tasks pull apart."
        yield _heat(title, rows, "cosine", [run.path / "metrics.jsonl"], note)
    if affinity := run.results.get("affinity"):
        rows = [
            {"one": one, "other": other, "affinity": value}
            for one, of in affinity["affinity"].items()
            for other, value in of.items()
        ]
        title = f"Affinity: {name}"
        note = "The share by which an update for the row's task lowers the loss of the column's."
        yield _heat(title, rows, "affinity", file, note)


def what_tasks_bring(comparison: Comparison) -> Chart:
    """Return the map of what each task that was left out brings to the others, in points."""
    rows = [
        {
            "one": comparison.left_out[compared.method.label],
            "other": score.task,
            "points": -100 * score.gain.value,
        }
        for compared in comparison.candidates
        for score in compared.mains
        if score.rises
    ]
    files = [run.path / "results.json" for method in comparison.methods for run in method.all]
    note = "What the row's task brings to the column's: joint score minus that without it."
    return _heat("Which task helps which", rows, "points", files, note)


def _heat(title: str, rows: Rows, value: str, files: list[Path], note: str) -> Chart:
    """Return a map of a value from the tasks `one` to the tasks `other`."""
    largest = max(1e-9, *(abs(row[value]) for row in rows))
    tasks = list(dict.fromkeys(row["one"] for row in rows))
    titles = {"title": None}
    base = {
        "x": axis("other", "", "nominal", sort=tasks, axis=titles | {"labelAngle": -40}),
        "y": axis("one", "", "nominal", sort=tasks, axis=titles),
        "tooltip": tooltip(*rows[0]),
    }
    scale = {"scheme": "redblue", "domain": [-largest, largest]}
    color = {"field": value, "type": "quantitative", "scale": scale, "legend": None}
    dark = {"test": f"abs(datum.{value}) > {0.6 * largest}", "value": "white"}
    text = {
        "text": {"field": value, "format": ".2f"},
        "color": {"condition": dark, "value": "black"},
    }
    layers: list[Spec] = [{"mark": "rect", "encoding": {"color": color}}]
    if len(tasks) <= MOST_NUMBERS:
        layers.append({"mark": "text", "encoding": text})
    spec = {
        "data": {"values": rows},
        "encoding": base,
        "layer": layers,
        "width": "container",
        "height": max(120, 30 * len(tasks)),
    }
    return Chart(title, spec, files, note)
