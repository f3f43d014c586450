"""The plots of the page about a single task."""

from __future__ import annotations

from collections.abc import Iterator

from mtlcli.report.charts import Chart, Rows, axis, method_colours, tooltip
from mtlcli.report.comparison import Comparison
from mtlcli.report.details import calibration, confusion, has_classes
from mtlcli.report.methods import Method


def matrices(comparison: Comparison, task: str) -> Iterator[Chart]:
    """Yield the confusion matrix of each method."""
    for method in _of_task(comparison, task):
        if not has_classes(method.of(task)[0], task):
            continue
        rows = confusion(method, task)
        size = len({row["label"] for row in rows})
        base = {
            "x": axis("predicted", "predicted", "nominal", sort=None, axis={"labelAngle": -30}),
            "y": axis("label", "label", "nominal", sort=None),
            "tooltip": tooltip("label", "predicted", "rows", "share"),
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
    shown = tooltip("method", "probability", "right", "rows")
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
                    "x": axis("at", "probability of the chosen class"),
                    "y": axis("at", "share that is right"),
                },
            },
            {
                "data": {"values": rows},
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "x": axis("probability", "probability of the chosen class"),
                    "y": axis("right", "share that is right"),
                    "color": method_colours(comparison),
                    "tooltip": shown,
                },
            },
        ],
    }
    note = f"Expected calibration error: {', '.join(errors)}."
    return Chart("Calibration", spec, files, note)


def _of_task(comparison: Comparison, task: str) -> list[Method]:
    return [method for method in comparison.methods if task in method.tasks]
