"""`mtl predict --submission`: the zips that the sites of GLUE and SuperGLUE take."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.small_run import start
from tests.warm import mtl


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submission")
    tasks = "task=[cola,stsb,mnli,ax,rte,copa,multirc,record]"
    small = ("data.max_length=48", "runner.steps=1", "sampling=all")
    limits = [f"tasks.{name}.max_length=48" for name in ("multirc", "record")]
    windows = ("tasks.record.stride=8", "tasks.record.max_question_length=16")
    start(folder / "run", tasks, *small, *limits, *windows)
    return folder


def test_the_files_have_their_official_names_labels_and_counts(place: Path) -> None:
    glue = ("--submission", "glue", "--output", "glue.zip")
    done = mtl("predict", "run", *glue, cwd=place)
    assert done.returncode == 2
    assert "WNLI.tsv needs task wnli, which the run does not have" in done.stderr
    assert not (place / "glue.zip").exists()
    done = mtl("predict", "run", *glue, "--partial", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "WNLI.tsv is filled with a constant: the run has no task wnli" in done.stderr
    assert "and CoLA.tsv needs 1,063" in done.stderr
    with zipfile.ZipFile(place / "glue.zip") as made:
        files = {name: made.read(name).decode().splitlines() for name in made.namelist()}
    names = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX"
    assert " ".join(name.removesuffix(".tsv") for name in files) == names
    values = {name: {line.split("\t")[1] for line in lines[1:]} for name, lines in files.items()}
    assert all(lines[0] == "index\tprediction" for lines in files.values())
    assert all(lines[1].startswith("0\t") for lines in files.values())
    assert values["CoLA.tsv"] <= {"0", "1"}
    assert values["MNLI-mm.tsv"] <= {"entailment", "neutral", "contradiction"}
    assert values["RTE.tsv"] <= {"entailment", "not_entailment"}
    assert all(0 <= float(value) <= 5 for value in values["STS-B.tsv"])
    assert len(files["QQP.tsv"]) == 390_966 and values["QQP.tsv"] == {"0"}


def test_rows_of_superglue_have_their_official_form(place: Path) -> None:
    out = ("--output", "s.zip", "--partial")
    done = mtl("predict", "run", "--submission", "superglue", *out, cwd=place)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(place / "s.zip") as made:
        files = {
            name: [json.loads(line) for line in made.read(name).decode().splitlines()]
            for name in made.namelist()
        }
    assert {len(files["BoolQ.jsonl"]), len(files["WiC.jsonl"])} == {3245, 1400}
    assert files["BoolQ.jsonl"][7] == {"idx": 7, "label": "false"}
    assert {line["label"] for line in files["COPA.jsonl"]} <= {0, 1}
    assert {line["label"] for line in files["RTE.jsonl"]} <= {"entailment", "not_entailment"}
    assert isinstance(files["ReCoRD.jsonl"][0]["label"], str)
    passage = files["MultiRC.jsonl"][0]
    answer = passage["passage"]["questions"][0]["answers"][0]
    assert answer.keys() == {"idx", "label"} and answer["label"] in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--submission", "glue"), "--output: a submission is a zip file"),
        (("--submission", "glue", "--output", "x.tsv"), "--output: a submission is a zip file"),
        (
            ("--submission", "glue", "--output", "x.zip", "--task", "cola"),
            "--task: the option has no effect with --submission",
        ),
        (("--partial",), "--partial: the option has no effect without --submission"),
        (("--submission", "clue", "--output", "x.zip"), "invalid choice: 'clue'"),
    ],
)
def test_mistakes(place: Path, arguments: tuple[str, ...], text: str) -> None:
    done = mtl("predict", "run", *arguments, cwd=place)
    assert (done.returncode, done.stdout) == (2, "") and text in done.stderr
