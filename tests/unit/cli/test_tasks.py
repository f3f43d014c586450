"""`mtl tasks`: the list of what can be composed, and one task with its rows and their encoded
form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtlcli.cli.tasks import tasks_main
from mtlcli.config.paths import conf_dir
from mtlcli.errors import UserError

MINE = """\
# @package tasks.mine
# Whether I like it
type: classification
source:
  files: {train: train.csv, validation: train.csv}
columns:
  text: sentence
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "mine.yaml").write_text(MINE)
    (tmp_path / "train.csv").write_text(
        "sentence,label\n" + "so good,liked\nso bad,loathed\nso bad it hurts,loathed\n" * 3
    )
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert tasks_main(list(argv)) == 0
    return capsys.readouterr().out


def test_everything_that_can_be_composed_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    first = [line.split()[0] for line in lines if line.split()]
    for path in conf_dir().glob("*/*.yaml"):
        assert (
            path.stem if path.parent.name == "task" else f"{path.parent.name}={path.stem}"
        ) in first
    (mnli,) = [line for line in lines if line.startswith(" mnli ")]
    expected = (
        "mnli classification premise hypothesis label entailment neutral contradiction "
        "accuracy nyu-mll/glue/mnli"
    )
    assert " ".join(mnli.split()) == expected
    (suite,) = [line for line in lines if line.startswith(" glue_squad ")]
    assert " ".join(suite.split()) == "glue_squad cola sst2 mrpc stsb qqp mnli qnli rte squad"


def test_a_suite_shows_its_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "sample").splitlines()
    assert [line.split()[0] for line in lines if "nyu-mll" in line] == [
        "cola",
        "sst2",
        "rte",
        "stsb",
    ]
    assert not any("model=" in line for line in lines)


def test_a_task_of_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["data=sample", "model=tiny"]
    text = shown(capsys, "rte", *options)
    assert "source      sample: data.source=sample" in text
    assert "text: sentence1, text_pair: sentence2, label: label" in text
    assert "entailment 1," in text or "not_entailment 1," in text
    assert text.count("-> ") == 3 and text.count("[CLS] ") == 3 and text.count("[SEP]") == 6
    assert " to " in shown(capsys, "stsb", *options)
    assert "with an answer" in shown(capsys, "squad_v2", *options)
    assert "those of mnli" in shown(capsys, "ax", *options)


def test_own_tasks(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "own files" in shown(capsys, "-cd", "my_conf")
    text = shown(capsys, "mine", "-cd", "my_conf", "data.max_train_rows=6")
    assert "mine: Whether I like it" in text
    assert "liked, loathed" in text, "labels are learned from the train split"
    assert "loathed 4, liked 2" in text
    assert "train.csv, line 2" in text and "-> 4 tokens: [CLS] so good [SEP]" in text


def test_a_header_can_name_the_task_otherwise(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "my_conf" / "task" / "mine.yaml").write_text(MINE.replace("tasks.mine", "tasks.yours"))
    assert "yours: Whether I like it" in shown(capsys, "mine", "-cd", "my_conf")


def test_rows_are_checked(own: Path) -> None:
    (own / "train.csv").write_text("sentence,label\nso good,liked\n,loathed\n")
    with pytest.raises(UserError) as caught:
        tasks_main(["mine", "-cd", "my_conf"])
    assert "train.csv, line 3" in str(caught.value)


SPAN = {
    "id": 1,
    "question": "who?",
    "context": "the cat",
    "answers": {"text": ["cat"], "answer_start": [4]},
}


@pytest.mark.parametrize(
    ("kind", "rows", "counts", "place"),
    [
        (
            "regression",
            [{"label": "1"}, {"label": "2"}, {"label": "x1"}],
            "1 to 2, mean 1.5; 1 row without a valid label",
            "line 3",
        ),
        ("regression", [{"label": "good"}, {"label": "bad"}], "no valid label", "line 1"),
        (
            "classification",
            [{"label": "a"}, {"label": "b"}, {"label": None}],
            "a 1, b 1; 1 row without a valid label",
            "line 3",
        ),
        (
            "span",
            [SPAN, {**SPAN, "id": 2, "answers": None}],
            "1 with an answer, 0 without; 1 row without a valid label",
            "line 2",
        ),
        ("span", [{**SPAN, "answers": "cat"}], "no valid label", "line 1"),
        ("classification", [{"label": 1.5}, {"label": 2.5}], "the classes are not known", "line 1"),
    ],
)
def test_one_bad_label_does_not_hide_the_others(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    rows: list[dict[str, Any]],
    counts: str,
    place: str,
) -> None:
    (own / "train.jsonl").write_text(
        "\n".join(json.dumps({"sentence": f"s {row}", **row}) for row in rows)
    )
    columns = "" if kind == "span" else "columns: {text: sentence}\n"
    text = (
        f"# @package tasks.mine\ntype: {kind}\n{columns}source:\n  files: {{train: "
        f"train.jsonl}}\nsplits: {{validation: []}}\n"
    )
    (own / "my_conf" / "task" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=f"train.jsonl, {place}"):
        tasks_main(["mine", "-cd", "my_conf"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" train ")]
    assert line.split(maxsplit=3)[3].strip() == counts


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["colla"], "unknown task 'colla'\n    -> did you mean 'cola'?"),
        (["cola", "rte"], "expected one name, found 2: cola rte"),
        (["data=sample"], "'data=sample' needs the name of a task"),
        (["-cd", "nosuch"], "-cd: there is no folder 'nosuch'"),
        (["--foo"], "unknown option '--foo'"),
        (
            ["cola", "data.sourse=sample"],
            "data.sourse: unknown key 'sourse'\n    -> did you mean 'source'?",
        ),
    ],
)
def test_mistakes(argv: list[str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        tasks_main(argv)
    assert str(caught.value).startswith(text)


def test_broken_yaml_does_not_stop_the_others(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own / "my_conf" / "task" / "bad.yaml"
    path.write_text("type: [\n")
    (own / "my_conf" / "task" / "worse.yaml").write_bytes(b"# \xff\n")
    assert tasks_main(["-cd", "my_conf"]) == 0
    out, err = capsys.readouterr()
    assert (
        " mine " in out
        and f"warning: {Path('my_conf/task/bad.yaml')}, line 2: the file is not valid YAML" in err
        and "UTF-8" in err
    )
    assert "mine: Whether I like it" in shown(capsys, "mine", "-cd", "my_conf")
    with pytest.raises(UserError) as caught:
        tasks_main(["bad", "-cd", "my_conf"])
    assert caught.value.problems[0].where == f"{Path('my_conf/task/bad.yaml')}, line 2"
