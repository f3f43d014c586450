"""Columns that look like the part of a task and cannot be read as one: each is refused with what is
to be changed in the file, because a guess would train something else without a word."""

from __future__ import annotations

import re

from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.prepare.guess.base import Guess
from mtlcli.prepare.guess.profile import Profile
from mtlcli.prepare.guess.texts import can_be_label

OPTION_NAMES = re.compile(r"(?i).*(option|choice|ending|answers|candidates).*")
CLASS_NAMES = re.compile(
    r"(?i)(gold_?)?labels?|class|category|kategorie|klasse|sentiment|intent|emotion|stance|verdict"
)
LISTED = re.compile(r"(?s)\[\s*(['\"].*['\"])?\s*\]")
"""The text of a list of texts, as Python and JSON write it."""
TAG = re.compile(r"[BIESLU]-\S+|[A-Z]{1,6}\$?|[.,:;!?()'\"`-]+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
WHOLE = re.compile(r"[+-]?\d+")


def refuse_options(columns: list[Profile], table: Table) -> None:
    """Raise UserError if a column has options to choose from and another holds the text of the
    right one, or if options are in objects from which no task can read them."""
    for options in columns:
        if (
            options.kind == "object"
            and OPTION_NAMES.fullmatch(options.name)
            and all({"text", "label"} <= set(row) for row in options.values)
        ):
            raise UserError(
                f"'{options.name}' holds options as objects of texts and labels, and the right one "
                "of them cannot be told",
                table.origin,
                "let the labels of the options be A, B, C ... in each row, and the right one be "
                "such a letter in a column named answerKey or label",
            )
        if options.kind != "texts" or options.length < 2 or options.missing:
            continue
        for label in columns:
            if label.kind not in ("text", "whole", "number") or label.missing:
                continue
            pairs = list(zip(options.values, label.values, strict=True))
            there = sum(str(value).strip() in row for row, value in pairs)
            if there >= max(2, 0.9 * len(pairs)) and not _all_places(label):
                raise UserError(
                    f"'{label.name}' holds the text of one of the options in '{options.name}', "
                    f"as in {str(label.values[0])!r}; a choice task needs the number of the right "
                    "option",
                    table.origin,
                    "write the number in place of the text, 0 for the first option (in Python: "
                    f"row[{options.name!r}].index(row[{label.name!r}]))",
                )


def _all_places(label: Profile) -> bool:
    """Return whether the values may be numbers or letters of options."""
    return all(re.fullmatch(r"\d|[A-Za-z]", str(value).strip()) for value in label.values)


def refuse_forms(guess: Guess | None, columns: list[Profile], table: Table) -> None:
    """Raise UserError if a column that the guess uses, or any where there is no guess, holds lists,
    tags or numbers in a form that cannot be read."""
    used = [
        name
        for value in (guess.columns.values() if guess else [])
        for name in (value if isinstance(value, list) else [value])
    ]
    for each in columns:
        if guess is None or each.name in used:
            _refuse_lists(each, table)
            _refuse_tags(each, columns, table)
            _refuse_thousands(each, table)


def _refuse_lists(column: Profile, table: Table) -> None:
    texts = [str(each).strip() for each in column.values]
    if column.kind != "text" or not all(map(LISTED.fullmatch, texts)):
        return
    raise UserError(
        f"'{column.name}' holds lists written as text, as in {str(column.values[0])[:60]}",
        table.origin,
        "write labels with a separator between them (joy;love), or write the rows as jsonl, in "
        'which a list is a list: ["joy", "love"]',
    )


def _refuse_tags(column: Profile, columns: list[Profile], table: Table) -> None:
    """Raise UserError if a column has a tag for each word of another column."""
    if column.kind != "text" or column.words < 2 or column.missing:
        return
    rows = [str(each).split() for each in column.values]
    tags = {tag for row in rows for tag in row}
    if len(tags) > max(3, sum(map(len, rows)) // 4) or not all(map(TAG.fullmatch, tags)):
        return
    for words in columns:
        if words is column or words.kind != "text" or words.missing:
            continue
        if [len(str(each).split()) for each in words.values] == list(map(len, rows)):
            raise UserError(
                f"'{column.name}' holds a tag for each word of '{words.name}', as in "
                f"{str(column.values[0])[:60]!r}; tags cannot be read from such a column",
                table.origin,
                "write a .conll file (a word, a blank and its tag on each line, an empty line "
                "between sentences), or jsonl with two lists in each row",
            )


def _refuse_thousands(column: Profile, table: Table) -> None:
    """Raise UserError if a comma in numbers may stand before decimals or between thousands."""
    texts = [str(each).strip() for each in column.values]
    commas = [each for each in texts if "," in each]
    if column.kind not in ("text", "number") or not commas:
        return
    if not all(map(THOUSANDS.fullmatch, commas)):
        return
    if not all(WHOLE.fullmatch(each) for each in texts if "," not in each):
        return
    raise UserError(
        f"the numbers of '{column.name}' have three digits after each comma, as in {commas[0]}: "
        "thousands, or decimals",
        table.origin,
        "take the commas out if they stand between thousands; if they stand before decimals, "
        "write points",
    )


def refuse_classes(guess: Guess | None, columns: list[Profile], table: Table) -> None:
    """Raise UserError if a column is named like one of classes and its values cannot be classes,
    where the guess has another use for the rows, or where there is none."""
    if guess is not None and guess.type != "seq2seq":
        return
    for each in columns:
        if not CLASS_NAMES.fullmatch(each.name.strip()) or each.words >= 1.5:
            continue
        if each.kind in ("text", "whole", "truth") and each.distinct == 1:
            raise UserError(
                f"'{each.name}' holds one value only, {each.examples!r}",
                table.origin,
                "a task needs rows of at least two classes",
            )
        if each.kind == "text" and each.distinct > 1 and not can_be_label(each):
            raise UserError(
                f"'{each.name}' holds {each.distinct:,} different values in {each.rows:,} rows: "
                "too many to be classes",
                table.origin,
                "each class needs several rows: join rare classes, or add rows; or write the task "
                "file by hand, with type: classification and the columns",
            )
