"""The guess of a task on texts or pairs of texts with one label or score each."""

from __future__ import annotations

import re
from pathlib import Path

from mtlcli.config.formats import ending
from mtlcli.data.table import Table
from mtlcli.prepare.guess.base import Guess, is_id
from mtlcli.prepare.guess.profile import Profile

MOST_CLASSES = 20
"""Number of different whole numbers up to which they are taken for classes, not scores."""
MOST_NAMES = 200
"""Number of different short texts up to which they are taken for classes."""
LISTED = 50
"""Number of classes up to which the file lists them."""
LABEL_NAMES = re.compile(
    r"(?i)(label|labels|target|class|classe|clase|klasse|category|categorie|kategorie|categoria|"
    r"sentiment|stars?|sterne|rating|ratings|score|scores|y|gold|tag|topic|intent|emotion|"
    r"polarity|verdict|stance|bewertung|note|etikett|etiqueta|bewertungspunkte|punkte|grade|"
    r"quality|similarity|relatedness|is_.*|toxic|spam|language|lang|answer|outcome|result)"
)
TEXT_NAMES = re.compile(
    r"(?i)(text|texte|texto|sentence|satz|review|comment|kommentar|content|body|message|nachricht|"
    r"tweet|post|document|utterance|description|abstract|question|query|title|headline|premise)"
)
MARKED = re.compile(r"(?s)<e1>.*</e1>.*<e2>.*</e2>|<e2>.*</e2>.*<e1>.*</e1>")
"""A text in which marks stand around two entities."""
PAIRS = (
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "text"),
    ("headline", "body"),
    ("claim", "evidence"),
    ("source", "target"),
    ("anchor", "positive"),
    ("left", "right"),
    ("first", "second"),
)
SIDES = (("1", "2"), ("a", "b"), ("A", "B"), ("_x", "_y"))


def text_task(columns: list[Profile], table: Table) -> Guess | None:
    """Return a classification or regression of texts; None where the table has no texts, or no
    label for them."""
    texts = sorted(filter(_is_text, columns), key=_likely_text, reverse=True)
    labels = [each for each in columns if can_be_label(each)]
    # Where nothing else tells, the label is the last column.
    label = max(
        labels,
        key=lambda each: _likely_label(each) + columns.index(each) / len(columns),
        default=None,
    )
    texts = [each for each in texts if each is not label]
    if label is None or not texts:
        return None
    guess = _of_label(label)
    # Names that the file itself gives to its numbers are the classes.
    guess.labels = table.class_names(label.name) or guess.labels
    first, second, why = _pair(texts)
    guess.columns = {
        "text": first.name,
        **({"text_pair": second.name} if second else {}),
        "label": label.name,
    }
    if guess.type == "classification" and all(MARKED.search(str(value)) for value in first.values):
        guess.type, second = "relation", None
        guess.columns = {"text": first.name, "label": label.name}
        guess.why = f"{first.name} marks two entities, and {guess.why}"
    guess.reasons["text"] = f"texts of {first.words:.0f} words on average" if not second else why
    others = [each.name for each in labels if each is not label]
    guess.others["label"] = others
    rest = [each.name for each in texts if each not in (first, second)]
    if rest and second is None:
        guess.others["text_pair"] = rest
    elif rest:
        guess.others["text"] = rest
    if label.missing:
        guess.settings["unlabelled"] = "skip"
        guess.reasons["unlabelled"] = f"{label.missing:,} rows have no {label.name}"
    return guess


def plain_text(columns: list[Profile], table: Table) -> Guess | None:
    """Return a task of masked language modelling where a file has texts and nothing else. A csv or
    tsv file with a single column is more likely damaged."""
    file = Path(table.files[0][1] if table.files else table.origin)
    if ending(file).startswith(("csv", "tsv")) or len(columns) != 1:
        return None
    (text,) = columns
    if text.kind != "text" or is_id(text) or text.words < 1.5:
        return None
    guess = Guess("mlm", {"text": text.name}, "the file has texts and no labels")
    guess.reasons["text"] = f"texts of {text.words:.0f} words on average"
    guess.types = [
        "pieces: true       # a text that is too long becomes several inputs; else its end is cut",
        "whole_words: true  # hide all tokens of a word, or none",
    ]
    return guess


