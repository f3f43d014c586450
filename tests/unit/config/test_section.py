"""Copies of frozen configs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import mtlcli
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import config_text, read_config
from tests.unit.config.test_snapshot import VALUES


def test_a_copy_keeps_the_texts_of_values_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MTL_TEST_SECRET", "s3cret")
    config, _ = read_config(
        OmegaConf.create(VALUES | {"data": {"root": "${oc.env:MTL_TEST_SECRET}"}})
    )
    assert config is not None
    copy = replaced(config, {"resume": "x", "optim.lr": 0.5, "data.source": "local"})
    assert (copy.resume, copy.optim.lr, config.resume) == ("x", 0.5, None)
    assert "s3cret" not in config_text(copy)


def test_no_module_copies_a_config_without_these_texts() -> None:
    """`dataclasses.replace` would drop them, and the values would be saved."""
    modules = Path(mtlcli.__file__).parent.rglob("*.py")
    assert [
        str(path)
        for path in modules
        if re.search(r"(?<!\w)replace\(\s*(config|resolved|settled)\s*,", path.read_text())
    ] == []
