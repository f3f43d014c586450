"""The guess of tasks that show in the form of their columns: lists of words and tags, answers with
their places, lists of labels, options to choose from, texts to write."""

from __future__ import annotations

import re

from mtlcli.data.table import Table
from mtlcli.prepare.guess.base import Guess, is_id
from mtlcli.prepare.guess.profile import Profile
from mtlcli.prepare.guess.texts import is_named_label

TAG_NAMES = ("ner_tags", "ner", "tags", "upos", "pos_tags", "pos", "labels", "label")
"""Usual names of columns of tags, the likeliest first."""
MOST_TAGS = 200
"""Number of different tags up to which a column is taken for tags."""


def tagging(columns: list[Profile], table: Table) -> Guess | None:
    """Return a tagging task where a column has a list of words and another as many tags."""
    lists = [each for each in columns if each.kind in ("texts", "wholes")]
    texts = [each for each in lists if each.kind == "texts"]
    if not texts or len(lists) < 2:
        return None
    named = [each for each in texts if each.name in ("tokens", "words")]
    words = named[0] if named else max(texts, key=lambda each: each.distinct)
    lengths = [len(value) for value in words.values]
    tags = [
        each
        for each in lists
        if each is not words
        and [len(value) for value in each.values] == lengths
        and 1 < each.distinct <= MOST_TAGS
    ]
    if not tags:
        return None
    usual = [each for name in TAG_NAMES for each in tags if each.name == name]
    tag = (usual or sorted(tags, key=lambda each: each.distinct))[0]
    why = f"{words.name} and {tag.name} are lists of equal length: {tag.distinct} tags"
    labels = table.class_names(tag.name)
    if labels is None and tag.kind == "texts":
        labels = sorted(str(each) for each in tag.counts)
    return Guess(
        "tagging",
        {"words": words.name, "label": tag.name},
        why,
        {
            "words": f"{words.length:.0f} words in a row on average",
            "label": f"for example {tag.examples}",
        },
        labels=labels,
        others={"label": [each.name for each in tags if each is not tag]},
    )


def span(columns: list[Profile], table: Table) -> Guess | None:
    """Return a span task where a column has answers with their places, as in SQuAD."""
    answers = [
        each
        for each in columns
        if each.kind == "object"
        and all({"text", "answer_start"} <= set(row) for row in each.values)
    ]
    texts = [each for each in columns if each.kind == "text" and each.words >= 1.5]
    if not answers or len(texts) < 2:
        return None
    context = max(texts, key=lambda each: each.length)
    rest = [each for each in texts if each is not context]
    asking = [each for each in rest if each.name.casefold() in ("question", "query", "frage")]
    marks = sorted(rest, key=lambda each: sum("?" in str(value) for value in each.values))
    question = (asking or marks[::-1])[0]
    ids = [each for each in columns if is_id(each)]
    empty = sum(not row["text"] for row in answers[0].values)
    guess = Guess(
        "span",
        {
            "id": ids[0].name if ids else "id",
            "question": question.name,
            "context": context.name,
            "answers": answers[0].name,
        },
        f"{answers[0].name} holds answers and where they start, as in SQuAD",
        {"context": "the longest texts", "question": "the texts that ask"},
    )
    if not ids:
        guess.reasons["id"] = "NO COLUMN NUMBERS THE QUESTIONS: add one"
    if empty:
        guess.settings["no_answer"] = True
        guess.reasons["no_answer"] = f"{empty:,} questions have no answer"
    return guess


