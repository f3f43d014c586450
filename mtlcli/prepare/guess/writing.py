"""The guess of tasks whose answer is a text, or an order of texts."""

from __future__ import annotations

import re

from mtlcli.data.table import Table
from mtlcli.prepare.guess.base import Guess, is_id
from mtlcli.prepare.guess.profile import Profile

TARGETS = re.compile(
    r"(?i)summary|summaries|highlights|abstract|target|tgt|translation|response|reply|output|"
    r"completion|answer|headline|title|paraphrase"
)

QUERY_IDS = re.compile(r"(?i)(q|query|question|search|topic)[ _-]?(id|no|nr|number)?")
RELEVANCES = re.compile(r"(?i)(relevance|relevant|relevancy|rel|label|score|grade|rating|judg.*)")


def ranking(columns: list[Profile], table: Table) -> Guess | None:
    """Return a ranking task where a query has a list of texts and a list of as many numbers."""
    queries = [each for each in columns if each.kind == "text" and each.words >= 1.5]
    for texts in (each for each in columns if each.kind == "texts" and each.length > 1):
        lengths = [len(value) for value in texts.values]
        for label in (each for each in columns if each.kind == "wholes"):
            long = sum(len(str(each).split()) for each in texts.counts) >= 2 * texts.distinct
            if queries and long and [len(value) for value in label.values] == lengths:
                return Guess(
                    "ranking",
                    {"query": queries[0].name, "candidates": texts.name, "label": label.name},
                    f"{texts.name} and {label.name} are a list of texts and one of numbers",
                    {"label": f"for example {label.examples}"},
                )
    return None


def scored_pairs(columns: list[Profile], table: Table) -> Guess | None:
    """Return a ranking task where a column names the query of each row, in blocks of rows with the
    same query and another text, and a column holds relevances."""
    full = [each for each in columns if not each.missing]
    texts = [each for each in full if each.kind == "text" and each.words >= 1.5]
    labels = [
        each
        for each in full
        if each.kind in ("whole", "number")
        and each.distinct > 1
        and not each.commas
        and min(each.numbers) >= 0
        and RELEVANCES.fullmatch(each.name)
    ]
    for ids in full:
        rows = len(ids.values)
        if not QUERY_IDS.fullmatch(ids.name) or not 1 < ids.distinct <= rows // 2:
            continue
        blocks = 1 + sum(one != two for one, two in zip(ids.values, ids.values[1:]))
        queries = [
            each
            for each in texts
            if each is not ids
            and len(set(zip(ids.values, each.values, strict=True))) == ids.distinct
        ]
        documents = [each for each in texts if each not in queries and each.distinct > ids.distinct]
        if blocks == ids.distinct and queries and documents and labels:
            document = max(documents, key=lambda each: each.length)
            return Guess(
                "ranking",
                {
                    "query": queries[0].name,
                    "candidates": document.name,
                    "label": labels[0].name,
                    "query_id": ids.name,
                },
                f"the {ids.distinct:,} values of {ids.name} stand in blocks of rows with the same "
                f"{queries[0].name}",
                {
                    "label": f"the relevance, for example {labels[0].examples}",
                    "candidates": "one text in each row",
                    "query_id": "the rows of a query, which are held out together",
                },
                group=ids.name,
                types=[
                    "type: regression   # if each pair has a score of its own: then "
                    "columns: text, text_pair, label"
                ],
            )
    return None


def writing(columns: list[Profile], table: Table) -> Guess | None:
    """Return a seq2seq task where texts stand beside one another and nothing could be their label:
    in an object of languages, or in two columns."""
    for each in columns:
        keys = list(each.values[0]) if each.kind == "object" else []
        if len(keys) >= 2 and all(
            list(row) == keys and all(isinstance(text, str) for text in row.values())
            for row in each.values
        ):
            source, target = (f"{each.name}.{key}" for key in keys[:2])
            why = f"{each.name} holds the same text in {', '.join(keys)}"
            return Guess("seq2seq", {"text": source, "target": target}, why)
    texts = [
        each for each in columns if each.kind == "text" and not is_id(each) and each.words >= 1.5
    ]
    if len(texts) < 2:
        return None
    named = [each for each in texts if TARGETS.fullmatch(each.name)]
    target = (named or texts[1:])[0].name
    source = max((each for each in texts if each.name != target), key=lambda each: each.length).name
    why = f"{source} and {target} hold texts, and no column can be their label"
    return Guess("seq2seq", {"text": source, "target": target}, why)
