"""A source for each task: files, the hub (a small server of our own), the sample world, and what
`auto` chooses."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli.config.run import Data
from mtlcli.config.section import replaced
from mtlcli.config.task import Source, Splits, TextColumns
from mtlcli.data.hub import revision_of
from mtlcli.data.record import changed_data
from mtlcli.data.source import open_source
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.tasks.classification import ClassificationTask

ROOT = Path(__file__).parents[3]
REVISION = "a" * 40


def task(splits: Splits | None = None, **source: object) -> ClassificationTask:
    return ClassificationTask(
        source=Source(**source), splits=splits or Splits(), columns=TextColumns(text="sentence")
    )  # type: ignore[arg-type]


def rows(name: str, count: int = 5) -> pa.Table:
    return pa.table(
        {
            "sentence": [f"{name} {number}" for number in range(count)],
            "label": [number % 2 for number in range(count)],
        }
    )


def error(
    data: Data, tasks: dict[str, ClassificationTask], read: tuple[str, str] | None = None
) -> str:
    with pytest.raises(UserError) as caught:
        source = open_source(data, tasks)
        assert read is not None
        source.read(*read)
    assert all(problem.fix for problem in caught.value.problems)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cola", "rte"):
        (tmp_path / "glue" / name).mkdir(parents=True)
        for split in ("train", "validation"):
            pq.write_table(rows(f"{name} {split}"), tmp_path / "glue" / name / f"{split}.parquet")
    return tmp_path


def test_local_reads_below_the_root_and_draws_rows(folder: Path) -> None:
    (folder / "glue/rte/validation.parquet").unlink()
    (folder / "glue/rte/validation.tsv").write_text("sentence\tlabel\nx\t1\ny\t0\n")
    tasks = {"cola": task(path="glue/cola"), "rte": task(path="glue/rte")}
    source = open_source(
        Data(source="auto", root=str(folder), max_train_rows=3, max_eval_rows=1), tasks
    )
    assert source.kind == "local" and source.describe() == f"local: data.root={folder}"
    own = {"cola": replaced(tasks["cola"], {"max_train_rows": 2}), "rte": tasks["rte"]}
    source_of_own = open_source(Data(root=str(folder), max_train_rows=3), own)
    assert [len(source_of_own.read(name, "train")) for name in own] == [2, 3]
    table = source.read("cola", "train")
    numbers = [int(text.split()[-1]) for text in table.column("sentence")]
    assert (
        numbers == sorted(set(numbers))
        and len(numbers) == 3
        and len(set(table.column("label"))) == 2
    )
    assert table.where(0) == f"{folder}/glue/cola/train.parquet, row {numbers[0] + 1}"
    table = source.read("rte", "validation")
    assert table.lines == [{"x": 2, "y": 3}[table.column("sentence")[0]]]
    path = folder / "glue/cola/train.parquet"
    read = source.record()["cola"]["splits"]["train"]
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read == {
        "origin": str(path),
        "fingerprint": fingerprint,
        "rows": 3,
        "total": 5,
        "unlabelled": 0,
        "kept": 0,
        "duplicates": 0,
        "contaminated": 0,
        "removed": None,
        "other_folds": 0,
    }
    assert (
        source.drawn() == "rows drawn at random (seed 0): cola train 3 of 5; rte validation 1 of 2"
    )


def test_rows_without_a_label_are_left_out_before_rows_are_drawn(folder: Path) -> None:
    tasks = {"cola": task(path="glue/cola")}

    def labelled(table: Table) -> Any:
        return np.array([False, True, True, False, True])

    assert len(open_source(Data(root=str(folder)), tasks).read("cola", "train", labelled)) == 5, (
        "unless the task says so"
    )
    tasks["cola"] = replaced(tasks["cola"], {"unlabelled": "skip"})
    source = open_source(Data(root=str(folder), max_train_rows=2), tasks)
    table = source.read("cola", "train", labelled)
    assert [table.number(row) for row in range(2)] in ([2, 3], [2, 5], [3, 5])
    assert source.train_rows() == {"cola": {"used": 2, "of": 5, "unlabelled": 2}}
    assert source.record()["cola"]["splits"]["train"]["unlabelled"] == 2
    assert source.left_out() == "rows left out because they have no label: cola train 2 of 5"
    assert source.drawn() == "rows drawn at random (seed 0): cola train 2 of 3"
    assert len(source.read("cola", "validation", lambda table: np.zeros(len(table), bool))) == 5, (
        "a split without any label stays whole"
    )


def test_shots_are_rows_of_each_class_of_train(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{'xyyz'[number % 4]}\n" for number in range(40))
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text(f"sentence,label\n{rows}nothing,\n")
    files = {"train": str(tmp_path / "train.csv"), "validation": str(tmp_path / "dev.csv")}
    config = replaced(task(files=files), {"labels": ["x", "y", "z"]})
    drawn = open_source(Data(shots=4), {"mine": config}, 3)
    labels = drawn.read("mine", "train").column("label")
    assert {each: labels.count(each) for each in labels} == {"x": 4, "y": 4, "z": 4}
    assert drawn.drawn() == "rows drawn at random (seed 3): mine train 12 of 41"
    assert len(drawn.read("mine", "validation")) == 41
    with pytest.raises(UserError, match="class 'x' of column 'label' has 10 rows in train"):
        open_source(Data(shots=11), {"mine": config}).read("mine", "train")


def test_rows_that_cannot_have_every_class_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sentence,label\na,x\nb,y\nc,z\nd,x\n")
    config = task(files={"train": str(tmp_path / "train.csv")})
    config = replaced(config, {"labels": None})
    with pytest.raises(
        UserError,
        match="2 rows of 4 cannot have all 3 labels of column 'label'.*\n.*give 3 or more",
    ):
        open_source(Data(max_train_rows=2), {"mine": config}).read("mine", "train")
    config = replaced(config, {"labels": ["x", "y", "z"]})
    assert len(open_source(Data(max_train_rows=2), {"mine": config}).read("mine", "train")) == 2
    (tmp_path / "lists.jsonl").write_text(
        '{"sentence": "a", "label": ["x"]}\n{"sentence": "b", "label": ["y"]}\n'
    )
    lists = task(files={"train": str(tmp_path / "lists.jsonl")})
    lists = replaced(lists, {"labels": None})
    assert len(open_source(Data(max_train_rows=1), {"mine": lists}).read("mine", "train")) == 1, (
        "what it holds is said later"
    )


def test_data_that_moved_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    tasks = {"cola": task(path="glue/cola")}

    def record(root: Path, data: Data | None = None) -> dict[str, Any]:
        source = open_source(data or Data(root=str(root)), tasks)
        source.read("cola", "train")
        return source.record()

    before = record(folder)
    moved = folder.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert changed_data(before, record(moved)) == []
    pq.write_table(rows("other"), moved / "glue/cola/train.parquet")
    (problem,) = changed_data(before, record(moved))
    assert (
        problem.what == "task cola: the rows are not the train split that the run has read"
        and str(moved) in problem.where
    )
    (problem,) = changed_data(before, record(moved, Data(source="sample")))
    assert (
        problem.what == "the run's rows came from 'local', now from 'sample'"
        and problem.where == "tasks.cola.source"
    )


def test_compressed_files_below_the_root(folder: Path) -> None:
    tasks = {"cola": task(path="glue/cola")}
    data = Data(source="local", root=str(folder))
    (folder / "glue/cola/validation.parquet").unlink()
    (folder / "glue/cola/validation.csv.gz").write_bytes(
        gzip.compress(b"sentence,label,more\nx,1,2\n")
    )
    source = open_source(data, tasks)
    assert source.splits("cola") == ["train", "validation"]
    assert source.read("cola", "validation").rows.to_pydict() == {"sentence": ["x"], "label": ["1"]}
    (folder / "glue/cola/validation.jsonl.zst").write_bytes(b"")
    assert "validation.csv.gz, validation.jsonl.zst both exist" in error(
        data, tasks, ("cola", "validation")
    )


def test_a_missing_split_says_what_is_there(folder: Path) -> None:
    tasks = {"cola": task(path="glue/cola"), "wnli": task(path="glue/wnli"), "own": task(hub="x/y")}
    data = Data(source="local", root=str(folder))
    text = error(data, tasks, ("cola", "validaton"))
    assert "no split 'validaton'" in text and "did you mean 'validation'" in text
    assert f"{folder}/glue/cola/validaton.*" in text
    assert f"the folder {folder}/glue/wnli does not exist" in error(data, tasks, ("wnli", "train"))
    assert "tasks.own.source.path" in error(data, tasks, ("own", "train"))
    (folder / "glue/cola/train.csv").write_text("sentence,label\nx,1\n")
    assert "train.parquet, train.csv both exist" in error(data, tasks, ("cola", "train"))
    assert "'nowhere' does not exist" in error(Data(root="nowhere"), tasks)
    assert "come from a folder, but none is given" in error(Data(source="local"), tasks)


def test_the_source_is_a_property_of_the_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    files = {"train": "glue/cola/train.parquet", "validation": "glue/cola/validation.parquet"}
    tasks = {"mine": task(files=files)}
    source = open_source(Data(), tasks)
    assert (
        source.kind == "local"
        and source.describe() == "local: files of its own"
        and source.default is None
    )
    assert source.read("mine", "train").column("sentence")[0] == "cola train 0"
    assert "no file is named for split 'test'" in error(Data(), tasks, ("mine", "test"))
    mixed = tasks | {"rte": task(path="glue/rte", hub="nyu-mll/glue")}
    worlds = open_source(Data(source="sample"), mixed)
    assert (worlds.kind, worlds.default) == ("mixed", "sample")
    assert (
        worlds.describe()
        == "mixed: mine from local: files of its own; rte from sample: data.source=sample"
    )
    assert (
        worlds.read("mine", "train").column("sentence")[0] == "cola train 0"
        and len(worlds.read("rte", "train")) == 4000
    )
    assert {name: each["source"] for name, each in worlds.record().items()} == {
        "mine": "local",
        "rte": "sample",
    }
    assert worlds.splits("mine") == ["train", "validation"] and worlds.splits("rte") == [
        "train",
        "test",
        "validation",
    ]
    named = open_source(
        Data(source="sample", root=str(folder)),
        {"a": task(path="glue/rte", kind="local"), "b": task(path="glue/rte")},
    )
    assert {name: choice.kind for name, choice in named.choices.items()} == {
        "a": "local",
        "b": "sample",
    }
    assert named.splits("a") == ["train", "validation"]
    both = open_source(Data(root=str(folder)), mixed)
    assert both.read("rte", "train").column("sentence")[0] == "rte train 0"
    assert both.read("mine", "train").column("sentence")[0] == "cola train 0"


def test_the_sample_world(tmp_path: Path) -> None:
    tasks = {"cola": task(path="glue/cola"), "own": task(path="own/task")}
    source = open_source(Data(source="sample", max_eval_rows=7), tasks)
    table = source.read("cola", "validation")
    assert (source.kind, len(table), table.origin) == ("sample", 7, "sample:glue/cola/validation")
    assert len(source.read("cola", "train")) > 100
    other = open_source(Data(source="sample", sample_seed=1), tasks)
    other.read("cola", "validation")
    found = [
        each.record()["cola"]["splits"]["validation"]["fingerprint"] for each in (source, other)
    ]
    assert found[0] != found[1]
    text = error(Data(source="sample"), tasks, ("own", "train"))
    assert "no task 'own/task'" in text and "glue/cola" in text and "data.root=" in text
    assert "has no split 'tests'" in error(Data(source="sample"), tasks, ("cola", "tests"))


def hub_layout(folder: Path) -> Path:
    """A data set repository as the hub holds it: one folder a configuration, named in README.md."""
    configs = ""
    for name in ("cola", "rte"):
        (folder / name).mkdir(parents=True)
        configs += f"- config_name: {name}\n  data_files:\n"
        for split in ("train", "validation"):
            pq.write_table(
                rows(f"{name} {split}"), folder / name / f"{split}-00000-of-00001.parquet"
            )
            configs += f"  - split: {split}\n    path: {name}/{split}-*\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# GLUE\n")
    return folder


def test_a_folder_in_the_hubs_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = str(hub_layout(tmp_path / "hub"))
    tasks = {
        "cola": task(hub=folder, hub_config="cola"),
        "rte": task(hub=folder, hub_config="rte"),
        "bad": task(hub=folder, hub_config="x"),
    }
    source = open_source(Data(source="hub", max_eval_rows=2), tasks)
    assert source.read("rte", "train").column("sentence") == [
        f"rte train {number}" for number in range(5)
    ]
    assert len(source.read("cola", "validation")) == 2
    origins = [
        read["origin"] for each in source.record().values() for read in each["splits"].values()
    ]
    assert origins == [f"hub:{folder}/cola/validation", f"hub:{folder}/rte/train"]
    assert source.splits("cola") == ["train", "validation"]
    assert "Unknown split" in error(Data(source="hub"), tasks, ("cola", "tests"))
    assert "'x' not found" in error(Data(source="hub"), tasks, ("bad", "train"))
    assert "not on the hub" in error(Data(source="hub"), {"own": task(path="glue/cola")})


def test_a_name_may_have_a_revision(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    assert revision_of("nyu-mll/glue") == ("nyu-mll/glue", None)
    assert revision_of("a/b@refs/convert/parquet") == ("a/b", "refs/convert/parquet")
    assert revision_of(f"a/b@{commit}") == ("a/b", commit)
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert revision_of(str(folder)) == (str(folder), None), "a folder may be named so"


def test_the_revision_is_the_one_that_is_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    branch = "nyu-mll/glue@refs/convert/parquet"
    with hub(hub_layout(tmp_path / "hub")) as endpoint:
        Hub.asked.clear()
        online = run(home, endpoint, "hub", "cola", HUB=branch)
        assert online["first"] == ["cola train 0"]
        assert online["splits"] == [["train", "validation"]]
        assert "/api/datasets/nyu-mll/glue/revision/refs/convert/parquet" in Hub.asked
        assert not [path for path in Hub.asked if "/main" in path]
    name = f"nyu-mll/glue@{REVISION}"
    cached = run(home, endpoint, "hub", "cola", HUB=name, HF_HUB_OFFLINE="1")
    assert cached.get("first") == online["first"], cached
    other = f"nyu-mll/glue@{'b' * 40}"
    refused = run(home, endpoint, "hub", "cola", HUB=other, HF_HUB_OFFLINE="1")
    assert f"not in the cache: {other}/cola" in str(refused["error"])


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as `datasets.load_dataset` asks for: file contents and folder listings of
    one repository."""

    folder: Path
    asked: list[str] = []

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        parts = path.split("/", 6)
        if path == "/":
            self.reply(b"")
        elif (
            path.startswith("/datasets/nyu-mll/glue/resolve/")
            and (file := self.folder / parts[6]).is_file()
        ):
            self.reply(file.read_bytes(), ETag=f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"')
        elif path.startswith("/api/datasets/nyu-mll/glue/revision/"):
            self.reply(
                json.dumps(
                    {"_id": "1", "id": "nyu-mll/glue", "sha": REVISION, "siblings": [], "tags": []}
                ).encode()
            )
        elif path.startswith("/api/datasets/nyu-mll/glue/tree/"):
            folder = self.folder / path.partition(REVISION)[2].strip("/")
            self.reply(json.dumps([self.entry(file) for file in sorted(folder.iterdir())]).encode())
        else:
            self.reply(b"", 404, **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def entry(self, file: Path) -> dict[str, object]:
        name = file.relative_to(self.folder).as_posix()
        size = file.stat().st_size if file.is_file() else 0
        return {
            "type": "file" if file.is_file() else "directory",
            "path": name,
            "size": size,
            "oid": hashlib.sha1(name.encode()).hexdigest(),
        }

    def reply(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            "X-Repo-Commit": REVISION,
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Nothing on the console."""


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub that holds `folder` as nyu-mll/glue."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("FolderHub", (Hub,), {"folder": folder}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


RUN = """
import json, os, sys
from mtlcli.config.run import Data
from mtlcli.config.task import Source, TextColumns
from mtlcli.tasks.classification import ClassificationTask
from mtlcli.data.source import open_source
from mtlcli.errors import UserError
columns = TextColumns(text="sentence")
sources = {
    name: Source(path="glue/" + name, hub=os.environ["HUB"], hub_config=name)
    for name in sys.argv[2:]
}
tasks = {name: ClassificationTask(source=each, columns=columns) for name, each in sources.items()}
try:
    source = open_source(Data(source=sys.argv[1]), tasks)
    tables = {name: source.read(name, "train") for name in tasks}
    record = source.record()
    print(json.dumps({"kind": source.kind, "reason": source.describe(),
                      "first": [table.rows.column(0)[0].as_py() for table in tables.values()],
                      "fingerprints": [record[name]["splits"]["train"]["fingerprint"]
                                       for name in tasks],
                      "splits": [source.splits(name) for name in tasks],
                      "datasets imported": "datasets" in sys.modules}))
except UserError as error:
    print(json.dumps({"error": str(error), "datasets imported": "datasets" in sys.modules}))
"""


def run(
    home: Path, endpoint: str, source: str, *names: str, **environment: str
) -> dict[str, object]:
    """Open a source in a fresh process, as the hub libraries read their settings when they are
    imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HUB": "nyu-mll/glue",
        **environment,
    }
    command = [sys.executable, "-c", RUN, source, *names]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_hub_then_its_cache_then_the_sample_world(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with hub(hub_layout(tmp_path / "hub")) as endpoint:
        online = run(home, endpoint, "auto", "cola")
        assert online["kind"] == "hub" and online["reason"] == f"hub: {endpoint} answers"
        assert online["splits"] == [["train", "validation"]]
        assert online["first"] == ["cola train 0"]
        missing = run(home, endpoint, "hub", "wnli")
        assert "split 'train' of nyu-mll/glue/wnli cannot be read from the hub" in str(
            missing["error"]
        )
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        cached = run(home, endpoint, "auto", "cola", **environment)
        assert cached["kind"] == "hub" and "cache" in str(cached["reason"])
        assert (
            cached["first"] == online["first"] and cached["fingerprints"] == online["fingerprints"]
        )
        assert cached["splits"] == online["splits"]
    partly = run(home, endpoint, "auto", "cola", "rte")
    assert partly["kind"] == "sample" and f"{endpoint} does not answer" in str(partly["reason"])
    refused = run(home, endpoint, "hub", "cola", "rte", HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set)" in str(
        refused["error"]
    ) and "not in the cache: nyu-mll/glue/rte" in str(refused["error"])
    empty = run(tmp_path / "other", endpoint, "hub", "cola")
    assert "does not answer, and these data sets are not in the cache: nyu-mll/glue/cola" in str(
        empty["error"]
    )
    assert str(empty["error"]).startswith("data.source=hub: ")
    assert not empty["datasets imported"]


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # The libraries' own retries would take a minute; `run` would wait for ever where nobody
        # gave up.
        result = run(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "hub", "cola")
        assert "does not answer" in str(result["error"])


def test_a_task_that_is_not_on_the_hub_needs_no_probe(tmp_path: Path) -> None:
    source = open_source(Data(), {"cola": task(path="glue/cola")})
    assert source.kind == "sample" and "cola is not on the hub" in source.describe()
    text = error(Data(), {"own": task(path="own/task")})
    assert (
        "own is not on the hub, no data.root is given, and the sample world has no such task"
        in text
    )
