"""A saved config is complete, gives an equal Config back, and holds no value of an environment
variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mtlcli.config import Config
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config, read_config, read_text, save_config, saved_values
from mtlcli.errors import UserError

VALUES: dict[str, Any] = {
    "tasks": {
        "cola": {
            "type": "classification",
            "source": {"path": "glue/cola"},
            "columns": {"text": "sentence"},
            # Text that YAML would take for something else, and text that looks like an
            # interpolation.
            "labels": ["1e-4", "no", "null", "12", "a: b", "\\${x}"],
        },
        "squad": {"type": "span", "source": {"path": "squad"}},
    },
    "sharing": {"name": "none"},
    "weighting": {"name": "uncertainty", "lr": 0.003},
    "sampling": {"name": "temperature", "temperature": 1.5},
    "optim": {"name": "adamw", "lr": 1e-7},
}


def read(values: dict[str, Any]) -> Config:
    config, problems = read_config(OmegaConf.create(values))
    assert problems == []
    assert config is not None
    return config


def test_a_saved_config_is_complete_and_equal(tmp_path: Path) -> None:
    config = read(VALUES)
    assert config.tasks["cola"].labels == ["1e-4", "no", "null", "12", "a: b", "${x}"]
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    text = (tmp_path / "config.yaml").read_text()
    assert "timeout: 1800.0" in text, "defaults are filled in"


def test_a_config_of_an_earlier_version_is_read_with_the_new_names(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    values = {"weighting": {"name": "conflict_free", "every": 3}, "sampling": {"name": "all"}}
    save_config(read(VALUES | {"sharing": {"name": "hard"}} | values), path)
    old = path.read_text().replace("name: conflict_free", "name: config")
    path.write_text(old)
    assert "  name: config\n" in old
    for config in (load_config(path), load_config(path, ["seed=3"]), read_text(old, path)):
        assert (config.weighting.name, config.weighting.every) == ("conflict_free", 3)
    assert saved_values(path)["weighting"]["name"] == "conflict_free"
    assert path.read_text() == old, "reading changes no file"


@pytest.mark.parametrize(
    ("form", "name", "key"),
    [("columns", "progressive", "size"), ("distill", "progressive_distill", "strength")],
)
def test_old_forms_of_progressive_are_read_as_strategies(
    tmp_path: Path, form: str, name: str, key: str
) -> None:
    path = tmp_path / "config.yaml"
    save_config(read(VALUES | {"sharing": {"name": name, key: 7, "lengths": [2]}}), path)
    others = {"progressive": "  strength: 1.0\n", "progressive_distill": "  size: 32\n"}
    old = path.read_text().replace(
        f"  name: {name}\n", f"  name: progressive\n  form: {form}\n{others[name]}"
    )
    path.write_text(old)
    assert f"  form: {form}\n" in old
    sharing: Any = load_config(path).sharing
    assert (sharing.name, getattr(sharing, key), sharing.lengths) == (name, 7, [2])


def test_classes_of_any_name_are_saved_and_read_as_they_are(tmp_path: Path) -> None:
    names = [
        "???",
        "${x}",
        "\\${y}",
        "~",
        "1",
        "007",
        "yes",
        "=",
        " a",
        "a ",
        "é",
        "e\u0301",
        "<<",
        "1:30",
        "2020-01-01",
    ]
    weights = {name: 1.0 + number for number, name in enumerate(names)}
    config = replaced(
        read(VALUES), {"tasks.cola.labels": names, "tasks.cola.class_weights": weights}
    )
    save_config(config, tmp_path / "config.yaml")
    saved = load_config(tmp_path / "config.yaml").tasks["cola"]
    assert (saved.labels, saved.class_weights) == (names, weights)


def test_environment_variables_do_not_land_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTL_TEST_SECRET", "s3cret")
    monkeypatch.setenv("MTL_TEST_STEPS", "7")
    values = VALUES | {
        "model": {"name": "${oc.env:MTL_TEST_SECRET}"},
        "data": {"root": "${model.name}/data", "cache_dir": "x-${oc.env:MTL_TEST_ABSENT,default}"},
        "runner": {
            "steps": "${oc.decode:${oc.env:MTL_TEST_STEPS}}",
            "eval_every": "${runner.batch_size}",
            "batch_size": 9,
        },
    }
    config = read(values)
    assert (config.model.name, config.data.root, config.data.cache_dir) == (
        "s3cret",
        "s3cret/data",
        "x-default",
    )
    assert (config.runner.steps, config.runner.eval_every) == (7, 9)
    save_config(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert "s3cret" not in text
    assert "name: ${oc.env:MTL_TEST_SECRET}" in text
    assert "root: ${model.name}/data" in text
    assert "eval_every: 9" in text, "an interpolation that reads no environment is resolved"
    assert load_config(tmp_path / "config.yaml") == config

    save_config(replaced(config, {"model.name": "settled/on"}), tmp_path / "settled.yaml")
    assert load_config(tmp_path / "settled.yaml").model.name == "settled/on"

    monkeypatch.delenv("MTL_TEST_SECRET")
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "config.yaml")
    assert (
        "model.name: ${oc.env:MTL_TEST_SECRET} cannot be resolved: Environment variable "
        "'MTL_TEST_SECRET' not found" in str(caught.value)
    )


def test_missing_values_and_interpolations_are_all_named() -> None:
    values = VALUES | {
        "model": {"name": "???"},
        "data": {"root": "${nosuch.key}"},
        "optim": {"name": "adamw", "betas": [0.9, "???"], "lr": "???"},
    }
    config, problems = read_config(OmegaConf.create(values))
    assert config is None
    assert sorted(str(problem) for problem in problems) == [
        "data.root: ${nosuch.key} cannot be resolved: Interpolation key 'nosuch.key' not found"
        "\n    -> write the value, or ${KEY} with a key of this configuration",
        "model.name: must be given\n    -> add model.name=...",
        "optim.betas[1]: must be given\n    -> add optim.betas[1]=...",
        "optim.lr: must be given\n    -> add optim.lr=...",
    ]


def test_a_number_from_the_environment_and_a_variable_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MTL_TEST_SEED", "3")
    files = {"train": "${oc.env:MTL_TEST_NOSUCH}/train.csv", "validation": "x.csv"}
    task = VALUES["tasks"]["cola"] | {"source": {"files": files}}
    config, problems = read_config(
        OmegaConf.create(VALUES | {"seed": "${oc.env:MTL_TEST_SEED}", "tasks": {"cola": task}})
    )
    assert config is None
    assert [(problem.where, problem.fix) for problem in problems] == [
        ("tasks.cola.source.files.train", "set it"),
        ("seed", "an environment variable is text: write ${oc.decode:${oc.env:MTL_TEST_SEED}}"),
    ]
    decoded = {"seed": "${oc.decode:${oc.env:MTL_TEST_SEED}}"}
    config, problems = read_config(OmegaConf.create(VALUES | decoded))
    assert config is not None and config.seed == 3


def test_overrides(tmp_path: Path) -> None:
    save_config(read(VALUES), tmp_path / "config.yaml")
    config = load_config(
        tmp_path / "config.yaml",
        [
            "runner.eval_batch_size=7",
            "tasks.cola.labels=[a,b]",
            "data.root=.",
            "tasks.cola.source.files.train=x.csv",
            "tasks.cola.source.files.validation=y=z.csv",
            "optim.lr=1e-3",
            "runner.fast=off",
        ],
    )
    assert config.runner.eval_batch_size == 7 and config.runner.fast == "off"
    assert config.tasks["cola"].labels == ["a", "b"]
    assert config.tasks["cola"].source.files == {"train": "x.csv", "validation": "y=z.csv"}
    assert config.optim.lr == 1e-3


def test_wrong_overrides_are_all_named(tmp_path: Path) -> None:
    save_config(read(VALUES), tmp_path / "config.yaml")
    with pytest.raises(UserError) as caught:
        load_config(
            tmp_path / "config.yaml",
            ["runner.eval_batch_sise=7", "x", "tasks.coal.weight=1", "runner.steps=many"],
        )
    assert [problem.what for problem in caught.value.problems] == [
        "unknown key 'eval_batch_sise'",
        "cannot read 'x'",
        "task 'coal' is not in the run",
        "must be a whole number, found 'many'",
    ]


@pytest.mark.parametrize("content", [None, "a: [", "- 1\n"])
def test_a_broken_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert caught.value.problems[0].where == str(path)


@pytest.mark.parametrize(
    ("section", "lacks"),
    [
        ("sharing:", "sharing, weighting, sampling"),
        ("tasks:", "tasks, sharing"),
        ("  name: temp", "sampling"),
    ],
)
def test_a_file_that_is_cut_off_is_one_problem(tmp_path: Path, section: str, lacks: str) -> None:
    path, copies = tmp_path / "config.yaml", tmp_path / "checkpoints" / "step_00000003"
    save_config(read(VALUES), path)
    copies.mkdir(parents=True)
    text = path.read_text()
    (copies / "config.yaml").write_text(text)
    path.write_text(text[: text.index(section)] or "{}")
    for reading in (load_config, saved_values):
        with pytest.raises(UserError) as caught:
            reading(path)
        (problem,) = caught.value.problems
        assert problem.where == str(path) and f"is damaged: it lacks {lacks}" in problem.what
        assert problem.fix == f"bring it back: cp {copies / 'config.yaml'} {path}"
