"""Small tasks in the form of text on the sample world, and language models for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mtlcli.config import Data, Model, Text
from mtlcli.config.task import Template
from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features
from mtlcli.data.source import open_source
from mtlcli.data.table import Table
from mtlcli.models.build import build_model
from mtlcli.models.files import BackboneFiles
from mtlcli.models.find import find_backbone
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.tasks.base import TaskType, build_tasks
from mtlcli.tasks.text_form.task import TextForm
from tests.small import SmallConfig, small_configs

NESTED = {"no": "not right", "yes": "not right at all"}
"""Answers of several tokens, of which one is the beginning of the other."""


@dataclass
class World:
    """Tasks with their rows, and a backbone for them."""

    tasks: dict[str, TaskType[Any]]
    tables: dict[str, Table]
    features: dict[str, Features]
    files: BackboneFiles
    encoder: TextEncoder

    def text(self, name: str) -> TextForm:
        """A task that is in the form of text."""
        task = self.tasks[name]
        assert isinstance(task, TextForm)
        return task

    def batch(self, name: str, rows: Iterable[int] = range(4)) -> Batch:
        """Some features of a task."""
        features = self.features[name]
        picked = np.array(list(rows))
        return collate(
            features,
            picked,
            input_format=InputFormat(self.encoder.pad_id, uses_segments=False),
            denominator=self.tasks[name].items(features, picked),
        )


def world(
    predict: str = "likelihood",
    *,
    answers: dict[str, str] | None = None,
    prompts: int = 1,
    templates: str = "all",
    heads: Iterable[str] = (),
    max_length: int = 64,
    split: str = "train",
    architecture: Literal["decoder", "encoder-decoder"] = "decoder",
) -> World:
    """cola, stsb and squad of the sample world. `answers`: the texts of cola's labels. `prompts`:
    the number of cola's templates, and `templates`: which of them are used; `heads`: tasks with a
    head of their own."""
    configs = small_configs()
    configs["stsb"] = replace(configs["stsb"], range=[0.0, 5.0])
    configs["cola"] = replace(
        configs["cola"],
        templates=[
            Template(prompt=f"{number}: {{sentence}} fine?", answers=answers)
            for number in range(prompts)
        ],
    )
    configs = {
        name: replace(each, form="head" if name in heads else "text", max_length=max_length)
        for name, each in configs.items()
    }
    source = open_source(Data(source="sample", max_train_rows=24, max_eval_rows=24), configs)
    text: Any = {"predict": predict, "templates": templates}
    tasks = build_tasks(configs, Text(max_answer=6, **text))
    tables = {name: source.read(name, split) for name in tasks}
    for name, task in tasks.items():
        task.prepare(tables[name])
    files = text_files(architecture)
    encoder = files.encoder()
    for task in tasks.values():
        task.use(encoder, has_decoder=files.has_decoder)
    features = {name: task.encode(tables[name], encoder) for name, task in tasks.items()}
    return World(tasks, tables, features, files, encoder)


@cache
def text_files(architecture: Literal["decoder", "encoder-decoder"]) -> BackboneFiles:
    """A language model of two layers, whose tokenizer knows parts of words."""
    configs = small_configs()
    source = open_source(Data(source="sample", max_train_rows=200), configs)
    tasks = build_tasks(configs)
    model = Model(
        kind="scratch",
        name=None,
        architecture=architecture,
        hidden=32,
        heads=2,
        vocabulary=400,
    )
    return find_backbone(
        model,
        lambda: [
            *(
                text
                for name, task in tasks.items()
                for text in task.texts(source.read(name, "train"))
            ),
            *(20 * ["0 1 2 3 4 5 6 7 8 9 . : ? squad stsb question context sentence1 answer"]),
            *(20 * [f"{' '.join(NESTED.values())} red blue sky fine unanswerable"]),
        ],
    )


def text_model(made: World, sharing: Any = "hard", *, tied: bool = True) -> MultiTaskModel:
    """A model in evaluation mode whose weights all differ from 0."""
    torch.manual_seed(0)
    architecture = made.files.architecture | {"tie_word_embeddings": tied}
    config: Any = SmallConfig(sharing)
    model = build_model(config, made.tasks, replace(made.files, architecture=architecture))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def library_model(model: MultiTaskModel) -> Any:
    """The transformers library's own language model with the weights of a model with one
    backbone."""
    backbone = model.trunk.backbone
    fields = backbone.network.config.to_dict()
    other: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**fields), attn_implementation="eager"
    )
    other.base_model.load_state_dict(backbone.network.state_dict())
    assert backbone.language_head is not None
    if backbone.language_head.weight is not None:
        other.lm_head.load_state_dict({"weight": backbone.language_head.weight})
    return other.eval()
