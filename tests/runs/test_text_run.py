"""Runs with tasks in the form of text: resumed, evaluated again in several ways, packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlcli.evaluation.saved_run import evaluate_path
from tests.small_run import cut_off, differences, resume, start

TEXT = (
    "form=text",
    "model=tiny_decoder",
    "task=[cola,stsb,rte,squad]",
    "tasks.squad.max_length=48",
    "text.max_answer=4",
    "text.templates=all",
    "data.max_length=48",
    "sampling=all",
)


def test_a_run_goes_on_and_is_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(
        tmp_path / "whole", *TEXT, "runner.steps=8", "runner.eval_every=8", "weighting=pcgrad"
    )
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert not differences(whole, again, steps=8)
    results = json.loads((whole / "results.json").read_text())
    assert evaluate_path(whole)["tasks"] == results["tasks"]
    rows = {}
    for way in ("calibrated", "generated"):
        evaluate_path(
            whole,
            tasks=["cola"],
            overrides=[f"text.predict={way}"],
            predictions=tmp_path / way,
        )
        rows[way] = [json.loads(line) for line in (tmp_path / way / "cola.jsonl").open()]
        assert len(rows[way]) == 400
    labels = {"acceptable", "unacceptable"}
    assert all(set(row["probabilities"]) == labels for row in rows["calibrated"])
    assert {row["label"] for row in rows["generated"]} <= labels


def test_an_encoder_decoder_learns_and_is_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(
        tmp_path / "whole", *TEXT, "model=tiny_t5", "runner.steps=6", "runner.eval_every=6"
    )
    again = resume(cut_off(whole, "step_00000002", tmp_path / "again"))
    assert not differences(whole, again, steps=6)
    results = json.loads((whole / "results.json").read_text())
    assert evaluate_path(whole)["tasks"] == results["tasks"]


def test_packed_batches_give_the_losses_of_padded_ones(tmp_path: Path) -> None:
    losses = []
    for packing in ("off", "on"):
        run = start(
            tmp_path / packing,
            *TEXT,
            *("runner.steps=4", "runner.accumulation=1", "model.dropout=0", "logger.every=1"),
            f"runner.packing={packing}",
        )
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        losses.append([entry["loss"] for row in rows for entry in row["tasks"].values()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_every_type_with_answers_is_trained_and_draws_the_same_again(tmp_path: Path) -> None:
    run = start(
        tmp_path / "run",
        *("form=text", "model=tiny_decoder", "sampling=all", "runner.steps=2"),
        *("runner.eval_every=2", "data.max_length=96", "tasks.race.max_length=160"),
        "task=[race,go_emotions,ud_pos,conll2003,semeval2010_task8,multi30k]",
        *("text.max_answer=6", "data.max_train_rows=40", "data.max_eval_rows=12"),
    )
    rows = {}
    for name, more in {"once": [], "again": ["runner.eval_batch_size=5"]}.items():
        evaluate_path(
            run,
            tasks=["conll2003", "go_emotions", "multi30k", "ud_pos"],
            overrides=["text.sample=true", "text.seed=3", "data.max_eval_rows=12", *more],
            predictions=tmp_path / name,
        )
        rows[name] = [
            json.loads(line)
            for file in sorted((tmp_path / name).glob("*.jsonl"))
            for line in file.open()
        ]
    assert rows["once"] == rows["again"]
    assert len(rows["once"]) == 48
    assert len({row["text"] for row in rows["once"] if "text" in row}) > 12, "rows draw apart"
    results = json.loads((run / "results.json").read_text())["tasks"]
    mains = {name: entry["main_metric"] for name, entry in results.items()}
    assert mains == {
        "race": "accuracy",
        "go_emotions": "f1_micro",
        "ud_pos": "tag_accuracy",
        "conll2003": "entity_f1",
        "semeval2010_task8": "relation_f1_macro",
        "multi30k": "bleu",
    }
