"""What of every sharing strategy comes out in which format, as docs/export.md says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from mtlcli.config import sharings
from mtlcli.config.section import replaced
from mtlcli.errors import RunError, UserError
from mtlcli.export import export as module
from mtlcli.export.export import export_task
from tests.saved_task import TASKS, rows_of_the_page, saved_task, tasks_and_files


def test_the_page_has_every_strategy() -> None:
    assert list(rows_of_the_page()) == sorted(sharings.configs)


@pytest.mark.parametrize("sharing", sorted(sharings.configs))
def test_outputs_are_the_runs_own(sharing: str, tmp_path: Path) -> None:
    hf, _, tensors = rows_of_the_page()[sharing]
    saved = saved_task(sharing, "cola")
    for number, task in enumerate(TASKS):
        folder = tmp_path / task
        made = export_task(replace(saved, task=saved.model.tasks[task]), folder, format="hf")
        assert made.record["difference"] <= 1e-5, task
        why = made.record["why_own_code"]
        assert (folder / "modeling_mtl.py").exists() == (why is not None)
        if number == 0:  # Later tasks of a run in stages read more than the first.
            assert hf == ("yes" if why is None else f"own code: {why}")
    made = export_task(saved, tmp_path / "tensors", format="safetensors")
    assert tensors == ("merged" if made.record["merged"] else "whole trunk")


def test_what_a_later_stage_reads_is_said(tmp_path: Path) -> None:
    made = export_task(saved_task("progressive", "stsb"), tmp_path / "a", format="hf")
    assert "stages before" in made.record["why_own_code"]
    mixed = replaced(sharings.configs["hierarchical"](), {"mix": True})
    made = export_task(saved_task(mixed, "cola"), tmp_path / "b", format="hf")
    assert "sharing.mix" in made.record["why_own_code"]
    options = {"layers": [1]}
    made = export_task(
        saved_task(replaced(sharings.configs["soft"](), options), "stsb"),
        tmp_path / "c",
        format="hf",
    )
    assert made.record["class"] == "BertForSequenceClassification"
    tasks = replaced(sharings.configs["hierarchical"](), {"tasks": {"cola": 0}})
    made = export_task(saved_task(tasks, "cola"), tmp_path / "d", format="hf")
    assert made.record["why_own_code"] is None
    assert json.loads((tmp_path / "d" / "config.json").read_text())["num_hidden_layers"] == 1


def test_tensors_are_those_of_the_task_alone(tmp_path: Path) -> None:
    saved = saved_task("none", "stsb")
    export_task(saved, tmp_path / "a", format="safetensors")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    record = json.loads((tmp_path / "a" / "mtl_export.json").read_text())
    assert {name: list(each.shape) for name, each in tensors.items()} == record["tensors"]
    theirs = saved.model.trunk.backbone_of("stsb").network
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(tensors[f"backbone.network.{name}"], theirs.get_parameter(name))
    assert torch.equal(tensors["head.output.bias"], saved.head.output.bias)
    assert sum(record["parts"].values()) == sum(each.numel() for each in tensors.values())


def test_refusals_say_why(tmp_path: Path) -> None:
    tasks, _ = tasks_and_files()
    tasks["conll2003"].config = replaced(tasks["conll2003"].config, {"crf": True})
    saved = saved_task("hard", "conll2003", tasks=tasks)
    for format in ("hf", "onnx"):
        with pytest.raises(UserError, match=r"transitions that no model of the transformers"):
            export_task(saved, tmp_path / "a", format=format)
    assert export_task(saved, tmp_path / "a", format="safetensors").record["head"]["class"] == (
        "ChainHead"
    )


def test_a_model_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(folder: Path, kind: Any) -> Any:
        model = kind.from_pretrained(folder).eval()
        torch.nn.init.ones_(model.classifier.bias)
        return model

    monkeypatch.setattr(module, "_loaded", other)
    with pytest.raises(RunError, match=r"gives other outputs .* differ by"):
        export_task(saved_task("hard", "cola"), tmp_path / "a", format="hf")
    assert list(tmp_path.iterdir()) == []


def test_card_and_labels(tmp_path: Path) -> None:
    export_task(saved_task("hard", "cola"), tmp_path / "a", format="hf", license="mit")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    assert model.config.id2label == {0: "no", 1: "yes"}
    text = (tmp_path / "a" / "README.md").read_text()
    assert re.search(r"^license: mit$", text, re.M)
    assert "The run has no scores of this checkpoint." in text
    assert "Inputs have at most 64 tokens" in text
