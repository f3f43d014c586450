"""`mtl predict`: every kind of input, rows that cannot be read, several tasks in one pass."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli.evaluation.saved_run import evaluate_path
from tests.pinned import ENVIRONMENT
from tests.small_run import start
from tests.warm import mtl

OPTIONS = ("data.max_length=48", "runner.steps=2", "sampling=all", "sharing=hard")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and the predictions of an evaluation in `p`."""
    folder = tmp_path_factory.mktemp("predict")
    start(folder / "run", "task=[cola,sst2,rte]", *OPTIONS)
    evaluate_path(folder / "run", predictions=folder / "p", texts=True)
    return folder


def rows_of(place: Path, task: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """The rows that an evaluation has read, and their probabilities."""
    lines = [json.loads(line) for line in (place / "p" / f"{task}.jsonl").open()]
    return [line["texts"] for line in lines], [line["probabilities"] for line in lines]


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_kind_of_file_gives_the_predictions_of_an_evaluation(place: Path) -> None:
    rows, wanted = rows_of(place, "rte")
    names = list(rows[0])
    for kind, mark in (("csv", ","), ("tsv", "\t")):
        with (place / f"rows.{kind}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=mark)
            writer.writerows([names, *([row[name] for name in names] for row in rows)])
    text = "".join(json.dumps(row | {"more": 1}) + "\n" for row in rows)
    (place / "rows.jsonl").write_text(text)
    (place / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.Table.from_pylist(rows), place / "rows.parquet", row_group_size=70)
    for kind in ("csv", "tsv", "jsonl", "jsonl.gz", "parquet"):
        out = ("--input", f"rows.{kind}", "--output", f"out/{kind}")
        done = mtl("predict", "run", "--task", "rte", *out, cwd=place)
        assert done.returncode == 0, done.stderr
        assert f"{len(rows)} rows predicted in out/{kind}" in done.stderr and not done.stdout
        found = read((place / "out" / kind).read_text())
        assert [line["probabilities"] for line in found] == wanted, kind
        assert [line["row"] for line in found] == list(range(1, len(rows) + 1))
    assert not list((place / "out").glob(".*"))


def piped(place: Path, text: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mtlcli", "predict", "run", *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, cwd=place, env=ENVIRONMENT, timeout=300
    )


def test_lines_through_a_pipe_and_tasks_in_one_pass(place: Path) -> None:
    rows, wanted = rows_of(place, "sst2")
    text = "".join(row["sentence"] + "\n" for row in rows).encode()
    done = piped(place, text, "--task", "cola,sst2")
    assert done.returncode == 0, done.stderr
    assert b"cola, sst2 in one pass of the trunk" in done.stderr
    found = read(done.stdout.decode())
    assert [line["tasks"]["sst2"]["probabilities"] for line in found] == wanted
    assert all(line["tasks"].keys() == {"cola", "sst2"} for line in found)


def test_rows_that_cannot_be_read_are_named_and_left_out(place: Path) -> None:
    bad = b'sentence,idx\ngood,1\n"open,2\na,b,c\n,4\n\xff,5\nalso good,6\nsentence,idx\n'
    (place / "bad.csv").write_bytes(bad)
    done = mtl("predict", "run", "--task", "cola", "--input", "bad.csv", "--texts", cwd=place)
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    assert [line["row"] for line in found] == [1, 2, 3, 4, 5, 6, 7]
    assert ["label" in line for line in found] == [True, *[False] * 4, True, False]
    assert (found[5]["id"], found[5]["texts"]) == ("6", {"sentence": "also good"})
    for number, line, what in (
        (2, 3, "the row is not valid csv: unexpected end of data"),
        (3, 4, "the row has 3 fields, the header 2"),
        (4, 5, "column 'sentence' is empty or missing"),
        (5, 6, "byte 0xff is not UTF-8"),
        (7, 8, "the row repeats the header"),
    ):
        assert f"row {number} is left out: bad.csv, line {line}: {what}" in done.stderr
        assert found[number - 1]["error"] == f"bad.csv, line {line}: {what}"
    assert "2 rows predicted, 5 left out" in done.stderr
    strict = ("--input", "bad.csv", "--strict", "--output", "strict.jsonl")
    done = mtl("predict", "run", "--task", "cola", *strict, cwd=place)
    assert done.returncode == 2 and not list(place.glob("*strict*"))
    assert "bad.csv, line 3: task cola: the row is not valid csv" in done.stderr
    (place / "bad.jsonl").write_text('{"sentence": "x"}\n{"sentence": 5}\n[1]\n{"sentence"\n{}\n')
    done = mtl("predict", "run", "--task", "cola", "--input", "bad.jsonl", cwd=place)
    assert ["label" in line for line in read(done.stdout)] == [True, *[False] * 4]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--task: the model has 3 tasks, and none is named"),
        (("--task", "col"), "--task: the model has no task 'col'\n      -> did you mean 'cola'"),
        (("--task", "cola", "--input", "no.csv"), "no.csv: the file does not exist"),
        (("--task", "rte", "--input", "lines.txt"), "task rte reads sentence1 and sentence2"),
        (("--task", "cola", "--input", "x.csv"), "task cola: there is no column 'sentence'"),
        (
            ("--task", "cola", "--input", "x.csv", "--output", "x.csv"),
            "the input would be overwritten",
        ),
        (("--task", "cola", "--output", "run/config.yaml"), "a file of the run would be"),
        (("--task", "cola", "data.max_length=9"), "data.max_length: is fixed by the checkpoint"),
        (("--task", "cola", "data.max_eval_rows=9"), "the key plays no part in a prediction"),
        (
            ("--task", "cola", "tasks.rte.columns.text=x"),
            "tasks.rte.columns.text: the value has no effect: task rte is not predicted",
        ),
        (("--task", "cola", "--input", "lines.txt", "--header", "a"), "--header: a header can be"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(
    place: Path, arguments: tuple[str, ...], text: str
) -> None:
    (place / "lines.txt").write_text("a line\n")
    (place / "x.csv").write_text("text,id\na,1\n")
    done = mtl("predict", "run", *arguments, cwd=place)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr


def test_columns_have_other_names_or_none(place: Path) -> None:
    (place / "other.csv").write_text("text,id\na good film,7\n")
    (place / "none.tsv").write_text("7\ta good film\n")
    by_name = ("--input", "other.csv", "tasks.cola.columns.text=text")
    by_place = ("--input", "none.tsv", "--header", "id,sentence")
    one, other = (
        mtl("predict", "run", "--task", "cola", *more, cwd=place) for more in (by_name, by_place)
    )
    assert one.returncode == 0, one.stderr
    assert one.stdout == other.stdout and read(one.stdout)[0]["id"] == "7"


def test_a_reader_that_goes_ends_the_command_quietly(place: Path) -> None:
    (place / "many.txt").write_text("a good film about a dog\n" * 20_000)
    command = f"{sys.executable} -m mtlcli predict run --task cola --input many.txt"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -1"],
        capture_output=True,
        text=True,
        cwd=place,
        env=ENVIRONMENT,
        timeout=300,
    )
    assert done.returncode == 141 and len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_refused(place: Path) -> None:
    shutil.copytree(place / "run", place / "broken")
    for file in (place / "broken" / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(b"x")
    done = mtl("predict", "broken", "--task", "cola", "--input", "no.txt", cwd=place)
    assert done.returncode == 2 and "Traceback" not in done.stderr
