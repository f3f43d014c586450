"""Metrics of written texts: BLEU and chrF by sacrebleu, ROUGE by rouge-score, and exact match. The
inputs are one text and one reference for each row. All scores are fractions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from mtlcli.metrics import metric

EXTRA = "generation"
"""The extra of the package that these metrics need."""


def _signed(kind: str, **options: Any) -> str:
    """Return sacrebleu's signature of a metric with one reference."""
    scorer = _scorer(kind, **options)
    scorer.corpus_score(["a"], [["a"]])
    return str(scorer.get_signature())


def _scorer(kind: str, **options: Any) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, kind)(**options)


def _bleu_signature(lowercase: str = "") -> str:
    return _signed("BLEU", lowercase=bool(lowercase))


@metric("bleu_lc", "seq2seq", packages=("sacrebleu",), signature=_bleu_signature, lowercase="lower")
@metric("bleu", "seq2seq", packages=("sacrebleu",), signature=_bleu_signature)
def bleu(
    predictions: Sequence[str], references: Sequence[str], lowercase: str = ""
) -> dict[str, float]:
    """Return the BLEU of a corpus, 0 to 1 (Papineni et al. 2002; sacrebleu, Post 2018, with its
    defaults). `lowercase`: not empty to compare texts in lower case, as `bleu_lc`."""
    scorer = _scorer("BLEU", lowercase=bool(lowercase))
    found = scorer.corpus_score(list(predictions), [list(references)]).score / 100
    return {"bleu_lc" if lowercase else "bleu": found}


@metric("chrf", "seq2seq", packages=("sacrebleu",), signature=lambda: _signed("CHRF"))
def chrf(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the chrF2 of a corpus, 0 to 1 (Popovic 2015; sacrebleu with its defaults)."""
    scorer = _scorer("CHRF")
    return {"chrf": scorer.corpus_score(list(predictions), [list(references)]).score / 100}


ROUGE = ("rouge1", "rouge2", "rougeL")


@metric(
    "rouge",
    "seq2seq",
    keys=ROUGE,
    packages=("rouge_score",),
    signature=lambda: f"rouge-score:{version('rouge-score')}|stemmer:yes|mean of F1",
)
def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1 (Lin 2004), with Porter's stemmer,
    as papers on summaries report it."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    rows = [
        scorer.score(reference, prediction)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {key: sum(row[key].fmeasure for row in rows) / len(rows) for key in ROUGE}


@metric("exact_match", "seq2seq")
def exact_match(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the share of texts that are their reference, 0 to 1, but for white space around
    them."""
    same = sum(
        prediction.strip() == reference.strip()
        for prediction, reference in zip(predictions, references, strict=True)
    )
    return {"exact_match": same / len(references)}
