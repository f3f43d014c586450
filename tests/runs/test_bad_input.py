"""Bad input as a user reads the answer: what is wrong, where (file and line, task, key), what to
do. Before the first step, all at once.

Every case is one of many in the same command: that none hides another is what is tested with it.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from mtlcli.config import Runner, task_types
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.prepare import prepare
from tests.warm import mtl

Done = subprocess.CompletedProcess[str]

RUNNER_KEYS = ", ".join(sorted(field.name for field in fields(Runner)))
HEADER = "sentence,label\n"
GOOD = HEADER + "so good,yes\nso bad,no\nquite fine,yes\nrather poor,no\n"
VALIDATION = HEADER + "very good,yes\nvery bad,no\n"
LEARNED = "type: classification\ncolumns: {text: sentence}\n"
CLASSES = LEARNED + 'labels: ["no", "yes"]\n'
SCORES = "type: regression\ncolumns: {text: sentence}\nrange: [0, 5]\n"
SPAN = "type: span\n"


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def labelled(*labels: Any) -> str:
    return jsonl(
        *({"sentence": f"text {number}", "label": label} for number, label in enumerate(labels))
    )


def question(
    number: str | None, text: str = "who?", answer: Any = "cat", start: int = 4
) -> dict[str, Any]:
    answers = {"text": [answer], "answer_start": [start]} if isinstance(answer, str) else answer
    return {"id": number, "question": text, "context": "the cat sat", "answers": answers}


def parquet(names: list[str], *columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(list(columns), names=names), sink)
    return bytes(sink.getvalue())


def task(folder: Path, name: str, settings: str, files: dict[str, str]) -> None:
    """A task of the user's own: my_conf/task/NAME.yaml."""
    path = folder / "my_conf" / "task" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package tasks.{name}\n{settings}source: {{files: {json.dumps(files)}}}\n")


