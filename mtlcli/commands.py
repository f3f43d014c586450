"""Commands as messages show them: quoted so that they can be pasted, whatever characters a path
has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_/.+-]*[A-Za-z0-9_/.]")
"""Values that Hydra's grammar reads as they stand."""


def hydra_value(value: object) -> str:
    """A text as Hydra's grammar reads it back: quoted if it needs to be.

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
    """`KEY=VALUE`, or `KEY=[VALUE, ...]`, as it is typed in a shell: quoted for Hydra, and around
    that for the shell."""
    text = (
        f"[{', '.join(map(hydra_value, value))}]" if isinstance(value, list) else hydra_value(value)
    )
    word = f"{key}={text}"
    # Double quotes read better around Hydra's single ones, where the shell takes them literally.
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)


def resume(run: Path) -> str:
    """The command that goes on with a run."""
    return f"mtl train {setting('resume', run)}"


def start_again(run: Path) -> str:
    """The settings that begin a run anew in the folder of one that saved nothing."""
    return f"{setting('run_dir', run)} resume=auto"


def evaluate(path: Path) -> str:
    """The command that evaluates a run or a checkpoint."""
    # A name that begins with a dash would be taken for an option.
    return f"mtl eval {shlex.quote(f'./{path}' if str(path).startswith('-') else str(path))}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True
