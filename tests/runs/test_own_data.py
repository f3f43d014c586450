"""Own data in two commands: `mtl new task FILE` and `mtl train task=FILE.yaml`, for files of the
kinds that people have; broken versions are refused with the row and the remedy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.warm import mtl

dice = random.Random(0)
ROWS = 40
GOOD = [dice.random() < 0.5 for _ in range(ROWS)]
TEXTS = [f"das Buch {row} war {'gut' if good else 'schlecht'}" for row, good in enumerate(GOOD)]
SMALL = [
    *("model=tiny", "model.layers=1", "model.hidden=16", "model.heads=2", "model.vocabulary=300"),
    *("runner.steps=4", "runner.batch_size=4", "runner.threads=1", "runner.device=cpu"),
    "logger.console=plain",
]
TREE = "{}\t{}\t{}\t{}\t_\t_\t0\troot\t_\t_\n"


def excel() -> bytes:
    """A sheet that a German Excel has saved: byte order mark, semicolons, CR LF, quotes."""
    lines = [
        f'{row + 1};"{text}; ""wirklich""";{"Ja" if good else "Nein"}'
        for row, (text, good) in enumerate(zip(TEXTS, GOOD, strict=True))
    ]
    return ("\ufeff" + "\r\n".join(["Nr;Kommentar der Kundin;Empfehlung", *lines, ""])).encode()


def indexed() -> bytes:
    """A table that pandas has written with its index: odd names, numbers as classes, empty
    labels."""
    lines = [
        f"{row},{text},{'' if row % 9 == 4 else row % 3 + 1}.0".replace(",.0", ",")
        for row, text in enumerate(TEXTS)
    ]
    return "\n".join([",Q1: what do you think?,stars (1-3)", *lines, ""]).encode()