def write(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def refused(folder: Path, *arguments: str) -> str:
    """What `mtl train` complains of. It must say nothing else than what it reads, create nothing,
    and end with exit code 2."""
    before = set(folder.rglob("*"))
    done = mtl("train", *arguments, f"data.cache_dir={folder / 'cache'}", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert not done.stdout or (
        done.stdout.startswith("mtl train: preparing ") and done.stdout.count("\n") == 1
    ), done.stdout
    assert set(folder.rglob("*")) == before, "something is left on disk"
    return done.stderr


def block(*problems: str) -> str:
    """What the user reads of these problems."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return f"mtl train: {count}\n" + "".join(
        f"  {line}\n" for problem in problems for line in problem.splitlines()
    )


# ------------------------------------------------------------------------------------------------
# files and rows

ROWS: dict[str, tuple[str, str, str | bytes, str]] = {
    # Settings of the task, kind and content of its train file, what must be said of it.
    "missing_field": (
        CLASSES, "csv", HEADER + "a,yes\nb\nc,no\nd\n",
        "missing_field.csv, line 3: task missing_field: the row has 1 field, the header 2 (and 1 "
        "more: line 5)\n"
        "    -> give every row all fields; an empty one needs its separator too",
    ),
    "missing_key": (
        CLASSES, "jsonl", jsonl({"sentence": "a", "label": "no"}, {"label": "yes"}),
        "missing_key.jsonl, line 2: task missing_key: column 'sentence' is empty or missing\n"
        "    -> fill it in, or leave the row out",
    ),
    "extra_comma": (
        CLASSES, "csv", HEADER + "a,yes\nb, too,no\n" + "x,y,yes\n" * 8,
        "extra_comma.csv, line 3: task extra_comma: the row has 3 fields, the header 2 (and 8 "
        "more: lines 4, 5, 6, 7, ...)\n"
        "    -> a separator inside a text needs quotes in csv, and cannot be written in tsv: use "
        "csv or jsonl",
    ),
    "open_quote": (
        CLASSES, "csv", HEADER + 'a,yes\n"b,no\nc,no\n',
        "open_quote.csv, line 3: task open_quote: the row is not valid csv: unexpected end of "
        "data\n"
        "    -> close every quote and write a quote inside a quoted field twice; a file without "
        "quoting is a .tsv",
    ),
    "semicolons": (
        CLASSES, "tsv", GOOD.replace(",", ";"),
        "semicolons.tsv, line 1: task semicolons: the header has only one column, "
        "'sentence;label': "
        "the file seems to use another separator\n"
        "    -> save the file with commas as .csv, or with tabs as .tsv",
    ),
    "column_twice_csv": (
        CLASSES, "csv", "sentence,label,label\na,yes,no\n",
        "column_twice_csv.csv, line 1: task column_twice_csv: the header names a column twice: "
        "label\n"
        "    -> rename one of them",
    ),
    "column_twice_parquet": (
        CLASSES, "parquet",
        parquet(["sentence", "label", "label"], pa.array(["a"]), pa.array([1]), pa.array([0])),
        "column_twice_parquet.parquet: task column_twice_parquet: the file has a column twice: "
        "label\n"
        "    -> rename one of them",
    ),
    "latin1": (
        CLASSES, "csv", (GOOD + "café,no\n").encode("latin-1"),
        "latin1.csv, line 6: task latin1: byte 0xe9 is not UTF-8; the file may be Latin-1\n"
        "    -> save it as UTF-8: iconv -f LATIN1 -t UTF-8 latin1.csv > new.csv",
    ),
    "utf16": (
        CLASSES, "csv", GOOD.encode("utf-16"),
        "utf16.csv, line 1: task utf16: the file is not UTF-8 but looks like UTF-16\n"
        "    -> save it as UTF-8: iconv -f UTF-16 -t UTF-8 utf16.csv > new.csv",
    ),
    "json_broken": (
        CLASSES, "jsonl", labelled("no", "yes") + '{"sentence": "b", "label": \n{"sentence"\n',
        "json_broken.jsonl, line 3: task json_broken: broken JSON at character 28: Expecting value "
        "(and 1 more: line 4)\n"
        "    -> write one JSON object per line",
    ),
    "json_no_object": (
        CLASSES, "jsonl", labelled("no", "yes") + '["b", "no"]\n',
        'json_no_object.jsonl, line 3: task json_no_object: ["b", "no"] is not an object\n'
        '    -> write {"column": value, ...} in each line',
    ),
    "json_list": (
        CLASSES, "jsonl", json.dumps([{"sentence": "a", "label": "no"}], indent=1),
        "json_list.jsonl: task json_list: the file is a JSON list\n"
        "    -> let its name end in .json, or write its objects one per line",
    ),
    "json_deep": (
        CLASSES, "jsonl", labelled("no", "yes") + "[" * 100_000 + "\n",
        "json_deep.jsonl, line 3: task json_deep: broken JSON: its brackets are nested too deeply\n"
        "    -> write one JSON object per line",
    ),
    "json_mixed": (
        CLASSES, "jsonl", labelled(0, 1, "yes", 1),
        "json_mixed.jsonl, line 3: task json_mixed: column 'label': the value \"yes\" does not "
        "have the type of the lines "
        "before it\n"
        "    -> give every line a value of the same type, or null",
    ),
    "file_empty": (
        CLASSES, "csv", "",
        "file_empty.csv: task file_empty: the file is empty\n"
        "    -> write rows into it, or name another file",
    ),
    "split_empty": (
        CLASSES, "csv", HEADER,
        "split_empty.csv: task split_empty: the file has a header and no rows\n"
        "    -> write rows into it, or name another file",
    ),
    "split_empty_parquet": (
        CLASSES, "parquet",
        parquet(["sentence", "label"], pa.array([], pa.string()), pa.array([], pa.int64())),
        "split_empty_parquet.parquet: task split_empty_parquet: split 'train' has no rows\n"
        "    -> fill it, or take it out of tasks.split_empty_parquet.splits",
    ),
    "parquet_damaged": (
        CLASSES, "parquet", parquet(["sentence", "label"], pa.array(["a"]), pa.array([1]))[:-20],
        "parquet_damaged.parquet: task parquet_damaged: the parquet file is damaged or not "
        "parquet: Parquet magic bytes not "
        "found in footer. Either the file is corrupted or this is not a parquet file.\n"
        "    -> download or write the file again; a csv, tsv or jsonl file needs its own extension",
    ),
    "wrong_column": (
        CLASSES, "csv", GOOD.replace("sentence", "sentense"),
        "wrong_column.csv: task wrong_column: there is no column 'sentence'\n"
        "    -> did you mean 'sentense'? choices: label, sentense; set "
        "tasks.wrong_column.columns.text",
    ),
    "label_unknown": (
        CLASSES, "csv", GOOD + "so so,maybe\nhm,perhaps\nha,maybe\n",
        "label_unknown.csv, line 6: task label_unknown: label 'maybe' is not one of the classes; "
        "others: 'perhaps' "
        "(and 2 more: lines 7, 8)\n"
        "    -> allowed: no, yes (tasks.label_unknown.labels)",
    ),
    "label_out_of_range": (
        CLASSES, "csv", HEADER + "a,0\nb,1\nc,2\nd,-3\n",
        "label_out_of_range.csv, line 4: task label_out_of_range: label '2' is not one of the "
        "classes; others: '-3' "
        "(and 1 more: line 5)\n"
        "    -> allowed: 0 = no, 1 = yes (tasks.label_out_of_range.labels)",
    ),
    "label_word": (
        CLASSES, "csv", HEADER + "a,0\nb,1\nc,one\nd,1\n",
        "label_word.csv, line 4: task label_word: label 'one' is not one of the classes\n"
        "    -> allowed: 0 = no, 1 = yes (tasks.label_word.labels)",
    ),
    "label_mixed": (
        CLASSES, "csv", HEADER + "a,no\nb,yes\nc,0\nd,1\n",
        "label_mixed.csv, line 4: task label_mixed: label '0' is not one of the classes; others: "
        "'1' (and 1 more: line 5)\n"
        "    -> label_mixed.csv, line 2 holds the name no, so that numbers are no ids here; "
        "allowed: no, yes (tasks.label_mixed.labels)",
    ),
    "label_fraction": (
        CLASSES, "csv", HEADER + "a,0\nb,1\nc,0.5\nd,1\n",
        "label_fraction.csv, line 4: task label_fraction: label '0.5' is not one of the classes\n"
        "    -> allowed: 0 = no, 1 = yes (tasks.label_fraction.labels)",
    ),
    "label_float": (
        CLASSES, "jsonl", labelled(0.0, 1.0),
        "label_float.jsonl, line 1: task label_float: column 'label' holds numbers with a decimal "
        "point (0.0), where class "
        "names (text) or ids (whole numbers) are needed\n"
        "    -> write the labels as whole numbers (1, not 1.0), or name another column in "
        "tasks.label_float.columns.label",
    ),
    "label_nan": (
        CLASSES, "csv", HEADER + "a,0\nb,nan\nc,1\n",
        "label_nan.csv, line 3: task label_nan: column 'label' has no label: null, empty, NaN or "
        "-1\n"
        "    -> nan says that a row has no label; tasks.label_nan.unlabelled=skip leaves such rows "
        "out; if it is a class, "
        'name it in tasks.label_nan.labels: ["nan", "no", "yes"]',
    ),
    "label_missing": (
        CLASSES, "csv", GOOD + "so so,\nhm,\n",
        "label_missing.csv, line 6: task label_missing: column 'label' has no label: null, empty, "
        "NaN or -1 (and 1 more: line 7)\n"
        "    -> fill it in, or leave the row out: tasks.label_missing.unlabelled=skip; allowed: "
        "no, yes (tasks.label_missing.labels)",
    ),
    "labels_all_ignored": (
        CLASSES, "csv", HEADER + "a,-1\nb,-1\nc,-1\n",
        "labels_all_ignored.csv: task labels_all_ignored: column 'label' has no label in any of "
        "the 3 rows: null, empty, NaN or -1\n"
        "    -> -1 says that a row has no label; tasks.labels_all_ignored.unlabelled=skip leaves "
        "such rows out; if it is a class, "
        'name it in tasks.labels_all_ignored.labels: ["-1", "no", "yes"]',
    ),
    "labels_all_missing": (
        LEARNED, "csv", HEADER + "a,\nb,\n",
        "labels_all_missing.csv: task labels_all_missing: column 'label' has no label in any of "
        "the 2 rows: null, empty, NaN or -1\n"
        "    -> name the column with the labels in tasks.labels_all_missing.columns.label, or fill "
        "it in",
    ),
    "text_empty": (
        CLASSES, "csv", HEADER + "a,yes\n,no\n  ,yes\n",
        "text_empty.csv, line 3: task text_empty: column 'sentence' is empty or missing (and 1 "
        "more: line 4)\n"
        "    -> fill it in, or leave the row out",
    ),
    "text_none": (
        CLASSES, "jsonl",
        jsonl({"sentence": "a", "label": "no"}, {"sentence": None, "label": "yes"}),
        "text_none.jsonl, line 2: task text_none: column 'sentence' is empty or missing\n"
        "    -> fill it in, or leave the row out",
    ),
    "text_numbers": (
        CLASSES, "jsonl", jsonl({"sentence": 1, "label": "yes"}, {"sentence": 2, "label": "no"}),
        "text_numbers.jsonl, line 1: task text_numbers: column 'sentence' holds whole numbers (1), "
        "where text is needed\n"
        "    -> name a column of text, or write it as text",
    ),
    "one_class": (
        LEARNED, "csv", HEADER + "a,yes\nb,yes\n",
        "one_class.csv: task one_class: column 'label' holds fewer than two classes: yes\n"
        "    -> name all classes in tasks.one_class.labels, or leave the task out",
    ),
    "class_only_in_validation": (
        LEARNED, "csv", HEADER + "a,yes\nb,never\n",
        "validation.csv, line 3: task class_only_in_validation: label 'no' is not one of the "
        "classes\n"
        "    -> allowed: never, yes (all that split 'train' has; name others in "
        "tasks.class_only_in_validation.labels)",
    ),
    "classes_of_a_broken_file": (
        LEARNED, "csv", HEADER + "a,yes\nb\n",
        "classes_of_a_broken_file.csv, line 3: task classes_of_a_broken_file: the row has 1 field, "
        "the header 2\n"
        "    -> give every row all fields; an empty one needs its separator too",
    ),
    "score_word": (
        SCORES, "csv", HEADER + "a,1\nb,2.5\nc,good\nd,nan\n",
        "score_word.csv, line 4: task score_word: score 'good' is not a finite number\n"
        "    -> write the scores as numbers, or name another column in "
        "tasks.score_word.columns.label\n"
        "score_word.csv, line 5: task score_word: column 'label' has no score: null or NaN\n"
        "    -> fill it in, or leave the row out: tasks.score_word.unlabelled=skip",
    ),
    "score_not_finite": (
        SCORES, "jsonl", labelled(1.0, float("nan"), float("inf")),
        "score_not_finite.jsonl, line 3: task score_not_finite: score inf is not a finite number\n"
        "    -> correct it, or leave the row out\n"
        "score_not_finite.jsonl, line 2: task score_not_finite: column 'label' has no score: null "
        "or NaN\n"
        "    -> fill it in, or leave the row out: tasks.score_not_finite.unlabelled=skip",
    ),
    "score_out_of_range": (
        SCORES, "csv", HEADER + "a,1\nb,7\nc,-2\n",
        "score_out_of_range.csv, line 3: task score_out_of_range: score 7 is outside its range "
        "(and 1 more: line 4)\n"
        "    -> allowed: 0 to 5 (tasks.score_out_of_range.range)",
    ),
    "scores_all_missing": (
        SCORES, "csv", HEADER + "a,\nb,\n",
        "scores_all_missing.csv: task scores_all_missing: column 'label' has no score in any of "
        "the 2 rows: null, NaN or -1\n"
        "    -> name the column with the scores in tasks.scores_all_missing.columns.label, or fill "
        "it in",
    ),
    "id_twice": (
        SPAN, "jsonl", jsonl(question("q1"), question("q2"), question("q1")),
        "id_twice.jsonl, line 3: task id_twice: id 'q1' is that of line 1 too\n"
        "    -> give each row its own id: predictions are stored by id",
    ),
    "id_missing": (
        SPAN, "jsonl", jsonl(question("q1"), question(None), question("")),
        "id_missing.jsonl, line 2: task id_missing: column 'id' is empty or missing (and 1 more: "
        "line 3)\n"
        "    -> give each row an id",
    ),
    "answer_not_in_context": (
        SPAN, "jsonl", jsonl(question("q1"), question("q2", answer="dog")),
        "answer_not_in_context.jsonl, line 2: task answer_not_in_context: the context has 'cat' at "
        "answer_start 4, not the "
        "answer 'dog'\n"
        "    -> answer_start counts the characters of the context from 0, and the answer is "
        "written exactly as there",
    ),
    "answer_out_of_range": (
        SPAN, "jsonl", jsonl(question("q1"), question("q2", start=40)),
        "answer_out_of_range.jsonl, line 2: task answer_out_of_range: the answer 'cat' at "
        "answer_start 40 lies outside of the "
        "context, which has 11 characters\n"
        "    -> answer_start counts the characters of the context from 0",
    ),
    "answer_missing": (
        SPAN, "jsonl",
        jsonl(question("q1"), question("q2", answer={"text": [], "answer_start": []})),
        "answer_missing.jsonl, line 2: task answer_missing: the question has no answer\n"
        "    -> give it one, set tasks.answer_missing.no_answer=true, or leave the row out: "
        "tasks.answer_missing.unlabelled=skip",
    ),
    "answer_malformed": (
        SPAN, "jsonl",
        jsonl(question("q1"), question("q2", answer={"text": ["cat"], "answer_start": []})),
        "answer_malformed.jsonl, line 2: task answer_malformed: column 'answers' is not "
        "well-formed\n"
        "    -> give each row {text: [...], answer_start: [...]} with as many texts as starts and "
        "no empty text",
    ),
    "answer_text": (
        SPAN, "jsonl", jsonl({**question("q1"), "answers": "cat"}),
        "answer_text.jsonl, line 1: task answer_text: column 'answers' holds text ('cat'), where "
        "{text: [...], answer_start: "
        "[...]} is needed\n"
        "    -> give each row {text: [...], answer_start: [...]}, as in SQuAD; csv cannot hold it, "
        "jsonl can",
    ),
}  # fmt: skip
OF_IDS = ("label_out_of_range", "label_word", "label_fraction", "label_float", "label_nan")
"""Tasks whose label column holds ids."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is said of all tasks of ROWS in one command."""
    folder = tmp_path_factory.mktemp("rows")
    validation = {
        "class": write(folder, "validation.csv", VALIDATION),
        "ids": write(folder, "ids.csv", HEADER + "very good,1\nvery bad,0\n"),
        "regre": write(folder, "scores.csv", HEADER + "x,1\ny,2\n"),
        "span\n": write(folder, "questions.jsonl", jsonl(question("v1", "what?"))),
    }
    for name, (settings, kind, content, _) in ROWS.items():
        train = write(folder, f"{name}.{kind}", content)
        kind = "ids" if name in OF_IDS else settings[6:11]
        task(folder, name, settings, {"train": train, "validation": validation[kind]})
    return refused(folder, "-cd", "my_conf", f"task=[{','.join(ROWS)}]", "model=tiny")


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_file_or_row(name: str, said: str) -> None:
    lines = said.splitlines()[1:]
    problems = [
        "\n".join(line[2:] for line in lines[start : start + 2])
        for start in range(0, len(lines), 2)
    ]
    about = [problem for problem in problems if f"task {name}:" in problem]
    assert "\n".join(about) == ROWS[name][-1]


def test_all_tasks_are_judged_in_one_command(said: str) -> None:
    expected = [text for *_, text in ROWS.values()]
    assert len(ROWS) >= 36
    # Every fault is one line and its remedy; one of the cases has two faults.
    assert said.startswith(
        f"mtl train: {sum(text.count('    -> ') for text in expected)} problems\n"
    )
    assert len(said.splitlines()) == 1 + sum(len(text.splitlines()) for text in expected)
    assert "Traceback" not in said


# ------------------------------------------------------------------------------------------------
# keys and values

KEYS: dict[str, tuple[str, str]] = {
    # What is typed, what must be said of it.
    "misspelt choice": (
        "sampling=propotional",
        "sampling=propotional: unknown sampling 'propotional'\n"
        "    -> did you mean 'proportional'? choices: all, annealed, curriculum, dynamic, pike, "
        "proportional, replay, round_robin, sqrt, temperature, uniform",
    ),
    "misspelt key": (
        "runner.stps=100",
        f"runner.stps: unknown key 'stps'\n    -> did you mean 'steps'? choices: {RUNNER_KEYS}",
    ),
    "misspelt section": (
        "modle=bert",
        "modle: unknown key 'modle'\n"
        "    -> did you mean 'model'? choices: allow, augmentation, data, experiment, form, "
        "init, logger, model, optim, resume, run_dir, runner, sampling, seed, sharing, stages, "
        "sweep, task, text, weighting",
    ),
    "misspelt column": (
        "tasks.rte.columns.txt=a",
        "tasks.rte.columns.txt: unknown key 'txt'\n    -> did you mean 'text'? choices: label, "
        "text, text_pair",
    ),
    "task not in the run": (
        "tasks.mrpc.weight=2",
        "tasks.mrpc.weight: task 'mrpc' is not in the run\n    -> the run has: rte, cola",
    ),
    "lr not a number": (
        "optim.weight_decay=nan",
        "optim.weight_decay: must be a finite number, found nan\n    -> Decoupled weight decay.",
    ),
    "lr as text": (
        "optim.lr=fast",
        "optim.lr: must be a number, found 'fast'\n    -> Peak learning rate; null: one that suits "
        "the model and the optimiser.",
    ),
    "too short": (
        "data.max_length=4",
        "data.max_length: must be at least 8, found 4\n"
        "    -> Longest input in tokens, including special tokens. Span tasks cut longer contexts "
        "into windows; others truncate.",
    ),
    "steps with a fraction": (
        "runner.steps=1.5",
        "runner.steps: must be a whole number, found 1.5\n    -> Number of optimiser updates; "
        "null: as many as `epochs` takes.",
    ),
    "batch 0": (
        "runner.batch_size=0",
        "runner.batch_size: must be greater than 0, found 0\n    -> Examples of a task in a step, "
        "over all devices and micro-batches.",
    ),
    "misspelt value": (
        "runner.device=cdua",
        "runner.device: 'cdua' is not one of its values\n    -> did you mean 'cuda'? choices: "
        "auto, cpu, cuda",
    ),
    "misspelt metric": (
        "tasks.rte.metrics=[acuracy]",
        "tasks.rte.metrics: unknown metric 'acuracy'\n    -> did you mean 'accuracy'? choices: "
        "accuracy, f1, f1_macro, "
        "f1_micro, group_exact_match, matthews, precision, precision_macro, "
        "precision_micro, recall, recall_macro, recall_micro",
    ),
    "metric of another type": (
        "tasks.cola.metrics=[pearson]",
        "tasks.cola.metrics: 'pearson' does not score a classification task\n    -> choices: "
        "accuracy, f1, f1_macro, f1_micro, "
        "group_exact_match, matthews, precision, precision_macro, "
        "precision_micro, recall, recall_macro, recall_micro",
    ),
}


def test_bad_keys_and_values(tmp_path: Path) -> None:
    text = refused(
        tmp_path,
        "task=[rte,cola]",
        "data=sample",
        "model=tiny",
        *(typed for typed, _ in KEYS.values()),
    )
    assert text == block(*(expected for _, expected in KEYS.values()))


FILES: dict[str, tuple[dict[str, str], str]] = {
    # The task's files, what must be said of them.
    "missing": (
        {"train": "trian.csv", "validation": "validation.csv"},
        "tasks.missing.source.files.train: there is no file 'trian.csv'\n    -> did you mean "
        "'train.csv'?",
    ),
    "folder": (
        {"train": "data", "validation": "validation.csv"},
        "tasks.folder.source.files.train: 'data' is a folder with a file for each split, not the "
        "rows of one\n    -> did you mean 'data/train.csv'?",
    ),
    "excel": (
        {"train": "data.xlsx", "validation": "validation.csv"},
        "tasks.excel.source.files.train: 'data.xlsx' is in no known format\n    -> its name must "
        "end in "
        ".parquet, .csv, .tsv, .jsonl, .json, .conll, .conllu or .txt; text files also in .gz, "
        ".bz2, .xz or .zst after it",
    ),
}


def test_files_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", GOOD)
    write(tmp_path, "validation.csv", VALIDATION)
    write(tmp_path, "data.xlsx", "PK")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "train.csv", GOOD)
    for name, (files, _) in FILES.items():
        task(tmp_path, name, CLASSES, files)
    text = refused(tmp_path, "-cd", "my_conf", f"task=[{','.join(FILES)}]", "model=tiny")
    assert text == block(*(expected for _, expected in FILES.values()))


def test_task_files_with_mistakes_and_a_negative_lr(tmp_path: Path) -> None:
    files = {
        "train": write(tmp_path, "train.csv", GOOD),
        "validation": write(tmp_path, "validation.csv", VALIDATION),
    }
    task(tmp_path, "key", CLASSES + "lables: [a, b]\n", files)
    task(tmp_path, "column", "type: classification\ncolumns: {txt: sentence}\n", files)
    task(tmp_path, "kind", "type: clasification\ncolumns: {text: sentence}\n", files)
    task(tmp_path, "split", CLASSES + "splits: {validation: [dev]}\n", files)
    text = refused(
        tmp_path, "-cd", "my_conf", "task=[key,column,kind,split]", "model=tiny", "optim.lr=-0.1"
    )
    assert text == block(
        "tasks.key.lables: unknown key 'lables'\n"
        "    -> did you mean 'labels'? choices: augment, batch_size, class_weights, columns, "
        "dropout, "
        "focal_gamma, form, group, head, "
        "head_layers, "
        "label_ids, label_smoothing, labels, lr_factor, max_length, max_train_rows, metrics, "
        "source, splits, templates, type, unlabelled, weight",
        "tasks.column.columns.txt: unknown key 'txt'\n    -> did you mean 'text'? choices: label, "
        "text, text_pair",
        "tasks.kind.type: unknown type 'clasification'\n    -> did you mean 'classification'? "
        f"choices: {', '.join(sorted(task_types))}",
        "optim.lr: must be greater than 0, found -0.1\n    -> Peak learning rate; null: one that "
        "suits the model and the optimiser.",
        "tasks.split.splits.validation: source.files has no split 'dev'\n    -> choices: train, "
        "validation",
    )


@pytest.mark.parametrize(
    ("encoding", "where"),
    [
        ("latin-1", "line 5: byte 0xe9"),
        ("utf-16", "line 1: byte 0xff"),
    ],
)
def test_a_task_file_that_is_not_utf8(tmp_path: Path, encoding: str, where: str) -> None:
    task(tmp_path, "mine", CLASSES + "# café\n", {})
    path = tmp_path / "my_conf" / "task" / "mine.yaml"
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    text = refused(tmp_path, "-cd", "my_conf", "task=mine", "model=tiny")
    assert text == block(
        f"{path.relative_to(tmp_path)}, {where} is not UTF-8\n    -> save the file as UTF-8"
    )


# ------------------------------------------------------------------------------------------------
# models of parts that do not fit


MODELS = {
    "small": "model.name=small: the tokenizer does not belong to the model: the tokenizer has 72 "
    "tokens, the model has embeddings "
    "for 67 (token 67, 'label', is the first without one)\n"
    "    -> take config.json, the weights and tokenizer.json from the same model",
    "swapped": "model.name=swapped: the weights do not belong to config.json: "
    "embeddings.word_embeddings.weight embeds 67 tokens, "
    "vocab_size is 72\n"
    "    -> take config.json, the weights and tokenizer.json from the same model",
    "cut": "cut/model.safetensors: the weights cannot be read: Error while deserializing header: "
    "incomplete metadata, file not "
    "fully covered\n"
    "    -> copy or download the file again",
    "bare": "model.name=bare: the folder has no weights (looked for *.safetensors)\n"
    "    -> copy model.safetensors into it: pickled weights (pytorch_model.bin) can run code, so "
    "they are never read",
}


@pytest.mark.parametrize(
    "name",
    ["small", "swapped", "cut", "bare"],
)
def test_models_of_parts_that_do_not_fit(tmp_path: Path, name: str) -> None:
    files = {
        "train": write(tmp_path, "train.csv", GOOD),
        "validation": write(tmp_path, "validation.csv", VALIDATION),
    }
    task(tmp_path, "mine", CLASSES, files)
    folder = tmp_path / name
    folder.mkdir()
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    write(
        folder,
        "config.json",
        json.dumps({"model_type": "bert", "vocab_size": 67 if name == "small" else 72} | small),
    )
    write(folder, "tokenizer.json", build_tokenizer(GOOD.split("\n") * 3, 200))
    write(
        folder,
        "tokenizer_config.json",
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "[SEP]"}),
    )
    if name != "bare":
        rows = 72 if name == "cut" else 67
        weights = save({"embeddings.word_embeddings.weight": np.zeros((rows, 8), np.float32)})
        write(folder, "model.safetensors", weights[:-100] if name == "cut" else weights)
    text = refused(
        tmp_path, "-cd", "my_conf", "task=mine", "model=pretrained", f"model.name={name}"
    )
    assert text == block(MODELS[name])


