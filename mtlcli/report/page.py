"""The page: a comparison as one HTML file without network, for laptops and phones, light and dark.

Plots are drawn by Vega-Lite, whose code (Vega, Vega-Lite and vega-embed, 0.9 MB) is in the page. It
comes from the package vl-convert-python (the extra `report`). Vega-Lite rather than Plotly, since a
page has a fifth of its size, and rather than pictures by matplotlib, which neither tell values
under the pointer nor follow the width and the colours of the screen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtlcli.config.paths import default_cache
from mtlcli.disk import write_whole, writing
from mtlcli.report import helping
from mtlcli.report.charts import (
    Chart,
    curves,
    gains,
    pareto,
    training,
    what_tasks_bring,
)
from mtlcli.report.comparison import Comparison
from mtlcli.report.details import hardest, slice_metric, slices
from mtlcli.report.methods import Method
from mtlcli.report.statistics import LEVEL
from mtlcli.report.style import SCRIPT, STYLE
from mtlcli.report.task_charts import calibrations, matrices
from mtlcli.report.words import (
    MEAN,
    STARRED,
    class_scores,
    closing,
    costs_of,
    gain_rows,
    how,
    number,
    plural,
    sentences,
    side_by_side_rows,
)

_NUMBER = re.compile(r"$|[-+<]?[0-9]|-$")
"""The beginning of a cell with a number, or without anything."""
PACKAGE = "vl-convert-python"
"""The package with the code of the plots."""


def has_library() -> bool:
    """Return whether the package with the code of the plots is installed."""
    return find_spec("vl_convert") is not None


def write_page(comparison: Comparison, file: Path) -> None:
    """Write the page. Raises RunError when the disk cannot hold it."""
    with writing("the page", file, "then report again"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, page(comparison))


def page(comparison: Comparison) -> str:
    """Return the page as HTML."""
    charts = _Charts()
    body = "\n".join(
        [
            _head(comparison),
            (_helping if comparison.left_out else _gain_tables)(comparison, charts),
            _classes(comparison),
            _costs(comparison, charts),
            _section("Scores while training", charts.grid(curves(comparison))),
            _section("Weights, examples, gradients", charts.grid(training(comparison))),
            "<section><h2>Tasks</h2>",
            *(_task(comparison, task, charts) for task in comparison.tasks),
            "</section>",
            _files(comparison),
        ]
    )
    # `</` could end the script element.
    specs = json.dumps(charts.specs).replace("</", "<\\/")
    library = _library().replace("</script", "<\\/script")
    title = escape(f"{', '.join(m.label for m in comparison.methods)}: mtl report")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{library}</script>\n"
        f'<script type="application/json" id="specs">{specs}</script>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _library() -> str:
    """Return the code that draws plots. To put it together takes five seconds, so it is kept."""
    file = default_cache() / "page" / f"vega_{version(PACKAGE)}.js"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    import vl_convert

    code = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    with suppress(OSError):  # Without the file, only the next page takes longer.
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, code)
    return code


class _Charts:
    """The plots of the page: a place for each in the HTML, and their specifications."""

    def __init__(self) -> None:
        self.specs: list[dict[str, Any]] = []

    def put(self, chart: Chart) -> str:
        """Return the HTML of a plot."""
        self.specs.append(chart.spec)
        note = f"<p>{escape(chart.note)}</p>" if chart.note else ""
        wide = ' class="wide"' if chart.wide else ""
        return (
            f"<figure{wide}><h3>{escape(chart.title)}</h3>"
            f'<div class="chart" id="chart{len(self.specs) - 1}"></div>'
            f"<figcaption>{note}{_sources(chart.files)}</figcaption></figure>"
        )

    def grid(self, charts: Iterable[Chart | None]) -> str:
        """Return the HTML of several plots side by side; empty where there are none."""
        made = "".join(self.put(chart) for chart in charts if chart is not None)
        return f'<div class="grid">{made}</div>' if made else ""


def _sources(files: Iterable[Path]) -> str:
    names = list(dict.fromkeys(map(str, files)))
    listed = "".join(f"<li><code>{escape(name)}</code></li>" for name in names)
    if len(names) == 1:
        return f'<p class="from">from <code>{escape(names[0])}</code></p>'
    return f"<details><summary>from {len(names)} files</summary><ul>{listed}</ul></details>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _table(head: list[str], rows: Iterable[list[str]], *, titles: Iterable[str] = ()) -> str:
    """Return a table. `rows`: cells, which are escaped here; numbers stand on the right. `titles`:
    where the numbers of each row come from, shown under the pointer."""
    rows, sources, lines = list(rows), list(titles), []
    kinds = [
        ' class="number"' if all(_NUMBER.match(row[place]) for row in rows) else ""
        for place in range(len(head))
    ]
    top = "".join(f"<th{kind}>{escape(cell)}</th>" for cell, kind in zip(head, kinds, strict=True))
    for place, row in enumerate(rows):
        cells = "".join(
            f'<td{kind} data-head="{escape(name)}">{escape(cell)}</td>'
            for name, cell, kind in zip(head, row, kinds, strict=True)
        )
        title = f' title="{escape(sources[place])}"' if sources else ""
        kind = next((cell for cell in row if cell in ("helps", "hurts")), "")
        lines.append(f'<tr class="{kind}"{title}>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _head(comparison: Comparison) -> str:
    if comparison.left_out:
        lines = list(helping.sentences(comparison))
        answers = "".join(f"<li>{escape(line)}</li>" for line in lines if line != how(comparison))
        return (
            f"<header><h1>Which task helps which, with {escape(comparison.baseline.label)}</h1>"
            f'<ul>{answers}</ul><p class="how">{escape(how(comparison))}</p></header>'
        )
    *lines, _ = sentences(comparison)
    answers = "".join(f"<li>{escape(line)}</li>" for line in lines if line != how(comparison))
    names = ", ".join(each.method.label for each in comparison.candidates)
    return (
        f"<header><h1>{escape(names)} against {escape(comparison.baseline.label)}</h1>"
        f'<p class="answer">{escape(closing(comparison))}</p><ul>{answers}</ul>'
        f'<p class="how">{escape(how(comparison))}</p></header>'
    )


def _of(method: Method, name: str) -> str:
    return ", ".join(str(run.path / name) for run in method.all)


def _helping(comparison: Comparison, charts: _Charts) -> str:
    """Return the section about what each task brings to the others."""
    base = _of(comparison.baseline, "results.json")
    titles = [
        f"{base}; {_of(compared.method, 'results.json')}" for compared in comparison.candidates
    ]
    rows = helping.rows(comparison)
    head = ["left out", *comparison.tasks, "mean of the others"][: max(map(len, rows))]
    note = f"<p>With {LEVEL:.0%} intervals ({STARRED}).</p>"
    made = charts.put(what_tasks_bring(comparison)) + note + _table(head, rows, titles=titles)
    return _section("What each task brings to the others", made)


def _gain_tables(comparison: Comparison, charts: _Charts) -> str:
    made = charts.put(gains(comparison))
    base = comparison.baseline
    if len(comparison.candidates) > 1:
        head = ["task", "metric", *(method.label for method in comparison.methods)]
        rows = list(side_by_side_rows(comparison))
        sources = "; ".join(_of(method, "results.json") for method in comparison.methods)
        made += (
            f"<h3>Side by side</h3><p>The gain of each over {escape(base.label)} ({STARRED}).</p>"
        )
        made += _table(head, rows, titles=[sources] * len(rows))
    for compared in comparison.candidates:
        label = compared.method.label
        sources = f"{_of(base, 'results.json')}; {_of(compared.method, 'results.json')}"
        head = ["task", "metric", base.label, label, "gain", "95% interval", "p (Holm)", "verdict"]
        rows = list(gain_rows(compared))
        made += f"<h3>{escape(label)}</h3>" + _table(head, rows, titles=[sources] * len(rows))
    return _section("Gains", made)


def _classes(comparison: Comparison) -> str:
    rows = class_scores(comparison)
    if not rows:
        return ""
    methods = {method.label: method for method in comparison.methods}
    lines, titles = [], []
    for task, label, values in rows:
        cells = [
            f"{found.value:.3f} [{max(0, found.low):.3f}, {min(1, found.high):.3f}]"
            for found in values.values()
        ]
        lines.append([task, label, *cells])
        titles.append(
            ", ".join(
                str(run.predictions(each).file)
                for each in comparison.tasks
                if task in (each, MEAN)
                for run in methods[label].of(each)
            )
        )
    head = ["task", "method", "accuracy", "precision", "recall", "F1"]
    note = "<p>With 95% intervals of each score. Precision, recall and F1 are those of the second "
    note += "class where there are two, else means over classes.</p>"
    return _section("Tasks with classes", note + _table(head, lines, titles=titles))


def _costs(comparison: Comparison, charts: _Charts) -> str:
    titles = ("parameters", "shared", "MFLOP/example", "TFLOP", "examples", "seconds", "peak MB")
    rows = []
    for method in comparison.methods:
        found = costs_of(method)
        cells = ["-" if (value := found[title]) is None else number(value) for title in titles]
        rows.append([method.label, str(len(method.runs)), *cells])
    sources = [
        f"{_of(method, 'results.json')}; {_of(method, 'metrics.jsonl')}"
        for method in comparison.methods
    ]
    table = _table(["method", "seeds", *titles], rows, titles=sources)
    # Methods without a task have averages of other tasks.
    plots = [] if comparison.left_out else [pareto(comparison)]
    return _section("What each took, a seed", table + charts.grid(plots))


def _task(comparison: Comparison, task: str, charts: _Charts) -> str:
    """Return the section of one task: confusion, calibration, slices, hardest rows."""
    plots = charts.grid([*matrices(comparison, task), calibrations(comparison, task)])
    methods = [method for method in comparison.methods if task in method.tasks]
    labels = [method.label for method in methods]
    files = [run.predictions(task).file for method in methods for run in method.of(task)]
    parts = slices(comparison, task)
    first = comparison.baseline.of(task)[0]
    made = plots
    if parts:
        head = ["part", "rows", *labels]
        rows = [
            [name, str(count), *(f"{scores[label]:.3f}" for label in labels)]
            for name, count, scores in parts
        ]
        made += f"<h3>Parts of the rows ({escape(slice_metric(first, task))})</h3>"
        made += _table(head, rows) + _sources(files)
    if hard := hardest(comparison, task):
        texts = any(row["texts"] for row in hard)
        head = ["row", "id", "label", *labels, *(["texts"] if texts else [])]
        rows = [
            [
                str(row["row"]),
                "" if row["id"] is None else str(row["id"]),
                str(row["gold"]),
                *(row["predictions"][label] for label in labels),
                *([" | ".join(map(str, row["texts"].values()))] if texts else []),
            ]
            for row in hard
        ]
        note = (
            ""
            if texts
            else "<p>A run folder has no texts of rows. mtl eval RUN --predictions RUN/predictions "
            "--texts puts them into its files, and then here.</p>"
        )
        made += "<h3>Hardest rows</h3>" + note + _table(head, rows) + _sources(files)
    count, unit = comparison.units[task]
    title = escape(f"{task} ({count:,} validation {plural(unit)})")
    begin = " open" if task == comparison.tasks[0] else ""
    return f'<details class="task"{begin}><summary>{title}</summary>{made}</details>'


def _files(comparison: Comparison) -> str:
    """Return the list of all runs."""
    rows = [
        [method.label, str(run.seed), str(run.path), run.status, str(run.results.get("step", "-"))]
        for method in comparison.methods
        for run in method.all
    ]
    head = ["method", "seed", "folder", "status", "best step"]
    return _section("Runs", _table(head, rows))
