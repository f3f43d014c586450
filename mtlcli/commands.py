"""Commands in messages, quoted so that the user can paste them, whatever characters a path has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_/.+-]*[A-Za-z0-9_/.]")
"""Pattern of the values that Hydra's grammar reads without quotes."""


def hydra_value(value: object) -> str:
    """Return a text in the form that Hydra's grammar reads: in quotes if necessary.

    In Hydra's quotes a backslash stands for itself, except before a quote (and at the end, where a
    quote follows). `${` would begin an interpolation.
    """
    text = str(value)
    if (
        _PLAIN.fullmatch(text)
        and text.lower() not in ("null", "true", "false", "nan", "inf")
        and not _is_number(text)
    ):
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"'{text}'"


def setting(key: str, value: object) -> str:
    """Return `KEY=VALUE`, or `KEY=[VALUE, ...]`, as the user types it in a shell: quoted for Hydra,
    and around that for the shell."""
    text = (
        f"[{', '.join(map(hydra_value, value))}]" if isinstance(value, list) else hydra_value(value)
    )
    word = f"{key}={text}"
    # Around Hydra's single quotes, double quotes are easier to read. They are safe where the text
    # has no character that the shell would interpret.
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)


def resume(run: Path) -> str:
    """Return the command that resumes a run."""
    return f"mtl train {setting('resume', run)}"


def start_again(run: Path) -> str:
    """Return the settings that start a run again in the folder of a run that has saved nothing."""
    return f"{setting('run_dir', run)} resume=auto"


def evaluate(path: Path) -> str:
    """Return the command that evaluates a run or a checkpoint."""
    return f"mtl eval {typed(path)}"


def experiment(folder: Path, name: str) -> str:
    """Return the command that trains an experiment of a folder of the user's."""
    return f"mtl train -cd {typed(folder)} experiment={name}"


def copy(file: Path, to: Path) -> str:
    """Return the command that copies a file into a folder that may not be there yet."""
    return f"install -D -m 644 {typed(file)} {typed(to)}"


def predict(path: Path) -> str:
    """Return the beginning of the command that predicts with a run or a checkpoint."""
    return f"mtl predict {typed(path)}"


def push(path: Path) -> str:
    """Return the command that uploads an exported folder."""
    return f"mtl push {typed(path)} --to OWNER/NAME"


def typed(path: Path) -> str:
    """Return a path as it is typed."""
    # `mtl` would take a path that begins with a dash for an option.
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _is_number(text: str) -> bool:
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True