# ------------------------------------------------------------------------------------------------
# what is doubtful, and what is not

WARNINGS = """\
warning: re[b].csv, line 4: task conflict: same text, different label, in 2 of 6 rows: 'no' here, 'yes' in line 2 (and 1 more: line 7)
    -> decide on one label, or delete the rows (column 'label', tasks.conflict.columns.label)
warning: re[b].csv, line 5: task conflict: same text and label as an earlier row, in 2 of 6 rows: here as in line 3 (and 1 more: line 6)
    -> delete them (data.deduplicate=true does it for a run), unless these texts are meant to weigh more
warning: leak.csv, line 4: task conflict: same text, different label, in 1 of 3 rows: 'yes' here, 'no' in line 3
    -> decide on one label, or delete the rows (column 'label', tasks.conflict.columns.label)
warning: leak.csv, line 2: task conflict: the text is in train too, in 1 of 3 rows: here that of re[b].csv, line 3
    -> delete the rows from one of the two: a score on texts of the train split says little (tasks.conflict.splits; data.decontaminate=equal removes them from train for a run)
warning: absent.csv: task absent: no row of split 'train' has the label yes: a class without examples cannot be learned
    -> add rows with them, or take them out of tasks.absent.labels
warning: flat.csv: task flat: every row of split 'train' has the score 3: there is nothing to learn
    -> name another column in tasks.flat.columns.label, or leave the task out
warning: asked.jsonl, line 4: task asked: same text as an earlier row, in 1 of 4 rows: here as in line 1
    -> delete them (data.deduplicate=true does it for a run), unless these texts are meant to weigh more
warning: asked.jsonl, line 2: task asked: the question is cut to its first 16 tokens (and 1 more: line 3)
    -> raise tasks.asked.max_question_length, or shorten the question
"""  # noqa: E501