def multilabel(columns: list[Profile], table: Table) -> Guess | None:
    """Return a multilabel task where a column has lists of labels, texts that join labels, or
    several columns hold 0 and 1."""
    texts = [
        each for each in columns if each.kind == "text" and not is_id(each) and each.words >= 2
    ]
    flags = [
        each
        for each in columns
        if each.kind in ("whole", "truth")
        and {str(value).casefold() for value in each.counts} <= {"0", "1", "true", "false"}
    ]
    if not texts:
        return None
    text = max(texts, key=lambda each: each.length)
    joined = {
        each.name: found
        for each in columns
        if each is not text and (found := _joined(each)) is not None
    }
    named = [each for each in columns if is_named_label(each) and each not in flags]
    if any(each.name not in joined for each in named):
        return None
    lists = [
        each
        for each in columns
        if each.kind in ("texts", "wholes")
        and 1 < each.distinct <= max(5, min(MOST_TAGS, len(each.values) // 2))
    ]
    reasons = {"text": f"texts of {text.words:.0f} words on average"}
    if lists and not named:
        label = lists[0]
        labels = table.class_names(label.name)
        if labels is None and label.kind == "texts":
            labels = sorted(map(str, label.counts))
        reasons["label"] = f"lists, for example of {label.examples}"
        columns_of = {"text": text.name, "label": label.name}
        why = f"{label.name} holds lists of labels: {label.distinct} different ones"
        return Guess("multilabel", columns_of, why, reasons, labels=labels)
    if len(flags) >= 3 and not named:
        names = [each.name for each in flags]
        reasons["label"] = "a column of 0 and 1 for each label"
        why = f"{', '.join(names[:5])} hold 0 and 1: one column for each label"
        return Guess("multilabel", {"text": text.name, "label": names}, why, reasons)
    for each in named or columns:
        if each.name in joined:
            separator, parts = joined[each.name]
            if each.missing:
                reasons["unlabelled"] = f"{each.missing:,} rows have no {each.name}"
            reasons["label"] = f"labels joined by {separator!r}, for example {each.examples}"
            return Guess(
                "multilabel",
                {"text": text.name, "label": each.name},
                f"{each.name} joins {len(parts)} labels by {separator!r}",
                reasons,
                labels=sorted(parts),
                settings={
                    "separator": separator,
                    **({"unlabelled": "skip"} if each.missing else {}),
                },
                types=["type: classification   # if each text has one label: then no separator"],
            )
    return None


def _joined(column: Profile) -> tuple[str, set[str]] | None:
    """Return what stands between the labels in a column of text, and the labels; None where the
    column does not join labels."""
    if column.kind != "text" or column.length > 80:
        return None
    for separator in (";", "|", ","):
        rows = [[part.strip() for part in str(value).split(separator)] for value in column.values]
        parts = [part for row in rows for part in row if part]
        several = sum(len(row) > 1 for row in rows)
        repeated = len(set(parts)) <= max(3, len(parts) // 4)
        # A comma stands in names of classes, too: there the labels must be in several combinations.
        repeated &= separator != "," or len(set(parts)) < column.distinct
        repeated &= column.distinct > 1
        if several >= max(2, len(rows) // 20) and repeated and max(map(len, parts)) <= 40:
            return separator, set(parts)
    return None


def choice(columns: list[Profile], table: Table) -> Guess | None:
    """Return a multiple-choice task where the options of each row are a list or several columns,
    and another column tells the right one."""
    label = next(
        (
            each
            for each in columns
            if each.distinct > 1
            and not is_id(each)
            and all(re.fullmatch(r"[0-9]|[A-Fa-f]", str(value).strip()) for value in each.values)
            and re.fullmatch(r"(?i)label|answer|gold|correct|target|answer_?key|right", each.name)
        ),
        None,
    )
    texts = [each for each in columns if each.kind == "text" and each is not label]
    options: str | list[str] | None = next(
        (
            each.name
            for each in columns
            if each.kind == "texts"
            and re.search(r"(?i)option|choice|ending|answers|candidates", each.name)
        ),
        None,
    )
    options = options or _options_in_object(columns)
    numbered = [each for each in texts if re.fullmatch(r"\D*(\d|[A-Ea-e])", each.name)]
    stems: dict[str, list[str]] = {}
    for each in numbered:
        stems.setdefault(each.name[:-1].rstrip("_").casefold(), []).append(each.name)
    for stem, names in stems.items():
        if len(names) >= 2 and re.search(r"option|choice|ending|answer|^opt$|^$|candidate", stem):
            options = options or sorted(names)
    rest = [each for each in texts if each.name not in (options or []) and not is_id(each)]
    if label is None or options is None or not rest:
        return None
    context = max(rest, key=lambda each: each.length)
    asking = [
        each
        for each in rest
        if each is not context and re.fullmatch(r"(?i)question|query|frage", each.name)
    ]
    found: dict[str, str | list[str]] = {"context": context.name}
    if asking:
        found["question"] = asking[0].name
    found |= {"options": options, "label": label.name}
    reasons = {"label": f"the right option, for example {label.examples}"}
    guess = Guess("choice", found, "each row has options and the right one of them", reasons)
    count = len(options) if isinstance(options, list) else None
    if isinstance(options, str) and options.endswith(".text"):
        reasons["options"] = "the texts of an object, in the order of their labels"
    numbers = {int(value) for value in label.counts if str(value).strip().isdigit()}
    if numbers and 0 not in numbers and (count is None or max(numbers) == count):
        guess.settings["first_option"] = 1
        guess.reasons["first_option"] = "the numbers of the options begin with 1"
    return guess


def _options_in_object(columns: list[Profile]) -> str | None:
    """Return the place of options in objects of texts and labels (`choices: {text, label}`, as in
    ARC) whose labels are A, B, C ... in each row; None where there are none."""
    for each in columns:
        if each.kind == "object" and all(
            isinstance(texts := row.get("text"), list)
            and len(texts) > 1
            and row.get("label") == [chr(ord("A") + place) for place in range(len(texts))]
            for row in each.values
        ):
            return f"{each.name}.text"
    return None


STRUCTURED = [span, tagging, choice, multilabel]
"""The rules in the order in which they are asked."""
