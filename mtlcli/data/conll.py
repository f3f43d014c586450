"""Reading of files with a word on each line and an empty line after each sentence: CoNLL-U and the
older forms of CoNLL.

The package `conllu` and the loader of the datasets library are not used, since neither reports the
line of a faulty row, which every message needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mtlcli.data.delimited import text_lines
from mtlcli.data.table import ID_COLUMNS, others, text_array
from mtlcli.errors import UserError

CONLLU = ["id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]
"""The fields of CoNLL-U, with the names that they have on the hub. `id`, the number of the word, is
not kept."""
NOT_A_WORD = re.compile(r"[0-9]+[-.][0-9]+\t")
"""The beginning of a line of CoNLL-U that is no syntactic word: a range (`1-2`), an empty node."""
SENTENCE_ID = re.compile(r"#\s*sent_id\s*=\s*(.+)")
DOCUMENT = "-DOCSTART-"
"""The first field of the line that begins a document in CoNLL-2003."""

Word = tuple[int, list[str]]
"""The line number and the fields of a word."""


def conll(
    text: str, path: Path, columns: Sequence[str] | None, *, universal: bool
) -> tuple[pa.Table, list[int], list[str]]:
    """Return (columns of lists, number of the first line of each sentence, names of all columns).

    `universal`: the file is CoNLL-U. It has the columns of CONLLU, and `idx` from `# sent_id`;
    words that are split into syntactic words are left out, their parts are kept. In other files,
    fields are separated by tabs or blanks: the first is `tokens`, the last `tags`, those between
    are `column2`, `column3` and so on. `columns`: the columns that are needed; None means all.
    Raises UserError, with the line, for a word with more or fewer fields than the others.
    """
    sentences = list(_sentences(text, universal))
    if not sentences:
        raise UserError("the file has no words", str(path), "write rows into it, or name another")
    count = len(CONLLU) if universal else len(sentences[0][1][0][1])
    wrong = [word for _, words in sentences for word in words if len(word[1]) != count]
    if wrong:
        line, fields = wrong[0]
        more = others([number for number, _ in wrong], len(wrong))
        what = f"the line has {len(fields)} field{'s' if len(fields) != 1 else ''}"
        whole = "a word of CoNLL-U" if universal else "the first word"
        fix = "separate the fields by tabs" if universal else "give each word all fields"
        raise UserError(
            f"{what}, {whole} {count}{more}",
            f"{path}, line {line}",
            f"{fix}, and write an empty line after each sentence",
        )
    names = CONLLU if universal else _names(count)
    kept = {
        name: pa.array(
            [[fields[place] for _, fields in words] for _, words in sentences],
            pa.list_(pa.string()),
        )
        for place, name in enumerate(names)
        if (not universal or place) and (columns is None or name in columns)
    }
    if universal and any(number for number, _ in sentences):
        kept[ID_COLUMNS[1]] = text_array(number for number, _ in sentences)
    lines = [words[0][0] for _, words in sentences]
    return pa.table(kept), lines, names[1:] if universal else names


def _names(count: int) -> list[str]:
    """Return the names of the columns of a file whose words have `count` fields."""
    if count == 1:
        return ["tokens"]
    return ["tokens", *(f"column{place}" for place in range(2, count)), "tags"]


def _sentences(text: str, universal: bool) -> Iterator[tuple[str | None, list[Word]]]:
    """Yield the id, if there is one, and the words of each sentence."""
    number: str | None = None
    words: list[Word] = []
    for line, row in text_lines(text):
        if not row.strip():
            if words:
                yield number, words
            number, words = None, []
        elif universal and row.startswith("#"):
            found = SENTENCE_ID.match(row)
            number = found[1].strip() if found else number
        elif not (NOT_A_WORD.match(row) if universal else row.startswith(DOCUMENT)):
            words.append((line, row.split("\t" if universal or "\t" in row else None)))
    if words:
        yield number, words