SUMMARY = """\
warning: conflict: train: 2 rows have the text of another row but a different label; train: 2 rows repeat an earlier row; \
validation: 1 row has the text of another row but a different label; validation: 1 row has its text in train, too
warning: absent: no row of split 'train' has the label yes: a class without examples cannot be learned
warning: flat: every row of split 'train' has the score 3: there is nothing to learn
warning: asked: train: 1 row repeats an earlier row; train: 2 questions are cut to 16 tokens
"""  # noqa: E501


def test_doubtful_rows_are_warned_of_and_harmless_ones_just_work(tmp_path: Path) -> None:
    """Conflicts, repeats, a leak, a class without examples and cut questions; beside them a file
    with a BOM and CRLF.

    The brackets in a file's name are no markup for the console.
    """
    validation = write(tmp_path, "validation.csv", VALIDATION)
    windows = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    task(
        tmp_path,
        "windows",
        CLASSES,
        {"train": write(tmp_path, "windows.CSV", windows), "validation": validation},
    )
    rows = "so good,yes\nso bad,no\nso good,no\nso bad,no\nso bad,no\nso bad,yes\n"
    leak = write(tmp_path, "leak.csv", HEADER + "so bad,no\nx,no\nx,yes\n")
    task(
        tmp_path,
        "conflict",
        CLASSES,
        {"train": write(tmp_path, "re[b].csv", HEADER + rows), "validation": leak},
    )
    three = LEARNED + 'labels: ["no", "yes", maybe]\n'
    absent = write(tmp_path, "absent.csv", HEADER + "a b,0\nc d,2\ne f,0\n")
    task(
        tmp_path,
        "absent",
        three,
        {"train": absent, "validation": write(tmp_path, "dev.csv", HEADER + "z,1\ny,0\n")},
    )
    flat = write(tmp_path, "flat.csv", HEADER + "a b,3\nc d,3\n")
    task(
        tmp_path,
        "flat",
        SCORES,
        {"train": flat, "validation": write(tmp_path, "scores.csv", HEADER + "x,1\ny,2\n")},
    )
    texts = ["who?", "who? " * 20, "who? " * 30, "who?"]
    asked = write(
        tmp_path,
        "asked.jsonl",
        jsonl(*(question(str(number), text) for number, text in enumerate(texts))),
    )
    short = SPAN + "max_question_length: 16\nstride: 8\nmax_length: 64\n"
    task(
        tmp_path,
        "asked",
        short,
        {
            "train": asked,
            "validation": write(tmp_path, "other.jsonl", jsonl(question("v1", "what?"))),
        },
    )
    settings = [
        "model=tiny",
        "model.hidden=8",
        "model.heads=1",
        "runner.steps=1",
        "runner.batch_size=2",
        "run_dir=out",
    ]
    names = "task=[windows,conflict,absent,flat,asked]"
    done = mtl(
        "train",
        "-cd",
        "my_conf",
        names,
        *settings,
        f"data.cache_dir={tmp_path / 'cache'}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert SUMMARY in done.stdout and done.stdout.count("warning:") == SUMMARY.count("warning:")
    assert SUMMARY in (log := (tmp_path / "out" / "log.txt").read_text()) and WARNINGS in log
    assert "windows 0." in done.stdout
    settings = [
        *settings[:-1],
        "run_dir=again",
        "data.warnings=all",
        f"data.cache_dir={tmp_path / 'cache'}",
    ]
    assert WARNINGS in mtl("train", "-cd", "my_conf", names, *settings, cwd=tmp_path).stdout


def fill_the_memory() -> None:
    """Let no rows fit into memory."""

    def full(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    prepare.open_features = full  # type: ignore[assignment]


def test_rows_that_do_not_fit_into_memory(tmp_path: Path) -> None:
    """Also where no file says so beforehand: one message, and nothing is left."""
    files = {
        "train": write(tmp_path, "train.csv", GOOD),
        "validation": write(tmp_path, "validation.csv", VALIDATION),
    }
    task(tmp_path, "mine", CLASSES, files)
    done = mtl(
        "train",
        "-cd",
        "my_conf",
        "task=mine",
        "model=tiny",
        f"data.cache_dir={tmp_path / 'cache'}",
        before=fill_the_memory,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "the rows of the tasks do not fit into memory\n      -> use a machine with more memory"
        in done.stderr
    )