def scores() -> bytes:
    """Pairs of texts with scores, one object on each line."""
    rows = [
        {"uid": f"p{row}", "left side": text, "right side": TEXTS[row - 1], "sim": row / 7}
        for row, text in enumerate(TEXTS)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def tree() -> bytes:
    """A treebank in CoNLL-U."""
    kinds = {"das": "DET", "Buch": "NOUN", "war": "AUX"}
    sentences = []
    for row, text in enumerate(TEXTS):
        words = [
            TREE.format(place, word, word, kinds.get(word, "X"))
            for place, word in enumerate(text.split(), start=1)
        ]
        sentences.append(f"# sent_id = {row}\n{''.join(words)}")
    return ("\n".join(sentences) + "\n").encode()


def no_header() -> bytes:
    """A csv file without a header, the label first."""
    return "".join(f'"{1 + good}","{text}"\n' for text, good in zip(TEXTS, GOOD)).encode()


def ranked() -> bytes:
    """Queries with a row for each of their texts."""
    rows = [f"{row // 4},what is {row // 4}?,{text},{row % 3}\n" for row, text in enumerate(TEXTS)]
    return "".join(["qid,query,document,relevance\n", *rows]).encode()


def plain() -> bytes:
    """Texts and nothing else, one on each line."""
    return "\n".join(TEXTS).encode()


FILES = {
    "Umfrage 2024.csv": (
        excel,
        "classification",
        "text: Kommentar der Kundin",
        "labels: [Ja, Nein]",
    ),
    "export.csv": (indexed, "classification", "label: stars (1-3)", "unlabelled: skip"),
    "similar.jsonl": (scores, "regression", "text: left side", "label: sim"),
    "de.conllu": (tree, "tagging", "label: upos", "labels: [AUX, DET, NOUN, X]"),
    "search.csv": (ranked, "ranking", "label: relevance", "query_id: qid"),
    "notes.txt": (plain, "mlm", "text: text", "type: mlm"),
    "ag.csv": (no_header, "classification", "header: [column1, column2]", "labels: ['1', '2']"),
}


@pytest.mark.parametrize("name", FILES)
def test_from_a_file_to_a_trained_task_in_two_commands(name: str, tmp_path: Path) -> None:
    make, kind, *parts = FILES[name]
    (tmp_path / name).write_bytes(make())
    first = mtl("new", "task", name, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    (task,) = tmp_path.glob("*.yaml")
    text = task.read_text(encoding="utf-8")
    assert f"\ntype: {kind}  # " in text
    assert [part for part in parts if f"{part}  # " not in text] == []
    assert ("{fraction: 0.2, group: qid}" in text) == (name == "search.csv")
    assert f"mtl train task={task.name} model=tiny" in first.stdout
    second = mtl("train", f"task={task.name}", *SMALL, "run_dir=run", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    ((_, scored),) = results["tasks"].items()
    assert scored["rows"]["validation"]["used"] == ROWS // 5 - (1 if name == "export.csv" else 0)


BROKEN = {
    # The name of the file, and what is said: the place and the remedy.
    "a_field_too_many": ("export.csv", "line 5", "a separator inside a text needs quotes"),
    "an_open_quote": ("Umfrage 2024.csv", "line 2", "close every quote"),
    "latin1": ("Umfrage 2024.csv", "line 1", "iconv -f LATIN1"),
    "a_broken_line": ("similar.jsonl", "line 4", "write one JSON object per line"),
    "a_word_without_fields": ("de.conllu", "line 10", "separate the fields by tabs"),
    "a_column_twice": ("export.csv", "line 1", "rename one of them"),
    "not_parquet": ("rows.parquet", "rows.parquet", "let its name end in .csv"),
    "an_empty_text": ("export.csv", "line 7", "fill it in, or leave the row out"),
}


def broken(name: str) -> bytes:
    """The bytes of a broken file."""
    table = indexed().decode()
    lines = tree().decode().splitlines()
    return {
        "a_field_too_many": lambda: table.replace("3,das Buch 3", "3,das Buch, das 3").encode(),
        "an_open_quote": lambda: excel().replace(b'""wirklich"""', b'""wirklich""', 1),
        "latin1": lambda: (
            excel().decode("utf-8-sig").replace("Kommentar", "Mängel").encode("latin1")
        ),
        "a_broken_line": lambda: scores().replace(b'"uid": "p3"', b'"uid": p3'),
        "a_word_without_fields": lambda: "\n".join([*lines[:9], "war", *lines[9:]]).encode(),
        "a_column_twice": lambda: table.replace(
            "stars (1-3)", "Q1: what do you think?", 1
        ).encode(),
        "not_parquet": lambda: table.encode(),
        "an_empty_text": lambda: (
            table.replace("das Buch 5 war gut", "").replace("das Buch 5 war schlecht", "").encode()
        ),
    }[name]()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_row_and_the_remedy(name: str, tmp_path: Path) -> None:
    file, place, remedy = BROKEN[name]
    (tmp_path / file).write_bytes(broken(name))
    ended = mtl("new", "task", file, cwd=tmp_path)
    if ended.returncode == 0:
        (task,) = tmp_path.glob("*.yaml")
        ended = mtl("train", f"task={task.name}", *SMALL, cwd=tmp_path)
    assert ended.returncode == 2
    assert file in ended.stderr and place in ended.stderr and remedy in ended.stderr, ended.stderr
    assert not (tmp_path / "runs").exists()


def test_a_file_beside_train_is_its_validation_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "dev", "test"):
        rows = pa.table({"content": TEXTS, "target": GOOD, "__index_level_0__": range(ROWS)})
        pq.write_table(rows, tmp_path / "data" / f"{split}.parquet")
    made = mtl("new", "task", "data/train.parquet", "--to", "tasks/mine.yaml", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "tasks" / "mine.yaml").read_text()
    assert "    validation: ../data/dev.parquet\n    test: ../data/test.parquet\n" in text
    assert "hold_out" not in text
    shown = mtl("check", "tasks/mine.yaml", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "40 rows have their text in train, too" not in shown.stderr
    assert "the text is in train too, in 40 of 40 rows" in shown.stdout
    assert "nothing stands in its way: mtl train task=tasks/mine.yaml" in shown.stdout
    again = mtl("new", "task", "data/train.parquet", "--to", "tasks/mine.yaml", cwd=tmp_path)
    assert again.returncode == 2 and "is not overwritten" in again.stderr


def test_one_file_feeds_several_tasks_and_one_task_twice(tmp_path: Path) -> None:
    rows = [
        f"{text},{good},{'' if row % 4 else row % 3}"
        for row, (text, good) in enumerate(zip(TEXTS, GOOD, strict=True))
    ]
    (tmp_path / "both.csv").write_text("\n".join(["text,mood,topic", *rows, ""]))
    common = "type: classification\nsource: {files: {train: both.csv}}\nunlabelled: skip\n"
    common += "splits: {hold_out: {fraction: 0.3, stratify: false}}\n"
    for name in ("mood", "topic"):
        task = f"{common}columns: {{text: text, label: {name}}}\n"
        (tmp_path / f"{name}.yaml").write_text(task)
    again = f"# @package tasks.again\n{common}columns: {{text: text, label: mood}}\nmax_length: 8\n"
    (tmp_path / "again.yaml").write_text(again)
    tasks = "task=[mood.yaml,topic.yaml,again.yaml]"
    ended = mtl("train", tasks, *SMALL, "run_dir=run", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]
    counts = {name: each["rows"]["validation"] for name, each in results.items()}
    assert counts["mood"] == counts["again"] == {"used": 12, "of": 12}
    assert counts["topic"]["of"] == 12
    assert counts["topic"]["used"] + counts["topic"]["unlabelled"] == 12


def test_check_tells_lengths_balance_and_mistakes(tmp_path: Path) -> None:
    long = " ".join(["lang"] * 50)
    rows = [*(f"{text},{good}" for text, good in zip(TEXTS, GOOD)), f"{long},True"]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *rows, ""]))
    assert mtl("new", "task", "mine.csv", cwd=tmp_path).returncode == 0
    good = mtl("check", "mine.yaml", "tasks.mine.max_length=32", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert "tasks.mine" not in good.stderr
    assert "by a tokenizer trained on these rows, as model=tiny does" in good.stdout
    assert "1 of 33 (3.0%) are longer than max_length=32" in good.stdout
    assert "up to     64  #" in good.stdout
    assert good.stdout.count(" tokens: [CLS]") == 3
    assert good.stdout == mtl("tasks", "mine.yaml", "tasks.mine.max_length=32", cwd=tmp_path).stdout
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *rows, ",True", ""]))
    bad = mtl("check", "mine.yaml", cwd=tmp_path)
    assert bad.returncode == 2
    assert f"mine.csv, line {ROWS + 3}: task mine: column 'text' is empty or missing" in bad.stderr


def test_what_is_to_be_typed_is_said(tmp_path: Path) -> None:
    rows = [f"{text},{good}" for text, good in zip(TEXTS, GOOD, strict=True)]
    (tmp_path / "rte.csv").write_text("\n".join(["text,label", *rows, ""]))
    (tmp_path / "ner.txt").write_text("Anna B-PER\nsleeps O\n\n" * 9)
    for words, remedy in (
        (("check", "rte.csv"), "mtl new task rte.csv"),
        (("new", "task", "rte.csv", "--to", "mine.txt"), "type --to mine.yaml"),
        (("new", "task", "ner.txt"), "mv ner.txt ner.conll"),
    ):
        ended = mtl(*words, cwd=tmp_path)
        assert ended.returncode == 2 and remedy in ended.stderr, ended.stderr
    made = mtl("new", "task", "rte.csv", cwd=tmp_path)
    assert made.returncode == 0 and "a built-in task is named rte, too" in made.stdout
    (tmp_path / "ner.txt").rename(tmp_path / "ner.conll")
    assert "tagging" in mtl("new", "task", "ner.conll", cwd=tmp_path).stdout
