"""Runs with tasks that write texts: six heads of five kinds in one run, resumed and evaluated
again; a pretrained decoder; packed batches, two ranks; what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.runner.job import run
from tests.families import save_family
from tests.pinned import FORMAT
from tests.ranks import fork_ranks
from tests.small_run import cut_off, differences, resume, start
from tests.warm import mtl

SHORT = ("tasks.multi30k.max_target_length=16", "tasks.wmt.max_target_length=16")
SIX = (
    "task=[squad,cola,ud_pos,multi30k,stsb,rte]",
    "tasks.squad.max_length=48",
    "tasks.squad.stride=16",
    "tasks.squad.max_question_length=16",
    SHORT[0],
    "sampling=all",
    "data.max_eval_rows=40",
    "runner.steps=6",
    "runner.eval_every=6",
)


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [entry["loss"] for row in rows for entry in row["tasks"].values()]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["tasks"]
    return found


def test_six_heads_go_on_and_are_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", *SIX)
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert not differences(whole, again, steps=6)
    typed = ["data.max_eval_rows=40", "--predictions", "p", "--texts", "--json", "e.json"]
    done = mtl("eval", str(whole), *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())["tasks"]
    for name, entry in results(whole).items():
        assert found[name]["metrics"] == entry["metrics"]
    # The texts that were written, scored by sacrebleu's own command.
    rows = [json.loads(line) for line in (tmp_path / "p" / "multi30k.jsonl").open()]
    assert len(rows) == 40 and rows[0].keys() == {"row", "words", "gold", "text", "texts"}
    assert all(row["texts"].keys() == {"translation.de"} for row in rows)
    for name, key in (("out", "text"), ("gold", "gold")):
        (tmp_path / name).write_text("".join(row[key] + "\n" for row in rows))
    command = [sys.executable, "-m", "sacrebleu", "gold", "-i", "out", "-m", "bleu", "chrf"]
    said = json.loads(subprocess.check_output([*command, "-w", "9"], cwd=tmp_path, text=True))
    scored = found["multi30k"]
    for metric, by_command in zip(("bleu", "chrf"), said, strict=True):
        assert by_command["score"] == pytest.approx(100 * scored["metrics"][metric], abs=1e-8)
        assert by_command["signature"] == scored["signatures"][metric]
    assert scored["metrics"]["chrf"] > 0


def test_a_pretrained_decoder_is_shared_and_resumed(tmp_path: Path) -> None:
    """The decoder of T5 as one head of two tasks, beside a task on the encoder; texts by beams."""
    save_family("t5", tmp_path / "t5", AutoModelForSeq2SeqLM)
    options = (
        *("task=[multi30k,wmt,rte]", "tasks.wmt.head=multi30k", *SHORT, "tasks.multi30k.beams=2"),
        *("data=sample", "data.max_length=32", "data.max_train_rows=20", "data.max_eval_rows=8"),
        *("model=pretrained", f"model.name={tmp_path / 't5'}", "sampling=all", FORMAT),
        *("runner.steps=4", "runner.eval_every=4", "runner.save_every=2", "runner.keep=9"),
        *("runner.batch_size=6", "runner.device=cpu", "runner.threads=1", "logger.every=1"),
    )

    def begun(folder: Path, *more: str) -> Path:
        run(preflight(read_arguments([*options, *more])).configs[0], folder, command=["mtl"])
        return folder

    whole = begun(tmp_path / "whole")
    again = resume(cut_off(whole, "step_00000002", tmp_path / "again"))
    assert not differences(whole, again, steps=4)
    still = begun(tmp_path / "still", "runner.steps=1", "optim.lr=1e-30")
    saved = load_file(still / "checkpoints" / "step_00000001" / "model.safetensors")
    pretrained = load_file(tmp_path / "t5" / "model.safetensors")
    mark = ".network."
    heads = {
        name: each for name, each in saved.items() if name.startswith("heads.") and mark in name
    }
    assert len(heads) > 20 and not any("wmt" in name for name in heads)
    for name, each in heads.items():
        assert torch.equal(each, pretrained[name.partition(mark)[2]]), name


def test_packed_batches_and_two_ranks_give_the_losses_of_one(tmp_path: Path) -> None:
    options = (
        *("task=[multi30k,stsb]", SHORT[0], "sampling=all", "model.dropout=0"),
        *("runner.steps=4", "runner.accumulation=1", "logger.every=1", "runner.batch_size=5"),
        *("runner.eval_every=4",),
    )
    one = start(tmp_path / "one", *options)
    packed = start(tmp_path / "packed", *options, "runner.packing=on")
    small = (
        *("data=sample", "model=tiny", "model.layers=1", "model.hidden=16", "model.heads=2"),
        *("data.max_length=32", "data.max_train_rows=20", "data.max_eval_rows=8"),
        *("runner.device=cpu", "runner.devices=2", f"run_dir={tmp_path / 'two'}"),
    )
    done = mtl("train", *small, *options, before=fork_ranks)
    assert done.returncode == 0, done.stderr
    for other in (packed, tmp_path / "two"):
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        for name, entry in results(one).items():
            assert results(other)[name]["metrics"] == pytest.approx(entry["metrics"], abs=1e-4)


def test_what_cannot_work_is_refused_before_the_run(tmp_path: Path) -> None:
    def said(*options: str) -> str:
        tasks = ("task=[multi30k,wmt,rte]", "data=sample", "model=tiny")
        done = mtl("train", *tasks, *options, cwd=tmp_path)
        assert done.returncode == 2
        return done.stderr

    shared = said(
        *("sharing=progressive_distill", "tasks.wmt.head=multi30k", "tasks.wmt.decoder_layers=3")
    )
    for line in (
        "tasks.wmt.decoder_layers: the decoder is that of 'multi30k', which has another one",
        "tasks.wmt.max_target_length: the decoder of 'multi30k' takes 64 tokens, and this task has "
        "up to 128",
        "sharing: distillation compares what a head says for the inputs of other tasks, and the "
        "head of task 'multi30k' reads more of its own inputs than their text",
    ):
        assert line in shared, line
    idle = said("tasks.wmt.temperature=2", "tasks.multi30k.length_penalty=2")
    assert "tasks.wmt.temperature: has no effect: the most likely token is written" in idle
    assert "tasks.multi30k.length_penalty: has no effect: there is one beam" in idle
    assert not list(tmp_path.iterdir())
