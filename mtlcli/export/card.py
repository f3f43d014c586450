"""The model card of an exported folder: what the model is, on which data it was trained, how it
scored, what it took, what it cannot do, and how it is loaded."""

from __future__ import annotations

import json
import math
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

import mtlcli
from mtlcli.config.task import Task
from mtlcli.errors import UserError, count_of
from mtlcli.export.saved import SavedTask
from mtlcli.rundir.folder import RunFolder

SHARES = ("accuracy", "exact_match")
"""Metrics that are the share of rows which are right, for which an interval follows from the number
of rows."""
Z = 1.959964
"""The 97.5% point of the normal distribution."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` rows (Wilson 1927)."""
    middle = share + Z * Z / (2 * count)
    width = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return (middle - width) / (1 + Z * Z / count), (middle + width) / (1 + Z * Z / count)


def card(saved: SavedTask, record: dict[str, Any], usage: str, license: str | None) -> str:
    """Return the text of README.md. `record`: the content of mtl_export.json. `usage`: how the
    model is loaded, as Python. `license`: the id of a licence."""
    name = f"{saved.run.name}-{saved.task.name}"
    task: Task = saved.task.config
    results = _results(saved)
    rows = _rows(saved)
    from_hub = rows.get("source") == "hub" and task.source.hub
    dataset = task.source.hub.partition("@")[0] if from_hub and task.source.hub else None
    scores: dict[str, float] = results.get("metrics", {})
    data = ModelCardData(
        license=license or "unknown",
        library_name="transformers" if record["format"] == "hf" else record["format"],
        pipeline_tag=record["pipeline"],
        tags=["mtl", "multi-task-learning", saved.config.sharing.name],
        datasets=[dataset] if dataset else None,
        base_model=_base(saved),
        model_name=name if scores else None,
        eval_results=[
            EvalResult(
                task_type=record["pipeline"] or "other",
                dataset_type=dataset or saved.task.name,
                dataset_name=saved.task.name,
                dataset_split=task.splits.validation[0] if task.splits.validation else None,
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in scores.items()
            if math.isfinite(value)
        ]
        or None,
    )
    others = [other for other in saved.config.tasks if other != saved.task.name]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _what(saved, record, others),
        "## How to load it\n\n```python\n" + usage.strip() + "\n```",
        "## Data\n\n" + _data(saved, rows),
        "## Scores\n\n" + _scores(results),
        "## What it took\n\n" + _cost(saved),
        "## Limits\n\n" + "\n".join(f"- {each}" for each in _limits(saved, record, license)),
    ]
    return "\n\n".join(parts) + "\n"


def _what(saved: SavedTask, record: dict[str, Any], others: list[str]) -> str:
    company = f" together with {', '.join(others)}" if others else " alone"
    text = (
        f"A model for the task `{saved.task.name}` ({saved.task.config.type}), trained{company} by "
        f"mtl {mtlcli.__version__} with "
        f"`sharing={saved.config.sharing.name}`, `weighting={saved.config.weighting.name}` and "
        f"`sampling={saved.config.sampling.name}`. The weights are those of step {saved.step}."
    )
    labels = record["labels"]
    return text + (
        f" Its labels are {', '.join(f'`{each}`' for each in labels)}." if labels else ""
    )


def _base(saved: SavedTask) -> str | None:
    """Return the hub's name of the pretrained model, if it came from there."""
    place = saved.files.location
    return (
        place if place and place.count("/") == 1 and not place.startswith(("/", ".", "~")) else None
    )


def _results(saved: SavedTask) -> dict[str, Any]:
    """Return the task's part of the run's results.json, if it is about the exported checkpoint."""
    try:
        found = json.loads((saved.run / "results.json").read_text(encoding="utf-8"))
        results = found["tasks"][saved.task.name] if found["step"] == saved.step else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return results if isinstance(results, dict) else {}


def _rows(saved: SavedTask) -> dict[str, Any]:
    """Return the run's record of the task's rows; empty where there is none."""
    try:
        found: dict[str, Any] = RunFolder(saved.run).environment()["data"]["tasks"][saved.task.name]
        return {"source": str(found["source"]), "splits": dict(found["splits"])}
    except (UserError, KeyError, TypeError, ValueError):
        return {}


def _data(saved: SavedTask, record: dict[str, Any]) -> str:
    if not record:
        return "The run has no record of its data."
    rows = [
        f"| {split} | {part['rows']:,} | {part['total']:,} |"
        for split, part in record["splits"].items()
    ]
    text = {
        "sample": "The rows come from mtl's built-in sample world, which is made up: this model "
        "is for trying things out.",
        "hub": f"The rows come from the data set {saved.task.config.source.hub} of the Hugging "
        "Face hub.",
    }.get(record["source"], "The rows come from files of the person who trained the model.")
    if not rows:
        return text
    return "\n".join([text, "", "| split | rows used | rows there are |", "|---|---|---|", *rows])


def _scores(results: dict[str, Any]) -> str:
    metrics = results.get("metrics")
    if not metrics:
        return "The run has no scores of this checkpoint."
    count = int(results.get("examples") or 0)
    lines = ["| metric | score | 95% interval |", "|---|---|---|"]
    for metric, value in metrics.items():
        interval = "not known"
        if metric in SHARES and count:
            low, high = wilson(value, count)
            interval = f"{low:.4f} to {high:.4f}"
        lines.append(f"| {metric} | {value:.4f} | {interval} |")
    text = f"On {count_of(count, 'validation row')}."
    if results.get("majority") is not None:
        text += (
            f" The best constant prediction has {results['majority']:.4f} in "
            f"{results['main_metric']}."
        )
    text += (
        " Intervals are those of a share of rows (Wilson 1927) and leave out what another seed "
        "would change. A baseline trained on this task alone is not known to the run."
    )
    return "\n".join([text, "", *lines])


def _cost(saved: SavedTask) -> str:
    runner = saved.config.runner
    try:
        results = json.loads((saved.run / "results.json").read_text(encoding="utf-8"))
        speed = results["throughput"]["examples_per_s"]
        total = results["parameters"]["total"]
        flops = results["cost"]["flops_per_example"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{count_of(saved.step, 'update')}; the run has no record of its cost."
    lines = [
        f"- {count_of(saved.step, 'update')} on {count_of(runner.devices, 'device')} "
        f"({runner.device}, {runner.precision})",
        f"- {total:,} parameters for all tasks of the run",
        f"- {speed:,.0f} examples a second",
    ]
    if flops:
        lines.append(f"- {flops:.3g} floating-point operations for an example")
    return "\n".join(lines)


def _limits(saved: SavedTask, record: dict[str, Any], license: str | None) -> list[str]:
    limits = [
        f"Inputs have at most {saved.longest} tokens; give `truncation=True` for longer ones.",
        *record["limits"],
    ]
    if record["trust_remote_code"]:
        needs = "" if record["merged"] else ", and the package mtlcli has to be installed"
        limits.append(
            "The folder brings its own code, modeling_mtl.py, which `trust_remote_code=True` runs"
            f"{needs}: {record['why_own_code']}."
        )
    if record["quantised"]:
        limits.append(
            "The matrices have 8 bits, which changes outputs: by "
            f"{record['difference']:.2g} at most on {record['compared']} inputs of random tokens."
        )
    if license is None:
        limits.append("Nobody has said under which licence the model may be used.")
    return [*limits, "Nothing is known about data of another kind than the training data."]
