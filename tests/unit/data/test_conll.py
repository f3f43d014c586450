"""Files with a word on each line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlcli.data.read import read_file
from mtlcli.errors import UserError

CONLLU = """\
# sent_id = one
# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\tVB\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
3.1\tit\tit\tPRON\tPRP\t_\t_\t_\t_\t_

# sent_id = two
1\t#\t#\tSYM\tNFP\t_\t0\troot\t_\t_
"""
CONLL = """\
-DOCSTART- -X- O O

EU NNP B-NP B-ORG
rejects VBZ B-VP O


[ ( O O
"""


def test_conllu_gives_syntactic_words_and_the_ids_of_sentences(tmp_path: Path) -> None:
    file = tmp_path / "a.conllu"
    file.write_text(CONLLU)
    table = read_file(file, "train", ["tokens", "upos"])
    assert table.column("tokens") == [["do", "n't", "go"], ["#"]]
    assert table.column("upos") == [["AUX", "PART", "VERB"], ["SYM"]]
    assert table.column("idx") == ["one", "two"]
    assert table.where(1).endswith("line 10")
    assert {"lemmas", "deprel"} <= set(table.all_names)


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_conll_names_its_first_and_last_field(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "a.conll"
    file.write_bytes(b"\xef\xbb\xbf" + CONLL.replace(" ", separator).replace("\n", "\r\n").encode())
    table = read_file(file, "train")
    assert table.rows.column_names == ["tokens", "column2", "column3", "tags"]
    assert table.column("tokens") == [["EU", "rejects"], ["["]]
    assert table.column("tags") == [["B-ORG", "O"], ["O"]]


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("a.conll", "a O\nb\nc X\nd\n", "line 2", "has 1 field, the first word 2 (and 1 more"),
        ("a.conllu", "1 a a X X _ 0 root _ _\n", "line 1", "has 1 field, a word of CoNLL-U 10"),
        ("a.conllu", "# text = nothing\n\n", "a.conllu", "the file has no words"),
    ],
)
def test_faults_have_a_line(tmp_path: Path, name: str, text: str, where: str, what: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_file(file, "train")
    assert where in error.value.problems[0].where and what in error.value.problems[0].what
