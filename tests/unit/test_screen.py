"""What is shown: text is never markup, and tables fit the window without cutting a name or a
score."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

import mtlcli
from mtlcli.rundir.console import Console, results_table
from mtlcli.screen import screen

RESULTS = {
    "split": "validation",
    "step": 5,
    "data_source": "sample",
    "average": 0.5,
    "tasks": {
        name: {
            "main": 0.5,
            "majority": 0.25,
            "main_metric": "matthews",
            "examples": 1043,
            "rows": {"validation": {"used": 1043, "of": 1043}},
            "metrics": {"matthews": 0.5, "accuracy": 0.625, "f1": 0.125},
        }
        for name in ("cola", "a_task_of_mine")
    },
}


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        ("40", ["task", "score", "majority"]),
        ("60", ["task", "main metric", "score", "majority"]),
        ("80", ["task", "main metric", "score", "majority", "points above", "rows"]),
        ("120", ["task", "main metric", "score", "majority", "points above", "rows", "also"]),
        ("", ["task", "main metric", "score", "majority", "points above", "rows", "also"]),
    ],
)
def test_the_final_table_leaves_columns_out_before_it_cuts(
    width: str, titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    out = io.StringIO()
    screen(file=out).print(results_table(RESULTS))
    lines = out.getvalue().splitlines()
    assert [cell.strip() for cell in lines[2].strip("┃").split("┃")] == titles
    assert all(len(line) <= int(width or 1000) for line in lines)
    for row in (["cola", "0.5000"], ["a_task_of_mine", "0.5000"], ["average", "0.5000"]):
        assert any(all(f" {cell} " in line for cell in row) for line in lines)
    assert any("The window is too narrow" in line for line in lines) == (
        width in ("40", "60", "80")
    )


def test_brackets_of_the_user_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quoted = "[/b] mtlcli[lora] :smile: [red]"
    with Console("live", tmp_path / "log.txt") as console:
        console.say(quoted)
        console.panel("run", [quoted])
        console.start([quoted], 0, 1)
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert text.count(quoted) >= 2


def test_no_other_console_is_made() -> None:
    """A console of rich's own reads [text in brackets] as markup."""
    made = [
        path
        for path in Path(mtlcli.__file__).parent.rglob("*.py")
        if "rich.console import Console" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in made] == ["screen.py"]


def test_a_terminal_without_these_characters_gets_others() -> None:
    code = (
        "from mtlcli.screen import screen; from tests.unit.test_screen import RESULTS, "
        "results_table; screen().print(results_table(RESULTS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii"},
        timeout=500,
        check=True,
    )
    assert b"| cola" in done.stdout
