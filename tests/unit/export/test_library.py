"""Which heads a class of the transformers library has, by family, and what brings its own code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, dynamic_module_utils, pipeline

from mtlcli.config import task_types
from mtlcli.config.run import Text
from mtlcli.config.task import Source, TextColumns
from mtlcli.export.export import export_task
from mtlcli.export.network import batch_of
from mtlcli.models.files import BackboneFiles
from mtlcli.tasks.base import build_tasks
from tests.families import family_config
from tests.saved_task import saved_task, tasks_and_files
from tests.small import small_configs

OWN = "Mtl"
HEADS = {
    ("bert", "pooler"): ("Bert", "Bert"),
    ("bert", "mean"): (OWN, "Bert"),
    ("roberta", "pooler"): ("Roberta", "Roberta"),
    ("roberta", "cls"): ("Roberta", "Roberta"),
    ("deberta-v2", "cls"): ("DebertaV2", "DebertaV2"),
    ("modernbert", "cls"): (OWN, OWN),
    ("t5", "mean"): (OWN, OWN),
    ("llama", "last"): (OWN, "Llama"),
}
"""The classes for a text and for spans, by family and pooling."""


def files_of(family: str) -> BackboneFiles:
    """A backbone of a family with the usual tokenizer."""
    _, files = tasks_and_files()
    fields = json.loads(
        family_config(family, files.encoder().vocabulary_size).to_json_string(use_diff=False)
    )
    if fields.get("is_encoder_decoder"):
        fields["decoder_start_token_id"] = 0
    segments = fields.get("type_vocab_size", 0) > 1
    return BackboneFiles(None, fields, files.tokenizer, segments, 128, None)


@pytest.mark.parametrize("case", HEADS, ids=lambda case: "-".join(case))
def test_heads(case: tuple[str, str], tmp_path: Path) -> None:
    family, pooling = case
    saved = saved_task("hard", "cola", files=files_of(family), pooling=pooling)
    for task, kind, expected in zip(
        ("cola", "squad"), ("SequenceClassification", "QuestionAnswering"), HEADS[case], strict=True
    ):
        saved.task = saved.model.tasks[task]
        record = export_task(saved, tmp_path / task, format="hf").record
        assert record["class"] == f"{expected}For{kind}"
        assert record["trust_remote_code"] == (expected == OWN)
        assert record["difference"] <= 1e-5


def writing(form: str) -> dict[str, Any]:
    """A task that writes texts, beside one that does not; or both as texts."""
    configs = small_configs()
    if form == "text":
        for name in ("cola", "squad"):
            vars(configs[name])["form"] = "text"
        return build_tasks({name: configs[name] for name in ("cola", "squad")}, Text())
    seq2seq = task_types.configs["seq2seq"](
        source=Source(path="samsum"),
        columns=TextColumns(text="dialogue", label="summary"),
        max_length=48,
        max_target_length=16,
    )
    return build_tasks({"cola": configs["cola"], "samsum": seq2seq})


@pytest.mark.parametrize(
    ("family", "form", "task", "expected"),
    [
        ("t5", "head", "samsum", "T5ForConditionalGeneration"),
        ("bert", "head", "samsum", "EncoderDecoderModel"),
        ("t5", "text", "cola", "T5ForConditionalGeneration"),
        ("llama", "text", "cola", "LlamaForCausalLM"),
    ],
)
def test_models_that_write(
    family: str, form: str, task: str, expected: str, tmp_path: Path
) -> None:
    # The shifts of word embeddings are not those of the output layer that they are tied to.
    sharing = "task_embedding" if family == "llama" else "hard"
    saved = saved_task(sharing, task, files=files_of(family), tasks=writing(form))
    record = export_task(saved, tmp_path / "a", format="hf").record
    assert record["class"] == expected and not record["trust_remote_code"]
    assert record["difference"] <= 1e-5
    options = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    # A label in text is a token or a few, and an end.
    assert options["max_new_tokens"] == 16 if form == "head" else 2 <= options["max_new_tokens"] < 8
    assert options["eos_token_id"] == saved.encoder.end_id


@pytest.mark.parametrize("sharing", ["hard", "cross_stitch"])
def test_own_code_is_loaded_by_the_library(
    sharing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with torch and transformers alone, once with mtlcli."""
    # Where the library keeps copies of the code that it runs.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    saved = saved_task(sharing, "cola", pooling="mean")
    folder = tmp_path / f"of_{sharing}"
    assert export_task(saved, folder, format="hf").record["trust_remote_code"]
    ids = torch.tensor([[2, 17, 40, 3], [2, 9, 3, 0]])
    mask = ids > 0
    with torch.no_grad():
        found = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)(
            input_ids=ids, attention_mask=mask.long(), labels=torch.tensor([0, 1])
        )
        wanted = saved.model.outputs("cola", batch_of(ids, mask, None, 0))["logits"]
    assert (found.logits - wanted).abs().max() <= 1e-5
    assert found.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(wanted, torch.tensor([0, 1]))), abs=1e-5
    )
    model = pipeline("text-classification", model=str(folder), trust_remote_code=True, top_k=None)
    assert {each["label"] for each in model(["a cat"])[0]} == {"no", "yes"}
