"""Tasks of a run, exported by the command and used by other programs: their predictions are those
of `mtl eval`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

from mtlcli.config.run import Data
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.source import open_source
from mtlcli.export.saved import open_task
from tests.hub import TOKEN, hub
from tests.pinned import ENVIRONMENT
from tests.small_run import start
from tests.warm import mtl

TASKS = ("cola", "stsb", "squad", "conll2003")
OPTIONS = (
    "task=[cola,stsb,squad,conll2003]",
    "tasks.squad.max_length=96",
    "tasks.squad.stride=16",
    "tasks.squad.max_question_length=24",
    "runner.steps=2",
    "runner.batch_size=8",
)
ONNX = pytest.mark.skipif(
    any(find_spec(each) is None for each in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra onnx is not installed",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four tasks with two layers, and what `mtl eval` says of some rows."""
    folder = tmp_path_factory.mktemp("export") / "run"
    start(folder, *OPTIONS, "sharing=lora")
    said = mtl(
        *("eval", str(folder), "--predictions", str(folder.parent / "predictions"), "--texts"),
        "data.max_eval_rows=8",
    )
    assert said.returncode == 0, said.stderr
    return folder


def predictions(run: Path, task: str) -> list[dict[str, Any]]:
    lines = (run.parent / "predictions" / f"{task}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def exported(run: Path, task: str, *options: str) -> Path:
    """The folder of an exported task."""
    folder = run.parent / f"exported-{task}{''.join(options)}"
    if not folder.exists():
        said = mtl("export", str(run), "--task", task, "--to", str(folder), *options)
        assert said.returncode == 0, said.stderr
        assert f"written: {folder}\n" in said.stdout
    return folder


def test_pipeline_for_classes(run: Path) -> None:
    model = pipeline("text-classification", model=exported(run, "cola"), top_k=None)
    rows = predictions(run, "cola")
    for row, found in zip(rows, model([row["texts"]["sentence"] for row in rows]), strict=True):
        assert {each["label"]: each["score"] for each in found} == pytest.approx(
            row["probabilities"], abs=1e-5
        )


def test_pipeline_for_scores_of_pairs(run: Path) -> None:
    model = pipeline("text-classification", model=exported(run, "stsb"))
    for row in predictions(run, "stsb"):
        texts = row["texts"]
        found = model(
            {"text": texts["sentence1"], "text_pair": texts["sentence2"]}, truncation=True
        )
        assert found["score"] == pytest.approx(row["score"], abs=1e-5)


def test_pipeline_for_tags(run: Path) -> None:
    model = pipeline("token-classification", model=exported(run, "conll2003"), ignore_labels=[])
    for row in predictions(run, "conll2003"):
        (words,) = (row["texts"][column] for column in row["texts"])
        begins = np.cumsum([0, *(len(word) + 1 for word in words[:-1])]).tolist()
        first = {each["start"]: each["entity"] for each in reversed(model(" ".join(words)))}
        tags = [first.get(begin) for begin in begins]
        # The pipeline cuts what is longer than the model reads; mtl has a window for it.
        assert [tag for tag in tags if tag] == row["tags"][: sum(map(bool, tags))]
        assert tags[0] is not None


def test_spans(run: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(exported(run, "squad")).eval()
    saved = open_task(run, "squad", print)
    source = open_source(
        Data(source="sample", max_eval_rows=8), {"squad": saved.task.config}, saved.config.seed
    )
    table = source.read("squad", "validation")
    features = saved.task.encode(table, saved.encoder)
    layout = InputFormat(saved.encoder.pad_id, saved.encoder.uses_segments)
    batch = collate(features, np.arange(len(features)), input_format=layout, denominator=1.0)
    with torch.no_grad():
        found = model(batch.input_ids, batch.attention_mask.long(), batch.token_type_ids)
    flat = {
        name: logits[batch.attention_mask].numpy()
        for name, logits in (("start", found.start_logits), ("end", found.end_logits))
    }
    for mine, theirs in zip(
        saved.task.decode(flat, features, table), predictions(run, "squad"), strict=True
    ):
        assert mine["text"] == theirs["text"]
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)


@ONNX
def test_graph_with_8_bits(run: Path) -> None:
    import onnxruntime

    folder = exported(run, "cola", "--format", "onnx", "--int8")
    assert json.loads((folder / "mtl_export.json").read_text())["quantised"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    rows = predictions(run, "cola")
    texts = [row["texts"]["sentence"] for row in rows]
    inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="np")
    names = [each.name for each in session.get_inputs()]
    (logits,) = session.run(None, {name: inputs[name].astype("int64") for name in names})
    powers = np.exp(logits - logits.max(1, keepdims=True))
    wanted = np.array([[*row["probabilities"].values()] for row in rows])
    assert np.abs(powers / powers.sum(1, keepdims=True) - wanted).max() < 0.05


def push(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`mtl push` in a process of its own, since the hub's client reads its environment once."""
    command = [sys.executable, "-m", "mtlcli", "push", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT | environment, check=False
    )


def test_push_uploads_the_folder_and_nothing_is_public(run: Path) -> None:
    folder = exported(run, "cola")
    with hub() as there:
        known = {"HF_ENDPOINT": there.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        said = push(str(folder), "--to", "team/cola", **known)
        assert said.returncode == 0, said.stderr
        assert said.stdout == f"uploaded: {there.address}/team/cola\n"
        repository = there.repositories["team/cola"]
        assert repository["visibility"] == "private"
        assert repository["messages"] == ["Upload cola, exported by mtl"]
        assert repository["files"] == {each.name: each.read_bytes() for each in folder.iterdir()}
        there.full = True
        said = push(str(folder), "--to", "team/cola", **known)
        assert said.returncode == 1 and "the storage of this account is full" in said.stderr
        said = push(str(folder), "--to", "team/cola", **known | {"HF_TOKEN": "hf_other"})
        assert said.returncode == 2 and "does not accept you" in said.stderr
        assert len(there.repositories) == 1


MISTAKES = {
    "no such task": (
        ["--task", "coal", "--to", "NEW"],
        "--task: the run has no task 'coal'\n      -> did you mean 'cola'?",
    ),
    "no task": (["--to", "NEW"], "--task: the run has 4 tasks, and an export is of one\n"),
    "no folder": (["--task", "cola"], "--to: no folder is given\n"),
    "a folder in use": (["--task", "cola", "--to", "."], "--to .: the folder is not empty\n"),
    "unknown format": (
        ["--task", "cola", "--to", "NEW", "--format", "onxx"],
        "--format: unknown format 'onxx'\n      -> did you mean 'onnx'?",
    ),
    "8 bits of what": (
        ["--task", "cola", "--to", "NEW", "--int8"],
        "--int8: the option has no effect with --format hf\n",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(run: Path, tmp_path: Path, mistake: str) -> None:
    (tmp_path / "file").touch()
    words, expected = MISTAKES[mistake]
    said = mtl("export", str(run), *words, cwd=tmp_path)
    assert said.returncode == 2
    assert expected in said.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
