"""Metrics of written texts, against the packages that they come from."""

from __future__ import annotations

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from mtlcli.metrics import absent_packages, compute, entry, signature

WRITTEN = ["The dogs are running home", "a cat sat", "", "Anna works as a nurse."]
GOLD = ["The dog runs home.", "A cat sat on the mat.", "Who is it?", "Anna works as a nurse."]


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    assert compute("bleu", WRITTEN, GOLD) == {
        "bleu": sacrebleu.corpus_bleu(WRITTEN, [GOLD]).score / 100
    }
    lower = sacrebleu.corpus_bleu(WRITTEN, [GOLD], lowercase=True).score / 100
    assert compute("bleu_lc", WRITTEN, GOLD) == {"bleu_lc": lower}
    assert lower > compute("bleu", WRITTEN, GOLD)["bleu"]
    assert compute("chrf", WRITTEN, GOLD) == {
        "chrf": sacrebleu.corpus_chrf(WRITTEN, [GOLD]).score / 100
    }
    version = f"version:{sacrebleu.__version__}"
    assert signature("bleu") == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert signature("bleu_lc") == f"nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|{version}"
    assert signature("accuracy") is None


def test_rouge_is_that_of_rouge_score() -> None:
    found = compute("rouge", WRITTEN, GOLD)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score(gold, text) for gold, text in zip(GOLD, WRITTEN, strict=True)]
    for key in ("rouge1", "rouge2", "rougeL"):
        assert found[key] == pytest.approx(sum(row[key].fmeasure for row in rows) / 4, abs=1e-12)
    assert found["rouge1"] > found["rouge2"] > 0


def test_exact_match() -> None:
    assert compute("exact_match", [" a b", "A b"], ["a b ", "a b"]) == {"exact_match": 0.5}


def test_packages_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert absent_packages("bleu") == []
    monkeypatch.setattr("mtlcli.metrics.find_spec", lambda name: None)
    assert absent_packages("bleu") == ["sacrebleu"]
    assert absent_packages("rouge") == ["rouge_score"]
    assert absent_packages("accuracy") == [] and entry("exact_match").signature is None
