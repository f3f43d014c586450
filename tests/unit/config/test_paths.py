"""Paths as users type them: the home folder, and what no system could have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mtlcli.config.paths import default_cache, expand_paths, typed_path
from mtlcli.config.snapshot import config_text, load_config, read_config
from mtlcli.errors import UserError

METHODS = {
    "sharing": {"name": "hard"},
    "weighting": {"name": "static"},
    "sampling": {"name": "proportional"},
}


def values() -> dict[str, Any]:
    task = {
        "type": "classification",
        "columns": {"text": "~text"},
        "source": {"files": {"train": "~/t.csv", "validation": "v.csv"}},
    }
    paths: dict[str, Any] = {
        "data": {"root": "~/data", "cache_dir": "~/c"},
        "model": {"name": "~/model"},
        "run_dir": "~/run",
    }
    other = task | {"source": {"path": "other"}}
    return {"tasks": {"mine": task, "other": other}, **paths, **METHODS}


def test_home_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config, problems = read_config(values())
    assert config is not None and not problems
    found = [
        config.run_dir,
        config.data.root,
        config.data.cache_dir,
        config.model.name,
        *config.tasks["mine"].source.files.values(),
    ]
    assert found == [
        "/home/me/run",
        "/home/me/data",
        "/home/me/c",
        "/home/me/model",
        "/home/me/t.csv",
        "v.csv",
    ]
    assert config.tasks["mine"].columns.text == "~text"


def test_home_in_a_list_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = {"augmentation": {"teachers": ["~/runs/one", "two", "", 3]}}
    (problem,) = expand_paths(found)
    assert (problem.where, problem.what) == ("augmentation.teachers", "the path is empty")
    assert found == {"augmentation": {"teachers": ["/home/me/runs/one", "two", "", 3]}}


def test_a_path_from_the_environment_is_saved_as_the_text_that_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SECRET_PLACE", "~/elsewhere")
    config, _ = read_config(OmegaConf.create(values() | {"run_dir": "${oc.env:SECRET_PLACE}"}))
    assert config is not None and config.run_dir == "/home/me/elsewhere"
    assert "elsewhere" not in config_text(config)
    (tmp_path / "config.yaml").write_text(config_text(config))
    assert load_config(tmp_path / "config.yaml").run_dir == "/home/me/elsewhere"


def test_overrides_of_a_saved_config_know_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config, _ = read_config(values())
    assert config is not None
    (tmp_path / "config.yaml").write_text(config_text(config))
    assert (
        load_config(tmp_path / "config.yaml", ["data.root=~/other"]).data.root == "/home/me/other"
    )


def test_an_empty_path_is_not_the_current_folder() -> None:
    task = values()["tasks"]["mine"] | {
        "source": {"files": {"train": "", "validation": " "}, "hub": "", "path": ""}
    }
    config, problems = read_config(
        values()
        | {
            "run_dir": "",
            "resume": "",
            "init": {"from": ""},
            "data": {"root": "", "cache_dir": ""},
            "model": {"name": ""},
            "tasks": {"mine": task},
        }
    )
    source = "tasks.mine.source"
    files = [f"{source}.files.train", f"{source}.files.validation"]
    empty = {problem.where for problem in problems if problem.what == "the path is empty"}
    keys = {"run_dir", "resume", "init.from", "data.root", "data.cache_dir", "model.name"}
    assert config is None and empty == keys | {f"{source}.hub", f"{source}.path", *files}


def test_a_path_without_a_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    monkeypatch.delenv("MTL_CACHE", raising=False)
    problems = expand_paths({"data": {"root": "~/data"}, "model": {"name": 3}})
    assert [str(problem) for problem in problems] == [
        "data.root: there is no home folder for '~/data'\n    -> write the path in full"
    ]
    with pytest.raises(
        UserError, match="data.cache_dir: there is no home folder.*\n.*or set MTL_CACHE"
    ):
        default_cache()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the path is empty"),
        (" ", "the path is empty"),
        ("a/" + "é" * 150, "a name of 300 bytes"),
        ("a/" * 3000, "a path of 5999 bytes"),
        ("a\0b", "null"),
    ],
)
def test_impossible_paths_are_refused(text: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        typed_path(text, "run_dir")
    assert caught.value.problems[0].where == "run_dir" and len(str(caught.value)) < 200
