"""The pages to follow step by step are followed: files are written as shown, every command is run
in order in one folder, and what the page says that it prints is printed.

A block of code after a command is what it prints: each line has to occur in its output, whatever
its digits. Where a section shows a message without a command, the words are in the source. The
marks `<!-- fails -->` and `<!-- small -->` stand before blocks of commands whose exit code is not
0, and of commands that are run with `SMALL` behind them.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import mtlcli
from tests.pinned import ENVIRONMENT
from tests.runs.test_own_code import forget
from tests.warm import mtl

ROOT = Path(mtlcli.__file__).parents[1]
PAGES = ("index", "tutorial", "helped", "own_task", "add_method", "sweeps", "troubleshooting")
SMALL = (
    *("task=[cola,rte]", "data=sample", "model=tiny", "seed=1", "runner.steps=4"),
    *("data.max_train_rows=64", "data.max_eval_rows=16"),
)
"""What is typed behind commands on real data: two tasks of the sample world in their
place, and few steps."""
NOT_RUN = {
    "mtl train task=glue_multi sharing=hard data=sample model=tiny": "it takes three minutes; "
    "make train types it",
    "mtl train 'task=[cola,sst2]' data=sample model=tiny runner.devices=2": "tests/runs/ddp has "
    "runs on two ranks, which cost seconds to start",
    "mtl compare 'task=[cola,rte,mrpc,stsb]'": "tests/runs/cli/test_compare.py compares small runs",
    "pip install 'mtlcli[slurm]'": "there is no package index",
    "mtl train -m weighting=static,uncertainty seed=1,2,3 hydra/launcher": "there is no SLURM",
    "#!/bin/bash": "there is no SLURM",
}
"""Beginning of a command, or of a script, that is not run -> why."""
PART = re.compile(
    r"^(?:(\#+\ [^\n]*)"
    r"|(?:<!--\ (fails|small)\ -->\n\n)? ```(\w*) (?:\ title=\"([^\"]*)\")? \n (.*?) ^```$)",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
"""A heading, or a block of code with its mark."""


@dataclass
class Block:
    """A block of code of a page."""

    mark: str
    language: str
    title: str
    text: str
    first_of_section: bool
    """Whether no commands stand before it in its section."""

    @property
    def commands(self) -> list[str]:
        """The commands in the block; a script is one."""
        if self.language != "bash":
            return []
        if self.text.startswith("#!"):
            return [self.text]
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    first = True
    for part in PART.finditer(text):
        heading, mark, language, title, content = part.groups()
        if heading is not None:
            first = True
            continue
        yield Block(mark or "", language, title or "", content, first)
        first = first and language != "bash"


def why_not(command: str) -> str | None:
    """Why a command is not run."""
    return next((why for begin, why in NOT_RUN.items() if command.startswith(begin)), None)


def run(command: str, mark: str, folder: Path, cache_dir: Path) -> str:
    """Run a command as it is typed, and return all that it prints."""
    program, *words = shlex.split(command)
    if program == "mtl":
        words += SMALL if mark == "small" else ()
        # A process that is to read own methods forgets what the one it comes from has read.
        before = forget if "-cd" in words else ()
        done = mtl(*words, before=before, cwd=folder, MTL_CACHE=str(cache_dir), COLUMNS="200")
    else:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT
        )
    assert (done.returncode != 0) == (mark == "fails"), f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def plain(text: str) -> str:
    """Text whatever its digits, white space and the lines of its tables."""
    text = re.sub(r"[┃│]", "|", text)
    return " ".join(re.sub(r"\d+", "0", text).split())


@cache
def said_in_the_source() -> list[str]:
    """All texts in the code, with what is filled in left out."""
    found = []
    for file in (ROOT / "mtlcli").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(plain(node.value))
            if isinstance(node, ast.JoinedStr):
                texts = [
                    part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
                ]
                found.append(plain("".join(map(str, texts))))
    return found


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of encoded rows, for all pages."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, tmp_path: Path, cache_dir: Path) -> None:
    printed = ""
    for block in blocks(page):
        if block.title:
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif commands := [each for each in block.commands if why_not(each) is None]:
            printed = "".join(run(each, block.mark, tmp_path, cache_dir) for each in commands)
        elif block.language == "text" and block.first_of_section:
            for piece in re.split(r"\.\.\.|\n", block.text):
                words = plain(piece)
                assert any(words in text for text in said_in_the_source()), piece
        elif block.language == "text":
            for line in block.text.splitlines():
                assert plain(line) in plain(printed), f"{line}\nis not in\n{printed}"


def test_every_command_of_these_pages_is_counted() -> None:
    """The number of commands that are run, and of those that are named in `NOT_RUN`."""
    commands = [each for page in PAGES for block in blocks(page) for each in block.commands]
    left_out = [each for each in commands if why_not(each) is not None]
    assert len(left_out) == len(NOT_RUN)
    assert (len(commands) - len(left_out), len(left_out)) == (40, 6)
