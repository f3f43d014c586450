"""The encoded store: built once, keyed by what matters, repaired when damaged."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config import task_types
from mtlcli.config.task import Source, TextColumns
from mtlcli.data import table as table_module
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import RunWarning, UserError
from mtlcli.prepare.prepare import prepare
from mtlcli.prepare.store import _arrays, fingerprint, open_features
from mtlcli.tasks.base import TaskType, build_tasks
from mtlcli.tasks.classification import ClassificationTask
from mtlcli.tasks.span import SpanTask

TEXTS = [f"the cat number {number} sat on the mat" for number in range(50)]


def table(texts: list[str] = TEXTS, **more: list) -> Table:
    columns = {
        "text": texts,
        "label": [len(text) % 2 for text in texts],
        "idx": list(range(len(texts))),
    }
    return Table(pa.table(columns | more), "rows.csv", "train")


def task(**settings: object) -> TaskType:
    config = {
        "source": Source(files={}),
        "columns": TextColumns(text="text"),
        "labels": ["a", "b"],
        "max_length": 16,
    } | settings
    return build_tasks({"mine": ClassificationTask(**config)})["mine"]  # type: ignore[arg-type]


def encoder(texts: list[str] = TEXTS) -> TextEncoder:
    return TextEncoder(build_tokenizer(texts, 200), uses_segments=True)


def same(one: Features, other: Features) -> bool:
    first, second = _arrays(one), _arrays(other)
    notes = [(each.notes, each.noted) for each in (one, other)]
    return (
        first.keys() == second.keys()
        and notes[0] == notes[1]
        and all(
            first[name].dtype == second[name].dtype
            and np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
            for name in first
        )
    )


def entries(cache: Path) -> list[Path]:
    return [path for path in (cache / "features").iterdir() if path.is_dir()]


def test_features_come_back_as_encoded_and_cannot_be_written(tmp_path: Path) -> None:
    expected = task().encode(table(), encoder())
    for _ in range(2):
        features = open_features(table(), task(), encoder(), tmp_path)
        assert same(features, expected)
        assert isinstance(features.ids.base, np.memmap) and type(features.ids) is np.ndarray
        with pytest.raises(ValueError, match="read-only"):
            features.ids[0] = 1
    assert [path.suffix for path in entries(tmp_path)] == [""]


def test_windows_with_token_columns(tmp_path: Path) -> None:
    span = build_tasks(
        {"qa": SpanTask(source=Source(files={}), max_length=24, stride=4, max_question_length=8)}
    )["qa"]
    answers = [{"text": ["cat"], "answer_start": [4]}] * 50
    contexts = [text * 3 for text in TEXTS]
    rows = pa.table(
        {"id": TEXTS, "question": ["who sat"] * 50, "context": contexts, "answers": answers}
    )
    squad = Table(rows, "squad", "train")
    expected = span.encode(squad, encoder())
    assert len(expected) > 50 and expected.token_columns
    assert same(open_features(squad, span, encoder(), tmp_path), expected)


def test_an_empty_table(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for _ in range(2):
        assert len(open_features(table([]), task(), encoder(), tmp_path)) == 0
    assert [each for each in recwarn if issubclass(each.category, RunWarning)] == []


def test_the_second_opening_does_not_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_features(table(), task(), encoder(), tmp_path)
    monkeypatch.setattr(TextEncoder, "encode", None)
    assert len(open_features(table(), task(), encoder(), tmp_path)) == 50


def test_the_key_follows_what_changes_features_and_nothing_else() -> None:
    first = fingerprint(table(), task(), encoder())
    unchanged = [
        (table(title=["x"] * 50), task(), encoder()),  # a column that the task does not use
        (Table(table().rows, "elsewhere.csv", "dev", lines=list(range(50))), task(), encoder()),
        (
            table(),
            task(
                weight=3.0,
                batch_size=2,
                lr_factor=5.0,
                dropout=0.5,
                metrics=["f1"],
                source=Source(path="x"),
            ),
            encoder(),
        ),
    ]
    assert {fingerprint(*case) for case in unchanged} == {first}
    changed = [
        (table([*TEXTS[:-1], "another"]), task(), encoder()),
        (table().head(49), task(), encoder()),
        (table(), task(max_length=17), encoder()),
        (table(), task(labels=["b", "a"]), encoder()),
        (table(), task(columns=TextColumns(text="text", label="idx")), encoder()),
        (table(), task(), encoder(TEXTS[:1])),
    ]
    assert len({first} | {fingerprint(*case) for case in changed}) == 7


def damage_truncate(entry: Path) -> None:
    data = (entry / "ids.npy").read_bytes()
    (entry / "ids.npy").write_bytes(data[:-10])


def damage_append(entry: Path) -> None:
    with (entry / "segments.npy").open("ab") as file:
        file.write(b"more")


def damage_missing(entry: Path) -> None:
    (entry / "column.label.npy").unlink()


def damage_meta(entry: Path) -> None:
    (entry / "meta.json").write_text('{"format"')


def damage_no_meta(entry: Path) -> None:
    (entry / "meta.json").unlink()


def damage_bit(entry: Path) -> None:
    data = bytearray((entry / "ids.npy").read_bytes())
    data[-40] ^= 1
    (entry / "ids.npy").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [damage_bit, damage_truncate, damage_append, damage_missing, damage_meta, damage_no_meta],
)
def test_a_damaged_entry_is_reported_and_rebuilt(tmp_path: Path, damage) -> None:  # noqa: ANN001
    expected = task().encode(table(), encoder())
    open_features(table(), task(), encoder(), tmp_path)
    (entry,) = entries(tmp_path)
    damage(entry)
    with pytest.warns(RunWarning, match="rows.csv were damaged"):
        assert same(open_features(table(), task(), encoder(), tmp_path), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        assert same(open_features(table(), task(), encoder(), tmp_path), expected)


def test_leftovers_of_a_killed_process_are_not_an_entry(tmp_path: Path) -> None:
    key = fingerprint(table(), task(), encoder())
    left = tmp_path / "features" / f"{key}.partial"
    left.mkdir(parents=True)
    (left / "ids.npy").write_bytes(b"half")
    assert len(open_features(table(), task(), encoder(), tmp_path)) == 50
    assert not left.exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.cache_dir=FOLDER"):
        open_features(table(), task(), encoder(), tmp_path / "file")


BUILD = """
import json, sys, time
from pathlib import Path
from tests.unit.prepare.test_store import encoder, open_features, table, task
from mtlcli.tasks.classification.task import Classification
plain, calls = Classification.encode, []
def slow(self, rows, encoder):
    calls.append(1)
    time.sleep(2)
    return plain(self, rows, encoder)
