"""conf/ and the schema cannot drift: every file spells every key of its dataclass, with its default
unless it is there to differ."""

from __future__ import annotations

import re
import runpy
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

import mtlcli
from mtlcli.config import (
    Config,
    Data,
    Logger,
    Model,
    Runner,
    Sweep,
    augmentations,
    optims,
    samplings,
    sharings,
    task_types,
    weightings,
)
from mtlcli.config.paths import conf_dir
from mtlcli.config.section import key_of

ROOT = Path(mtlcli.__file__).parents[1]
COUNTS = {
    "task": 56,
    "model": 12,
    "sharing": 22,
    "weighting": 32,
    "sampling": 11,
    "augmentation": 8,
    "optim": 5,
    "data": 4,
    "runner": 1,
    "logger": 1,
    "sweep": 3,
    "experiment": 5,
}
SECTIONS: dict[str, type] = {
    "model": Model,
    "data": Data,
    "runner": Runner,
    "logger": Logger,
    "sweep": Sweep,
}
REGISTRIES = {
    "sharing": sharings,
    "weighting": weightings,
    "sampling": samplings,
    "augmentation": augmentations,
    "optim": optims,
}
FILES = sorted(conf_dir().glob("*/*.yaml"))
METHODS = [path for path in FILES if path.parent.name in REGISTRIES]
SETTINGS = [path for path in FILES if path.parent.name in SECTIONS]
TASKS = [
    path for path in FILES if path.parent.name == "task" and "# @package tasks." in path.read_text()
]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path) -> dict[str, Any]:
    loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    return loaded


def defaults(section: Any) -> dict[str, Any]:
    """The default of every field; MISSING for one that has none."""
    values = {}
    for field in fields(section):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        values[key_of(field.name)] = defaults(type(value)) if is_dataclass(value) else value
    return values


def test_files_are_counted() -> None:
    assert {group: len(list((conf_dir() / group).glob("*"))) for group in COUNTS} == COUNTS
    assert {path.name for path in conf_dir().iterdir() if path.is_dir()} - {
        "__pycache__"
    } == COUNTS.keys()
    assert len(TASKS) == 46


def test_every_method_has_a_file() -> None:
    for group, registry in REGISTRIES.items():
        assert {path.stem for path in METHODS if path.parent.name == group} == set(registry), group


@pytest.mark.parametrize("path", METHODS, ids=name)
def test_method_file_is_the_defaults(path: Path) -> None:
    section = REGISTRIES[path.parent.name].configs[path.stem]
    assert load(path) == defaults(section)


PRETRAINED = ["minilm", "bert", "roberta", "deberta", "modernbert", "t5", "gpt2", "pretrained"]
DIFFERS = {
    "sweep/optuna": {"name"},
    "sweep/random": {"name"},
    "model/tiny": {
        "kind",
        "name",
        "dropout",
        "layers",
        "hidden",
        "heads",
        "vocabulary",
        "initializer_range",
        "scratch_lr",
    },
    "model/tiny_decoder": {"architecture", "kind", "name"},
    "model/tiny_t5": {"architecture", "kind", "name"},
    "data/hub": {"source"},
    "data/local": {"source"},
    "data/sample": {"source"},
} | {f"model/{model}": {"kind", "name", "lr"} for model in PRETRAINED}
# The vectors of this one are means, as it was trained.
DIFFERS["model/minilm"].add("pooling")


@pytest.mark.parametrize("path", SETTINGS, ids=name)
def test_settings_file_spells_every_key(path: Path) -> None:
    values, expected = load(path), defaults(SECTIONS[path.parent.name])
    assert list(values) == list(expected), "keys and their order"
    different = {key for key in expected if values[key] != expected[key]}
    assert different <= DIFFERS.get(name(path), set())


NOT_SPELT = {"header", "hold_out", "calibration"}
"""Keys that a task file only has where it needs them: the hub's data sets have headers, and most
of them a validation split."""


@pytest.mark.parametrize("path", TASKS, ids=name)
def test_task_file_spells_every_key(path: Path) -> None:
    values = load(path)
    section = task_types.configs[values["type"]]
    hints = get_type_hints(section)
    expected = defaults(section)
    # What has no effect on most tasks may be left out.
    rare = {"augment", "form", "templates", "focal_gamma", "crf", "constrained"}
    rare |= {"group", "max_train_rows", "pieces", "whole_words"}
    assert values.keys() | (expected.keys() & rare) == expected.keys()
    for key in ("source", "splits", "columns"):
        known = {field.name for field in fields(hints[key])}
        assert known - NOT_SPELT <= values[key].keys() <= known, key
    # What every task has its own value of; the rest is as the dataclass says.
    own = {"source", "splits", "columns", "labels", "range", "metrics", "no_answer", "templates"}
    own |= {"no_relation"}
    own |= {"max_target_length"} if values["type"] == "seq2seq" else set()
    own |= {"max_length"} | {
        "ax": {"head"},
        "multirc": {"group"},
        "snli": {"unlabelled"},
        "wikitext": {"unlabelled"},
        "yelp_polarity": {"label_ids"},
    }.get(path.stem, set())
    assert {key for key in values if values[key] != expected[key]} <= own
    assert path.read_text().startswith(f"# @package tasks.{path.stem}\n")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    about = [line for line in lines[:2] if re.match(r"# (?!@package)\S", line)]
    assert about, "the first comment is what mtl tasks shows"
    if path.parent.name == "task":
        bare = [line for line in lines if re.match(r"\s*\w+: +\S", line) and "#" not in line]
        assert [line for line in bare if not line.startswith("type:")] == [], (
            "every value has a comment"
        )
    assert max(map(len, lines)) <= 140


def test_generated_files_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    generated = runpy.run_path(str(ROOT / "scripts" / "generate.py"))["generated"]()
    written = {
        f"conf/{group}/{path.name}"
        for group in (*REGISTRIES, *SECTIONS)
        for path in (ROOT / "conf" / group).glob("*.yaml")
    }
    names = {str(path.relative_to(ROOT)) for path in generated}
    pages = {"combinations", "data", "install"} | {
        f"reference/{page}"
        for page in (
            *("sharing", "weighting", "sampling", "augmentation"),
            "options",
            "cli",
            "python",
        )
    }
    assert names == written | {"README.md", *(f"docs/{page}.md" for page in pages)}
    stale = [path for path, text in generated.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "type make conf"


def test_train_yaml_is_the_table_of_contents() -> None:
    text = (conf_dir() / "train.yaml").read_text()
    listed = [
        key
        for entry in load(conf_dir() / "train.yaml")["defaults"]
        if isinstance(entry, dict)
        for key in entry
    ]
    groups = [key for key in listed if not key.startswith("override ")]
    assert set(groups) == COUNTS.keys()
    top = defaults(Config)
    sections = {"tasks", *SECTIONS, *REGISTRIES}
    values = load(conf_dir() / "train.yaml")
    assert {key: values[key] for key in top.keys() - sections} == {
        key: top[key] for key in top.keys() - sections
    }
    assert text.count("#") > len(groups)
