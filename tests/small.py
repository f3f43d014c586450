"""A small model over sample tasks, for tests that look inside a step."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Any

import torch

from mtlcli.config import Data, Init, Model, Runner, augmentations, sharings, task_types, weightings
from mtlcli.config.section import replaced
from mtlcli.config.task import Source, Splits, TextColumns
from mtlcli.data.features import Features
from mtlcli.data.read import Table
from mtlcli.data.source import open_source
from mtlcli.fast import accelerate
from mtlcli.models.build import build_model
from mtlcli.models.files import BackboneFiles
from mtlcli.models.find import find_backbone
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.tasks.base import TaskType, build_tasks
from mtlcli.weighting.base import Step, WeightedTask, Weighting


def small_configs() -> dict[str, Any]:
    """cola (classification), stsb (regression on pairs) and squad (span) of the sample world."""
    kinds = task_types.configs
    pair = TextColumns(text="sentence1", text_pair="sentence2")
    cola_text = TextColumns(text="sentence")
    common = {"splits": Splits(), "max_length": 64}
    return {
        "cola": kinds["classification"](
            source=Source(path="glue/cola"), columns=cola_text, labels=["no", "yes"], **common
        ),
        "stsb": kinds["regression"](source=Source(path="glue/stsb"), columns=pair, **common),
        "squad": kinds["span"](
            source=Source(path="squad"), stride=8, max_question_length=16, **common
        ),
    }


def small_data(
    rows: int = 64,
) -> tuple[dict[str, TaskType[Any]], dict[str, Table], dict[str, Features], BackboneFiles]:
    """Tasks, train tables, their features, and a from-scratch backbone of two layers. The tables
    and features are the same objects in every call."""
    tables, features, files = _read_and_encoded(rows)
    return build_tasks(small_configs()), tables, features, deepcopy(files)


@cache
def _read_and_encoded(
    rows: int,
) -> tuple[dict[str, Table], dict[str, Features], BackboneFiles]:
    configs = small_configs()
    source = open_source(Data(source="sample", max_train_rows=rows), configs)
    tasks = build_tasks(configs)
    tables = {name: source.read(name, "train") for name in tasks}
    model = Model(
        kind="scratch", name=None, hidden=32, layers=2, heads=2, vocabulary=400, dropout=0.0
    )
    files = find_backbone(
        model, lambda: [text for name, task in tasks.items() for text in task.texts(tables[name])]
    )
    encoder = files.encoder()
    return tables, {name: task.encode(tables[name], encoder) for name, task in tasks.items()}, files


class SmallConfig:
    """The sections that building a model reads."""

    def __init__(
        self, sharing: Any, frozen_layers: int | None = None, engine: Any = "auto"
    ) -> None:
        self.sharing = sharings.configs[sharing]() if isinstance(sharing, str) else sharing
        self.model = Model(kind="scratch", name=None, dropout=0.0, frozen_layers=frozen_layers)
        self.runner = Runner(engine=engine)
        self.weighting = weightings.configs["static"]()
        self.init = Init()
        self.augmentation: Any = augmentations.configs["none"]()


def small_step(tasks: Iterable[str] = ("cola", "stsb", "squad"), number: int = 0) -> Step:
    """Step `number` of 100."""
    return Step(number=number, total=100, epoch=number // 10, seed=0, tasks=list(tasks))


def small_model(
    sharing: Any,
    *,
    lr_factors: dict[str, float] | None = None,
    weighting: str = "static",
    weights: dict[str, float] | None = None,
    frozen_layers: int | None = None,
    names: dict[str, str] | None = None,
    fast: bool = True,
    engine: str = "auto",
    **options: Any,
) -> tuple[MultiTaskModel, Weighting]:
    """A model of the three tasks, initialised with seed 0, and a weighting for it. `sharing`: a
    strategy's name or its config. `names`: other names for the tasks, by their usual ones. `fast`:
    whether `runner.fast` is `auto`. `engine`: `runner.engine`."""
    tasks, _, _, files = small_data()
    tasks = {(names or {}).get(name, name): task for name, task in tasks.items()}
    for name, factor in (lr_factors or {}).items():
        tasks[name].config = replaced(tasks[name].config, {"lr_factor": factor})
    torch.manual_seed(0)
    config: Any = SmallConfig(sharing, frozen_layers, engine)
    model = build_model(config, tasks, files)
    if fast:
        accelerate(model, config, torch.device("cpu"), "fp32")
    described = {
        name: WeightedTask((weights or {}).get(name, 1.0), task.loss_kind)
        for name, task in tasks.items()
    }
    return model, weightings.implementation(weighting)(
        weightings.configs[weighting](**options), described
    )
