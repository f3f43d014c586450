"""The guess of a task from a table of rows: its type, which column has which role, and its labels.

Nothing is asked and nothing is certain: every part of a guess comes with its reason, and what else
it could be is named too, so that the user can correct it in the file that `mtl new` writes.
"""

from __future__ import annotations

from mtlcli.config import task_types
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.prepare.guess.base import Guess
from mtlcli.prepare.guess.profile import Profile, profiles
from mtlcli.prepare.guess.refusals import refuse_classes, refuse_forms, refuse_options
from mtlcli.prepare.guess.structured import STRUCTURED
from mtlcli.prepare.guess.texts import plain_text, text_task
from mtlcli.prepare.guess.writing import ranking, scored_pairs, writing

__all__ = ["Guess", "guess_task"]


def guess_task(table: Table) -> Guess:
    """Return the most likely task of a table. Raises UserError when no column can be its text, or
    none its label, or when a column must be written in another form first."""
    found = [each for each in profiles(table) if each.kind != "empty"]
    guesses = (
        guess
        for rule in (ranking, scored_pairs, *STRUCTURED, text_task, writing, plain_text)
        if (guess := rule(found, table)) is not None and guess.type in task_types
    )
    guess = next(guesses, None)
    if guess is None or guess.type not in ("choice", "ranking", "span", "tagging"):
        refuse_options(found, table)
    refuse_forms(guess, found, table)
    refuse_classes(guess, found, table)
    if guess is not None:
        return guess
    named = "; ".join(f"{each.name} ({_in_words(each)})" for each in found) or "none with values"
    what = f"no task can be guessed from its columns: {named}"
    nested = [each.name for each in found if each.kind == "object"]
    fix = "a task needs a column of texts, and one of labels, scores or tags for them"
    if nested:
        fix += f"; write what is inside '{nested[0]}' as columns of its own"
    raise UserError(what, table.origin, fix)


def _in_words(column: Profile) -> str:
    return {
        "text": "text",
        "whole": "whole numbers",
        "number": "numbers",
        "truth": "true and false",
        "date": "dates",
        "address": "addresses",
        "texts": "lists of texts",
        "wholes": "lists of numbers",
        "object": "objects",
    }.get(column.kind, "other values")