def _of_label(label: Profile) -> Guess:
    """Return a guess with the type, the labels and the reasons that follow from the column of
    labels."""
    if _is_score(label):
        low, high = min(label.numbers), max(label.numbers)
        why = f"{label.name} holds {label.distinct:,} different numbers, {low:g} to {high:g}"
        guess = Guess("regression", {}, why, {"label": f"numbers from {low:g} to {high:g}"})
        if label.commas:
            guess.settings["decimal_comma"] = True
            guess.reasons["decimal_comma"] = f"as in {label.examples.split(', ')[0]}"
        return guess
    names = _names(label)
    what = "different whole numbers" if label.kind == "whole" else "different values"
    why = f"{label.name} holds {label.distinct:,} {what} in {len(label.values):,} rows"
    guess = Guess("classification", {}, why, {"label": f"for example {label.examples}"})
    if len(names) <= LISTED:
        guess.labels = names
    if label.kind == "whole" and label.distinct > 2:
        guess.types = ["type: regression   # if the numbers are a scale: then without labels"]
    return guess


def _names(label: Profile) -> list[str]:
    """Return the classes in the order in which they are learned from the rows."""
    if label.kind == "truth" and all(isinstance(value, bool) for value in label.values):
        return ["false", "true"]
    if label.kind == "number":
        return sorted({str(value) for value in label.counts}, key=float)
    texts = {str(value) for value in label.counts}
    return sorted(texts, key=int if label.kind == "whole" else None)


def _is_score(column: Profile) -> bool:
    """Return whether a column holds scores rather than classes. A few numbers such as 1.0 and 2.0
    are classes: pandas writes whole numbers so where a row has none."""
    if column.kind == "number":
        return (
            column.distinct > MOST_CLASSES
            or any(each % 1 for each in column.numbers)
            or column.commas
        )
    return column.kind == "whole" and column.distinct > MOST_CLASSES


def can_be_label(column: Profile) -> bool:
    """Return whether a column can hold classes or scores: more than one value, and, unless they
    are scores, each of them in several rows."""
    if column.kind not in ("text", "whole", "number", "truth") or column.distinct < 2:
        return False
    if is_id(column):
        return False
    if _is_score(column):
        return True
    few = column.distinct <= max(5, len(column.values) // 2) and column.distinct <= MOST_NAMES
    return few and (column.kind != "text" or (column.length <= 60 and column.words <= 6))


def is_named_label(column: Profile) -> bool:
    """Return whether a column can hold classes or scores and is named like one that does."""
    return can_be_label(column) and bool(LABEL_NAMES.fullmatch(column.name.strip()))


def _likely_label(column: Profile) -> float:
    """Return how likely a column is the label, against others that can be."""
    named = 4.0 if LABEL_NAMES.fullmatch(column.name.strip()) else 0.0
    if not named and re.search(r"(?i)label|class|target|sentiment|score|rating", column.name):
        named = 2.0
    kind = {"text": 1.0, "truth": 1.0, "whole": 0.5, "number": 0.0}[column.kind]
    return named + kind - column.distinct / (len(column.values) + 1) - column.missing / column.rows


def _is_text(column: Profile) -> bool:
    """Return whether a column holds texts to read."""
    if column.kind != "text" or is_id(column):
        return False
    return column.words >= 2 or column.length >= 20 or bool(TEXT_NAMES.fullmatch(column.name))


def _likely_text(column: Profile) -> float:
    """Return how likely a column is the text, against others that can be."""
    various = column.distinct / max(len(column.values), 1)
    named = 1.0 if TEXT_NAMES.search(column.name) else 0.0
    return min(column.words, 50) / 25 + 2 * various + named


def _pair(texts: list[Profile]) -> tuple[Profile, Profile | None, str]:
    """Return the text, and the second text where two columns are a pair by their names or their
    lengths, and why."""
    by_name = {each.name.casefold(): each for each in texts}
    for one, two in PAIRS:
        if one in by_name and two in by_name:
            return by_name[one], by_name[two], f"{one} and {two} are a pair"
    for name, first in by_name.items():
        for one, two in SIDES:
            if name.endswith(one) and name.removesuffix(one) + two in by_name:
                second = by_name[name.removesuffix(one) + two]
                return first, second, f"{first.name} and {second.name} are a pair"
    first = texts[0]
    if len(texts) == 2 and max(each.length for each in texts) <= 2 * min(
        each.length for each in texts
    ):
        return texts[0], texts[1], "two columns of texts of like length"
    return first, None, ""
