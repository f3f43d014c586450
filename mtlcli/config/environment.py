"""What configurations have read from the environment, so that none of it lands in a file.

A run folder is passed on, and such values are often secrets. config.yaml keeps the text that asked for a value; whatever else
is written and may hold a value (a path in a message, in the log, in a list of files) goes through `hide`.
"""

from __future__ import annotations

import os

_read: dict[str, str] = {}


def note(name: str) -> None:
    """Remember that a configuration has read an environment variable."""
    value = os.environ.get(name, "")
    # Short words and numbers stand in files for other reasons, and keep no secret.
    if len(value) >= (8 if value.replace(".", "").isdigit() else 4):
        _read[name] = value


def hide(text: str) -> str:
    """The text with `${oc.env:NAME}` in place of every value that was read."""
    for name, value in sorted(_read.items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"${{oc.env:{name}}}")
    return text