Classification.encode = slow
text = encoder()
print("ready", flush=True)
sys.stdin.readline()
open_features(table(), task(), text, Path(sys.argv[1]))
print(json.dumps({"calls": len(calls)}))
"""


def test_only_one_of_two_processes_encodes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    root = Path(__file__).parents[3]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=500)
        results.append(json.loads(output)["calls"])
    assert sorted(results) == [0, 1]
    assert len(entries(tmp_path)) == 1


FROZEN = """
import os, signal, sys
from pathlib import Path
from mtlcli.data.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_lock_holder_is_named_and_rows_are_encoded_without_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtlcli.data.locks.QUIET", 0.2)
    monkeypatch.setattr("mtlcli.data.locks.PATIENCE", 0.5)
    entry = tmp_path / "features" / fingerprint(table(), task(), encoder())
    entry.parent.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", FROZEN, str(entry)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
        who = f"process {other.pid} on {platform.node()} (stopped)"
        with pytest.warns(
            RunWarning,
            match=re.escape(f"{who} has held the lock of the stored features of rows.csv"),
        ):
            features = open_features(table(), task(), encoder(), tmp_path)
        assert f"waiting for {who}, which holds the lock {entry}.lock" in capsys.readouterr().err
        assert same(features, task().encode(table(), encoder())) and entries(tmp_path) == []
    finally:
        other.kill()
        other.wait()
    # The next one has the lock, and the store.
    open_features(table(), task(), encoder(), tmp_path)
    assert len(entries(tmp_path)) == 1 and capsys.readouterr().err == ""


def test_a_table_is_encoded_in_parts_as_if_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = "[cola,stsb,squad_v2,go_emotions,swag,ms_marco,tacred,multi30k,conll2003,wikitext]"
    given = [f"task={chosen}", "data=sample", "model=tiny", "data.max_length=48"]
    given += ["data.max_train_rows=20", "data.max_eval_rows=20"]
    config = preflight(read_arguments(given)).configs[0]
    assert {task.type for task in config.tasks.values()} == set(task_types)
    found = []
    for size in (table_module.PART, 7):
        monkeypatch.setattr(table_module, "PART", size)
        data = replace(config.data, cache_dir=str(tmp_path / str(size)))
        found.append(prepare(replace(config, data=data)))
    whole, parts = found
    assert whole.files.tokenizer == parts.files.tokenizer
    assert whole.notices == parts.notices and whole.details == parts.details
    for name, splits in whole.features.items():
        for split, features in splits.items():
            assert same(features, parts.features[name][split]), (name, split)
