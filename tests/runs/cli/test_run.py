"""A run through the command, from nothing to its evaluation: the run folder's contract, and what is
left when a run fails."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mtlcli.data.sample import sample_table
from tests.ranks import fork_ranks
from tests.warm import ENVIRONMENT, mtl, start

QUICK = [
    "data=sample",
    "model=tiny",
    "data.max_train_rows=200",
    "data.max_eval_rows=80",
    "runner.device=cpu",
]


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over every task type, with two evaluations, a second validation split and a
    borrowed head."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tasks = "task=[mnli,stsb,squad_v2,ax]"
    options = [
        *QUICK,
        "runner.steps=12",
        "runner.eval_every=6",
        "logger.every=4",
        "optim.lr=2e-3",
        f"run_dir={folder}",
    ]
    # This one from the very start, as it is typed; the others fork.
    command = [sys.executable, "-m", "mtlcli", "train", tasks, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "points above" in done.stdout and f"mtl eval {folder}" in done.stdout
    return folder


def test_the_run_folder_holds_what_the_contract_says(run: Path) -> None:
    assert {path.name for path in run.iterdir() if path.name != ".owner"} == {
        *(
            "config.yaml",
            "environment.json",
            "metrics.jsonl",
            "scores.jsonl",
            "results.json",
            "status.json",
            "log.txt",
            "checkpoints",
            "predictions",
            "backbone",
        )
    }
    results = read(run / "results.json")
    assert (
        results["format"] == 1
        and results["data_source"] == "sample"
        and results["split"] == "validation"
    )
    assert set(results) == {
        "format",
        "data_source",
        "split",
        "step",
        "precision",
        "train_rows",
        "tasks",
        "average",
        "throughput",
        "parameters",
        "weighting",
        "gradients",
        "affinity",
        "cost",
    }
    assert list(results["tasks"]) == ["mnli", "stsb", "squad_v2"], "ax has no labels to validate on"
    for entry in results["tasks"].values():
        assert set(entry) == {
            "metrics",
            "main_metric",
            "main",
            "examples",
            "majority",
            "source",
            "rows",
        }
        assert entry["main"] == entry["metrics"][entry["main_metric"]] and entry["examples"] == 80
        assert entry["source"] == "sample" and all(
            rows["used"] < rows["of"] for rows in entry["rows"].values()
        )
    assert results["tasks"]["mnli"]["rows"]["validation_mismatched"] == {"used": 80, "of": 400}
    assert results["train_rows"]["mnli"] == {"used": 200, "of": 6000} and list(
        results["train_rows"]
    ) == list(results["tasks"])
    assert "accuracy/validation_mismatched" in results["tasks"]["mnli"]["metrics"]
    assert results["average"] == pytest.approx(
        sum(entry["main"] for entry in results["tasks"].values()) / 3
    )
    assert set(results["throughput"]) == {"examples_per_s", "tokens_per_s", "padding"}
    assert results["cost"]["flops_per_example"] > 0 and results["cost"]["peak_memory"] > 2**26
    counts = results["parameters"]
    assert counts["total"] == counts["shared"] + sum(counts["per_task"].values()) and list(
        counts["per_task"]
    ) == [*results["tasks"], "ax"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    for row in rows:
        assert {
            "step",
            "tasks",
            "lr",
            "tokens_per_s",
            "examples_per_s",
            "padding",
            "gradient_norm",
        } <= set(row)
        assert all(set(entry) == {"loss", "weight", "examples"} for entry in row["tasks"].values())
    environment = read(run / "environment.json")
    assert environment["data"]["source"] == "sample" and len(environment["data"]["tasks"]) >= 3
    assert environment["seed"] == 0 and "task=[mnli,stsb,squad_v2,ax]" in environment["command"]
    assert read(run / "status.json")["status"] == "finished"
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names[-1] == "step_00000012" and 1 <= len(names) <= 2
    log = (run / "log.txt").read_text()
    assert "step 12/12" in log and "\x1b" not in log


def test_eval_gives_the_same_numbers_to_the_last_digit(run: Path, tmp_path: Path) -> None:
    done = mtl("eval", str(run), "--json", str(tmp_path / "scores.json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores, results = read(tmp_path / "scores.json"), read(run / "results.json")
    assert (
        scores["tasks"] == results["tasks"]
        and scores["average"] == results["average"]
        and scores["step"] == results["step"]
    )


def test_one_checkpoint_and_one_task(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "step_00000012"
    done = mtl("eval", str(last), "--task", "stsb", "--json", str(tmp_path / "s.json"))
    assert done.returncode == 0, done.stderr
    assert (
        list(read(tmp_path / "s.json")["tasks"]) == ["stsb"]
        and read(tmp_path / "s.json")["step"] == 12
    )


def test_a_split_takes_the_tasks_that_have_it_and_all_of_their_rows(
    run: Path, tmp_path: Path
) -> None:
    done = mtl(
        "eval",
        str(run),
        "--split",
        "test",
        "--predictions",
        str(tmp_path / "p"),
        "--json",
        str(tmp_path / "s.json"),
    )
    assert done.returncode == 0, done.stderr
    assert "no split 'test', left out: squad_v2" in done.stderr
    assert "every row is evaluated: data.max_eval_rows=80 was meant for training" in done.stderr
    assert {
        name: entry["main"] for name, entry in read(tmp_path / "s.json")["tasks"].items()
    } == dict.fromkeys(("mnli", "stsb", "ax"))
    # The diagnostic task is predicted by the head it borrows.
    lines = [json.loads(line) for line in (tmp_path / "p" / "ax.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 301)) and all(
        line["gold"] is None for line in lines
    )
    assert {line["label"] for line in lines} <= {"entailment", "neutral", "contradiction"}
    done = mtl("eval", str(run), "--split", "test", "--task", "squad_v2", "mnli")
    assert (
        done.returncode == 2
        and "task squad_v2: there is no split 'test'" in done.stderr
        and "task mnli" not in done.stderr
    )
    done = mtl("eval", str(run), "--split", "tset")
    assert (
        done.returncode == 2
        and "task stsb: there is no split 'tset'" in done.stderr
        and "did you mean 'test'?" in done.stderr
    )


def test_predictions_hold_every_row_unless_a_limit_is_typed(run: Path, tmp_path: Path) -> None:
    options = [
        "--task",
        "squad_v2",
        "stsb",
        "--predictions",
        str(tmp_path),
        "--texts",
        "data.max_eval_rows=100",
    ]
    done = mtl("eval", str(run), *options)
    assert done.returncode == 0 and "100 of 400" in done.stdout, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "stsb.jsonl").read_text().splitlines()]
    rows = sample_table("glue/stsb", "validation", 0).to_pylist()
    assert len(lines) == 100
    for line in lines:
        row = rows[line["row"] - 1]
        assert (
            line["id"] == row["idx"]
            and line["gold"] == row["label"]
            and isinstance(line["score"], float)
        )
        assert line["texts"] == {name: row[name] for name in ("sentence1", "sentence2")}


def test_predictions_are_what_the_official_squad_script_reads(run: Path, tmp_path: Path) -> None:
    done = mtl("eval", str(run), "--task", "squad_v2", "--predictions", str(tmp_path))
    assert done.returncode == 0, done.stderr
    answers, probabilities = (
        read(tmp_path / "squad_v2.json"),
        read(tmp_path / "squad_v2.na_prob.json"),
    )
    lines = [json.loads(line) for line in (tmp_path / "squad_v2.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(answers) and all(
        isinstance(line["gold"], list) for line in lines
    )
    assert len(answers) == 400 and answers.keys() == probabilities.keys()
    assert all(isinstance(text, str) for text in answers.values()) and all(
        0 <= p <= 1 for p in probabilities.values()
    )


def test_a_corrupt_checkpoint_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for weights in copy.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    done = mtl("eval", str(copy))
    assert (
        done.returncode == 2
        and "model.safetensors has" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_a_used_run_folder_is_left_alone(run: Path) -> None:
    before = (run / "results.json").read_bytes()
    done = mtl("train", "task=rte", *QUICK, "runner.steps=2", f"run_dir={run}")
    assert done.returncode == 2 and str(run) in done.stderr
    assert (run / "results.json").read_bytes() == before


def test_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        done = mtl(
            "train",
            "task=[rte,sst2]",
            *QUICK,
            "runner.steps=6",
            "logger.every=1",
            f"seed={seed}",
            f"run_dir={tmp_path / name}",
        )
        assert done.returncode == 0, done.stderr

    def losses(name: str) -> list[Any]:
        rows = [
            json.loads(line)
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        return [row["tasks"] for row in rows]

    assert losses("a") == losses("b") != losses("c")
    weights = [
        next((tmp_path / name / "checkpoints").glob("*/model.safetensors")).read_bytes()
        for name in "abc"
    ]
    assert weights[0] == weights[1] != weights[2]


def test_early_stopping(tmp_path: Path) -> None:
    options = [
        "runner.steps=400",
        "runner.eval_every=2",
        "runner.patience=3",
        "optim.lr=1e-9",
        "optim.warmup=0",
    ]
    done = mtl("train", "task=rte", *QUICK, *options, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "3 evaluations without a better average" in done.stdout
    assert read(tmp_path / "run" / "results.json")["step"] == 2, (
        "the first of equal scores is the best"
    )


def test_a_run_that_diverges_stops_and_says_where(tmp_path: Path) -> None:
    done = mtl(
        "train",
        "task=rte",
        *QUICK,
        "runner.steps=30",
        "optim.lr=1e30",
        "optim.warmup=0",
        f"run_dir={tmp_path / 'run'}",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "rte" in done.stderr and "step" in done.stderr
    status = read(tmp_path / "run" / "status.json")
    assert status["status"] == "failed" and "rte" in status["reason"]


def test_a_failing_worker_fails_the_run(tmp_path: Path) -> None:
    options = ["runner.steps=30", "optim.lr=1e30", "optim.warmup=0", "runner.devices=2"]
    place = f"run_dir={tmp_path / 'run'}"
    done = mtl("train", "task=rte", *QUICK, *options, place, before=fork_ranks)
    assert done.returncode == 1
    assert "rank" in done.stderr and "the loss of rte" in done.stderr
    assert read(tmp_path / "run" / "status.json")["status"] == "failed"


def test_control_c_is_recorded(tmp_path: Path) -> None:
    process = start(
        "train", "task=rte", *QUICK, "runner.steps=100000", f"run_dir={tmp_path / 'run'}"
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.stderr
    assert "Traceback" not in process.stderr
    assert read(tmp_path / "run" / "status.json")["status"] == "interrupted"


def test_a_sweep_goes_on_when_one_job_fails(tmp_path: Path) -> None:
    options = [
        "-m",
        "optim.lr=1e-3,1e30",
        "weighting=static,uncertainty",
        "optim.warmup=0",
        "runner.steps=8",
    ]
    done = mtl("train", *options, "task=[cola,rte]", *QUICK, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (sweep,) = (tmp_path / "sweeps").iterdir()
    table = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert len(table) == 4
    finished = [row for row in table if row["status"] == "finished"]
    failed = [row for row in table if row["status"] == "failed"]
    assert len(finished) == 2 and len(failed) == 2
    averages = [float(row["average"]) for row in finished]
    assert averages == sorted(averages, reverse=True)
    assert all("1e+30" in json.dumps(row) or "1e30" in json.dumps(row) for row in failed)
    assert "failed" in done.stdout + done.stderr


def test_a_table_with_a_label_column_for_each_task_partly_filled(tmp_path: Path) -> None:
    """Each task takes the rows that have its label; what is left out is said and recorded."""
    rows: list[dict[str, Any]] = [
        {
            "text": f"the cat {n} is {n % 3}",
            "id": str(n),
            "question": "who is it",
            "mood": ["bad", "good"][n % 2] if n % 4 < 2 else None,
            "score": n / 9 if n % 3 else None,
            "answers": {"text": ["cat"], "answer_start": [4]}
            if n % 5
            else {"text": [], "answer_start": []},
        }
        for n in range(24)
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = []
    columns = {
        "mood": "text: text, label: mood",
        "score": "text: text, label: score",
        "ask": "context: text",
    }
    for name, kind in (("mood", "classification"), ("score", "regression"), ("ask", "span")):
        source = "{files: {train: all.jsonl, validation: all.jsonl}}"
        tasks.append(
            f"+tasks.{name}={{type: {kind}, source: {source}, columns: {{{columns[name]}}}, "
            "unlabelled: skip}",
        )
    options = [
        *tasks,
        "~tasks.cola",
        "task=cola",
        "model=tiny",
        "runner.steps=1",
        "runner.device=cpu",
        "run_dir=run",
    ]
    done = mtl("train", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = (
        "no label: mood train 12 of 24, validation 12 of 24; score train 8 of 24, validation 8 "
        "of 24; ask train 5 of 24, validation 5 of 24"
    )
    assert said in " ".join((tmp_path / "run" / "log.txt").read_text().split())
    results = read(tmp_path / "run" / "results.json")
    assert results["train_rows"] == {
        "mood": {"used": 12, "of": 24, "unlabelled": 12},
        "score": {"used": 16, "of": 24, "unlabelled": 8},
        "ask": {"used": 19, "of": 24, "unlabelled": 5},
    }
    assert results["tasks"]["mood"]["rows"] == {
        "validation": {"used": 12, "of": 24, "unlabelled": 12}
    }
    data = read(tmp_path / "run" / "environment.json")["data"]
    assert '"unlabelled": 8' in json.dumps(data)

    # A line without label and without text has nothing to predict from.
    with (tmp_path / "all.jsonl").open("a") as file:
        file.write(
            '{"id": "24", "question": "who", "text": "", "mood": null, "score": null, "answers": '
            "null}\n"
        )
    done = mtl("eval", "run", "--predictions", "out", "--json", "scores.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "rows left out because they have no label: mood validation 1 of 25; score validation 1 of "
        "25; ask validation 1 of 25\n" in done.stderr
    )
    said = (
        "but only the others scored: mood validation 12 of 24; score validation 16 of 24; ask "
        "validation 19 of 24\n"
    )
    assert said in done.stderr
    for name in columns:
        gold = (
            [row[name] for row in rows]
            if name != "ask"
            else [row["answers"]["text"] or None for row in rows]
        )
        lines = [
            json.loads(line)
            for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
        ]
        assert [line["row"] for line in lines] == list(range(1, 25)) and [
            line["gold"] for line in lines
        ] == gold
    scored = read(tmp_path / "scores.json")["tasks"]
    for name, before in results["tasks"].items():
        assert (
            scored[name]["metrics"] == pytest.approx(before["metrics"])
            and scored[name]["examples"] == before["examples"]
        )
        # The line without text is new.
        assert scored[name]["rows"]["validation"] == {
            key: number + (key != "used") for key, number in before["rows"]["validation"].items()
        }
