"""The plots of the page, as Vega-Lite specifications (Satyanarayan et al. 2017) with their data
inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.report.comparison import Comparison, Method
from mtlcli.report.details import calibration, confusion, has_classes
from mtlcli.report.finished import Finished
from mtlcli.report.words import costs_of

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
MOST_POINTS = 200
"""The most points of a curve."""


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


def _axis(field: str, title: str, kind: str = "quantitative", **more: Any) -> Spec:
    ticks = {"axis": {"tickCount": 5}} if kind == "quantitative" else {}
    return {"field": field, "title": title, "type": kind} | ticks | more


def _tooltip(*names: str) -> list[Spec]:
    return [{"field": name} for name in names]


def _methods(comparison: Comparison) -> Spec:
    """Return the colours of methods, the same in all plots."""
    labels = [method.label for method in comparison.methods]
    legend = {"title": None, "orient": "bottom", "columns": 2, "labelLimit": 220}
    return _axis("method", "method", "nominal", scale={"domain": labels}, legend=legend)


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
    y = _axis("task", "", "nominal", sort=None, axis={"title": None, "labelLimit": 120})
    color = _methods(comparison)
    offset = {"yOffset": {"field": "method"}} if several else {}
    tooltip = _tooltip("task", "metric", "method", "verdict", "files") + [
        {"field": name, "format": "+.1f"} for name in ("gain", "low", "high")
    ]
    x = _axis("low", "gain in points, with interval", scale={"zero": True})
    layers = [
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "strokeDash": [3, 3]},
            "encoding": {"x": {"datum": 0}},
        },
        {"mark": "rule", "encoding": {"x": x, "x2": {"field": "high"}}},
        {
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {"x": _axis("gain", "gain in points, with interval")},
        },
    ]
    spec = {
        "data": {"values": rows},
        "encoding": {"y": y, "color": color, "tooltip": tooltip, **offset},
        "layer": layers,
        "width": "container",
        "height": {"step": 30 if not several else 18},
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    # The line at 0 has no task.
    layers[0]["encoding"] |= {"y": None, "color": None, "tooltip": None} | (
        {"yOffset": None} if several else {}
    )
    files = [run.path / "results.json" for method in comparison.methods for run in method.all]
    return Chart("Gain of each task over the baseline", spec, files, wide=True)


def pareto(comparison: Comparison) -> Chart | None:
    """Return the average score against the operations of training; None for one candidate, or where
    runs do not say."""
    rows: Rows = []
    for method in comparison.methods:
        cost = costs_of(method)
        averages = [run.results.get("average") for run in method.all if len(run.tasks) > 1]
        if cost["TFLOP"] is None or not averages or None in averages:
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
    shape = _axis("front", "on the front", "nominal", legend={"orient": "bottom"})
    spec = _spec(
        rows,
        {"type": "point", "filled": True, "size": 120},
        260,
        x=_axis(
            "parameters", "parameters", scale={"zero": False}, axis={"format": "~s", "tickCount": 5}
        ),
        y=_axis("average", "average score", scale={"zero": False}),
        color=_methods(comparison),
        shape=shape,
        tooltip=_tooltip("method", "average", "parameters", "TFLOP"),
    )
    files = [run.path / "results.json" for method in comparison.methods for run in method.all]
    note = "On the front: no other method has a better average with as few parameters."
    return Chart("Average score and size (Pareto)", spec, files, note)


def curves(comparison: Comparison) -> Iterator[Chart]:
    """Yield the validation scores over steps: the average, then each task."""
    rows: Rows = []
    files = []
    for method in comparison.methods:
        for run in method.all:
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
                    {"average": entry["average"]} if len(entry["tasks"]) > 1 else {}
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
            x=_axis("step", "step"),
            y=_axis("score", "score", scale={"zero": False}),
            color=_methods(comparison),
            detail={"field": "seed"},
            tooltip=_tooltip("method", "seed", "step", "score", "file"),
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
    for method in comparison.methods:
        run = method.all[0]
        if not run.metrics or len(run.tasks) < 2:
            continue
        file = [run.path / "metrics.jsonl"]
        name = f"{method.label}, seed {run.seed}"
        yield from _weights(run, name, file)
        yield from _examples(run, name, file)
        yield from _gradients(run, name)


def _tasks_legend() -> Spec:
    return _axis(
        "task", "task", "nominal", legend={"title": None, "orient": "bottom", "columns": 3}
    )


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
        x=_axis("step", "step"),
        y=_axis("weight", "weight"),
        color=_tasks_legend(),
        tooltip=_tooltip("task", "step", "weight"),
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
        x=_axis("step", "up to step", "ordinal", axis={"labelOverlap": True, "labelAngle": 0}),
        y=_axis("examples", "share of examples", stack="normalize", axis={"format": "%"}),
        color=_tasks_legend(),
        tooltip=_tooltip("task", "step", "examples"),
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
        yield _heat(title, rows, "one", "other", "cosine", [run.path / "metrics.jsonl"], note)
    if affinity := run.results.get("affinity"):
        rows = [
            {"one": one, "other": other, "affinity": value}
            for one, of in affinity["affinity"].items()
            for other, value in of.items()
        ]
        title = f"Affinity: {name}"
        note = "By how much an update for the row's task lowers the loss of the column's."
        yield _heat(title, rows, "one", "other", "affinity", file, note)


def _heat(
    title: str, rows: Rows, y: str, x: str, value: str, files: list[Path], note: str
) -> Chart:
    largest = max(1e-9, *(abs(row[value]) for row in rows))
    scale = {"scheme": "redblue", "domain": [-largest, largest]}
    legend = {"title": None, "orient": "bottom"}
    size = max(len({row[y] for row in rows}), 2)
    spec = _spec(
        rows,
        "rect",
        max(120, 30 * size),
        x=_axis(x, "", "nominal", sort=None, axis={"title": None, "labelAngle": -40}),
        y=_axis(y, "", "nominal", sort=None, axis={"title": None}),
        color={"field": value, "type": "quantitative", "scale": scale, "legend": legend},
        tooltip=_tooltip(*rows[0]),
    )
    return Chart(title, spec, files, note)


def matrices(comparison: Comparison, task: str) -> Iterator[Chart]:
    """Yield the confusion matrix of each method."""
    for method in _of_task(comparison, task):
        if not has_classes(method.of(task)[0], task):
            continue
        rows = confusion(method, task)
        size = len({row["label"] for row in rows})
        base = {
            "x": _axis("predicted", "predicted", "nominal", sort=None, axis={"labelAngle": -30}),
            "y": _axis("label", "label", "nominal", sort=None),
            "tooltip": _tooltip("label", "predicted", "rows", "share"),
        }
        shades = {"scheme": "blues", "domain": [0, 1]}
        shade = {"field": "share", "type": "quantitative", "scale": shades, "legend": None}
        text = {
            "text": {"field": "share", "format": ".0%"},
            "color": {
                "condition": {"test": "datum.share > 0.5", "value": "white"},
                "value": "black",
            },
        }
        layers = [{"mark": "rect", "encoding": {"color": shade}}]
        if size <= 8:
            layers.append({"mark": {"type": "text"}, "encoding": text})
        spec = {
            "data": {"values": rows},
            "encoding": base,
            "layer": layers,
            "width": "container",
            "height": max(100, min(420, 44 * size)),
        }
        files = [run.predictions(task).file for run in method.of(task)]
        yield Chart(f"Confusion: {method.label}", spec, files)


def calibrations(comparison: Comparison, task: str) -> Chart | None:
    """Return the calibration curves of all methods; None without probabilities."""
    rows: Rows = []
    errors, files = [], []
    for method in _of_task(comparison, task):
        if (found := calibration(method, task)) is None:
            return None
        rows += found[0]
        errors.append(f"{method.label} {found[1]:.3f}")
        files += [run.predictions(task).file for run in method.of(task)]
    tooltip = _tooltip("method", "probability", "right", "rows")
    spec = {
        "width": "container",
        "height": 200,
        "layer": [
            {
                "data": {"values": [{"at": 0}, {"at": 1}]},
                "mark": {
                    "type": "line",
                    "strokeDash": [4, 4],
                    "color": "#999999",
                    "strokeWidth": 1,
                },
                "encoding": {
                    "x": _axis("at", "probability of the chosen class"),
                    "y": _axis("at", "share that is right"),
                },
            },
            {
                "data": {"values": rows},
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "x": _axis("probability", "probability of the chosen class"),
                    "y": _axis("right", "share that is right"),
                    "color": _methods(comparison),
                    "tooltip": tooltip,
                },
            },
        ],
    }
    note = f"Expected calibration error: {', '.join(errors)}."
    return Chart("Calibration", spec, files, note)


def _of_task(comparison: Comparison, task: str) -> list[Method]:
    return [method for method in comparison.methods if task in method.tasks]
