"""A task with a small model, as an export takes it from a run folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from mtlcli.config import task_types
from mtlcli.config.run import Text
from mtlcli.config.section import replaced
from mtlcli.config.task import Source, Splits
from mtlcli.export.saved import SavedTask
from mtlcli.models.build import build_model
from mtlcli.models.files import BackboneFiles
from mtlcli.tasks.base import TaskType, build_tasks
from tests.small import SmallConfig, small_configs, small_data
from tests.warm import ROOT

TASKS = ("cola", "stsb", "squad", "conll2003")


def tasks_and_files() -> tuple[dict[str, TaskType[Any]], BackboneFiles]:
    """Classification, regression, span and tagging, and a backbone of two layers."""
    configs = small_configs() | {
        "conll2003": task_types.configs["tagging"](
            source=Source(path="conll2003"),
            splits=Splits(),
            max_length=64,
            labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
        )
    }
    _, _, _, files = small_data()
    return build_tasks(configs), files


def saved_task(
    sharing: Any,
    task: str,
    *,
    files: BackboneFiles | None = None,
    pooling: str = "auto",
    tasks: dict[str, TaskType[Any]] | None = None,
) -> SavedTask:
    """A task with a model whose parameters have all moved from where they start, so that nothing
    that a strategy adds is still zero. `files`, `tasks`: another backbone, other tasks."""
    made, usual = tasks_and_files()
    tasks, files = tasks or made, files or usual
    config: Any = SmallConfig(sharing)
    config.model = replaced(config.model, {"pooling": pooling})
    encoder = files.encoder()
    for each in tasks.values():
        assert not each.use(encoder, has_decoder=files.has_decoder)
    torch.manual_seed(0)
    model = build_model(config, tasks, files)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    whole: Any = SimpleNamespace(
        **vars(config), tasks=tasks, sampling=SimpleNamespace(name="all"), text=Text()
    )
    return SavedTask(
        Path("runs/small"),
        7,
        whole,
        tasks[task],
        model.eval().requires_grad_(False),
        files,
        encoder,
    )


def rows_of_the_page() -> dict[str, list[str]]:
    """The cells of the table of docs/export.md, by strategy."""
    text = (ROOT / "docs" / "export.md").read_text()
    table = text.partition("## Sharing and formats")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    rows = [row for row in rows if row[0].strip(" `") != "sharing"]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
