"""What a column of answers may hold, as the hub and files of users write answers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtlcli.data.table import as_numpy
from mtlcli.tasks.checks import in_words, is_list, is_text


def is_id(kind: pa.DataType) -> bool:
    """Return whether a column type holds ids, or only nulls."""
    return bool(is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def holds_answers(kind: pa.DataType) -> bool:
    """Return whether a column type is a struct of a list of texts and a list of numbers, or a list
    of structs of a text and a number, or of texts alone."""
    if holds_texts(kind):
        return True
    in_list = is_list(kind)
    kind = kind.value_type if in_list else kind
    if not pa.types.is_struct(kind) or {"text", "answer_start"} - {field.name for field in kind}:
        return bool(in_list and pa.types.is_null(kind))
    text, start = kind.field("text").type, kind.field("answer_start").type
    if not in_list:
        if not (is_list(text) and is_list(start)):
            return False
        text, start = text.value_type, start.value_type
    number = pa.types.is_integer(start) or pa.types.is_floating(start) or pa.types.is_null(start)
    return (is_text(text) or pa.types.is_null(text)) and number


def holds_texts(kind: pa.DataType) -> bool:
    """Return whether a column type holds lists of texts."""
    return is_list(kind) and is_text(kind.value_type)


def first_place(text: str | None, context: str | None) -> int | None:
    """Return where the context first has a text as whole words, or else at all; -1 if it has it
    nowhere."""
    if not text or not context:
        return None
    found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", context)
    return found.start() if found else context.find(text)


def odd_part(kind: pa.DataType) -> str | None:
    """Return the fault of a column of answers that has the right names but a wrong type inside;
    None where the fault is another one."""
    inner = kind.value_type if is_list(kind) else kind
    if not pa.types.is_struct(inner) or {"text", "answer_start"} - {field.name for field in inner}:
        return None
    for name, wanted in (("answer_start", "whole numbers"), ("text", "texts")):
        part = inner.field(name).type
        if not is_list(kind) and not is_list(part):
            return f"one {name}, where a list is needed, also of one"
        part = part if is_list(kind) else part.value_type
        fits = (
            is_text(part)
            if name == "text"
            else pa.types.is_integer(part) or pa.types.is_floating(part)
        )
        if not fits and not pa.types.is_null(part):
            return f"{in_words(part)} in {name}, where {wanted} are needed"
    return None


def _is_usual(kind: pa.DataType) -> bool:
    """Return whether answers are a struct of lists whose starts are whole numbers, as on the
    hub."""
    return bool(
        pa.types.is_struct(kind) and pa.types.is_integer(kind.field("answer_start").type.value_type)
    )


def all_sound(contexts: list[str], answers: pa.ChunkedArray, *, needed: bool) -> bool:
    """Return whether every answer is at its place in the context. This handles the usual case
    without a Python object for every row, which takes ten times longer; False also means that the
    rows must be checked one by one."""
    if not _is_usual(answers.type):
        return False
    texts, starts = (pc.struct_field(answers, name) for name in ("text", "answer_start"))
    if answers.null_count or texts.null_count or starts.null_count:
        return False
    counts = pc.list_value_length(texts)
    if not counts.equals(pc.list_value_length(starts)) or (needed and pc.min(counts).as_py() == 0):
        return False
    rows = np.repeat(np.arange(len(contexts)), as_numpy(counts)).tolist()
    flat = zip(
        rows, pc.list_flatten(texts).to_pylist(), pc.list_flatten(starts).to_pylist(), strict=True
    )
    return all(
        text and start is not None and start >= 0 and contexts[row].startswith(text, start)
        for row, text, start in flat
    )


def lists(answers: Any) -> tuple[list[Any], list[Any]]:
    """Return the texts and the starts of the answers of one row. Starts such as 27.0, which pandas
    makes, become whole numbers."""
    if isinstance(answers, list):
        answers = {
            key: [answer and answer[key] for answer in answers] for key in ("text", "answer_start")
        }
    texts, starts = ((answers or {}).get(key) or [] for key in ("text", "answer_start"))
    whole = [
        int(start) if isinstance(start, float) and start.is_integer() else start for start in starts
    ]
    return texts, whole
