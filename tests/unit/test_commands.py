"""Commands that messages show: the shell and Hydra read back what was meant."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from random import Random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mtlcli import commands

CHARACTERS = "ab0'\"\\ ,=[]{}()$:~*?%&|;<>#!`é日\t.-/"


def read_back(word: str) -> str:
    """The value of `KEY=VALUE` after the shell and Hydra."""
    text = subprocess.run(
        ["sh", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True
    ).stdout
    value = OverridesParser.create().parse_override(text).value()
    return str(OmegaConf.create({"value": value})["value"])


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "1e5",
        "12",
        "True",
        "a b",
        "lr=1,x",
        "o'clock",
        "it\\'s\\",
        "${seed}",
        "\\${seed}",
        "$HOME",
        "[a]",
        "-",
        "~/x",
        "日本",
    ],
)
def test_a_value_is_what_was_meant(text: str) -> None:
    assert read_back(commands.setting("resume", text)) == text


def test_any_value_is_what_was_meant() -> None:
    draw, parser = Random(0), OverridesParser.create()
    for _ in range(500):
        text = "".join(draw.choices(CHARACTERS, k=draw.randint(1, 8)))
        [word] = shlex.split(commands.setting("resume", text))
        assert OmegaConf.create({"value": parser.parse_override(word).value()})["value"] == text


def test_plain_paths_stay_plain() -> None:
    assert commands.resume(Path("runs/2026-01-31_12-00-00_cola+rte_hard_static")) == (
        "mtl train resume=runs/2026-01-31_12-00-00_cola+rte_hard_static"
    )
    assert commands.resume(Path("my run")) == "mtl train \"resume='my run'\""
    assert commands.evaluate(Path("my run")) == "mtl eval 'my run'"
    assert commands.evaluate(Path("-x")) == "mtl eval ./-x"
