"""The extras: all of setup.cfg are explained, and an installed package knows them too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtlcli import extras


def test_every_extra_says_what_it_is_for() -> None:
    needed, optional = extras.requirements()
    assert list(extras.ABOUT) == sorted(optional)
    assert "hydra-core" in map(extras.name_of, needed)
    assert optional["lora"] == ["peft"]


def test_an_installed_package_has_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = extras.requirements()
    needed, optional = checkout
    recorded = [
        *needed,
        *(
            f'{requirement}; extra == "{name.replace("_", "-")}"'
            for name, requirements in optional.items()
            for requirement in requirements
        ),
    ]
    monkeypatch.setattr(extras.metadata, "requires", lambda name: recorded)
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "mtlcli" / "extras.py"))
    assert extras.requirements() == checkout


def test_versions() -> None:
    assert extras.installed("pytest") == pytest.__version__
    assert extras.installed("no-such-package") is None


def test_the_image_is_built_from_what_it_is_given() -> None:
    root = Path(extras.__file__).parents[1]
    given = {
        line.removeprefix("!")
        for line in (root / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    recipe = (root / "Dockerfile").read_text()
    copied = {
        name
        for line in recipe.splitlines()
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    }
    assert copied == given and all((root / name).exists() for name in given)
    arguments = {
        line.split()[1].partition("=")[0] for line in recipe.splitlines() if "ARG " in line
    }
    documented = (root / "docs" / "install.md").read_text()
    for name in re.findall(r"--build-arg (\w+)=", documented):
        assert name in arguments
