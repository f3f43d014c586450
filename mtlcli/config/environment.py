"""The values that configurations have read from environment variables, kept out of all files.

Run folders are passed on, and such values are often secrets. config.yaml keeps the text that refers
to a value; all other output that may contain one (a path in a message, in the log, in a list of
files) passes through `hide`.
"""

from __future__ import annotations

import os
import re
from typing import Any

from mtlcli.errors import Problem

TOKEN = re.compile(
    r"\b(hf_|gh[opsu]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{20,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
"""The pattern of tokens of the hub and other services, and of a user with a password in a URL."""
_read: dict[str, str] = {}


def note(name: str) -> None:
    """Record that a configuration has read an environment variable."""
    value = os.environ.get(name, "")
    # Short words and numbers occur in files for other reasons, and are not secrets.
    if len(value) >= (8 if value.replace(".", "").isdigit() else 4):
        _read[name] = value


def hide(text: str) -> str:
    """Return the text with `${oc.env:NAME}` instead of every value that was read, and `***` instead
    of everything that looks like a token."""
    text = TOKEN.sub("***", text)
    for name, value in sorted(_read.items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def typed_tokens(values: Any, where: str = "") -> list[Problem]:
    """Return a problem for each nested value that contains something like a token, which
    config.yaml and environment.json would reveal."""
    if isinstance(values, dict):
        return [
            problem
            for key, inner in values.items()
            for problem in typed_tokens(inner, f"{where}.{key}" if where else str(key))
        ]
    if isinstance(values, list):
        return [problem for inner in values for problem in typed_tokens(inner, where)]
    if not isinstance(values, str) or TOKEN.search(values) is None:
        return []
    what = "holds what looks like a token or a password, which would be saved with the run"
    fix = (
        f"put it into an environment variable and type '{where}=${{oc.env:NAME}}'; the hub "
        "itself reads HF_TOKEN"
    )
    return [Problem(what, where, fix)]
