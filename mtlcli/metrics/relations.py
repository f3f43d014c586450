"""Metrics of relations, which leave out the class that stands for no relation.

Predictions and references are class ids. `names`: the names of the classes by id. `none`: the name
of the class that is left out, or None.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtlcli.metrics import metric


@metric("relation_f1_micro", "relation")
def relation_f1_micro(
    predictions: Sequence[int],
    references: Sequence[int],
    names: Sequence[str] | None = None,
    none: str | None = None,
) -> dict[str, float]:
    """Return the F1 over all relations, 0 to 1, as TACRED's scorer computes it (Zhang et al. 2017):
    a prediction counts as right, too many or missed unless it is `none`."""
    left_out = _number(names, none)
    right = sum(
        found == wanted != left_out for found, wanted in zip(predictions, references, strict=True)
    )
    predicted = sum(found != left_out for found in predictions)
    wanted = sum(each != left_out for each in references)
    return {"relation_f1_micro": _f1(right, predicted, wanted)}


@metric("relation_f1_macro", "relation")
def relation_f1_macro(
    predictions: Sequence[int],
    references: Sequence[int],
    names: Sequence[str] | None = None,
    none: str | None = None,
) -> dict[str, float]:
    """Return the mean F1 of the relations other than `none`, 0 to 1, as the official scorer of
    SemEval-2010 task 8 computes it (Hendrickx et al. 2010): Cause-Effect(e1,e2) and
    Cause-Effect(e2,e1) are one relation, of which a prediction is right only if it has the right
    direction too."""
    left_out = _number(names, none)

    def relation(number: int) -> str:
        return str(number) if names is None else names[number].partition("(")[0]

    pairs = list(zip(predictions, references, strict=True))
    numbers = range(len(names)) if names is not None else sorted({*predictions, *references})
    relations = dict.fromkeys(relation(number) for number in numbers if number != left_out)
    scores = []
    for each in relations:
        right = sum(found == wanted and relation(wanted) == each for found, wanted in pairs)
        predicted = sum(relation(found) == each for found, _ in pairs)
        there = sum(relation(wanted) == each for _, wanted in pairs)
        scores.append(_f1(right, predicted, there))
    return {"relation_f1_macro": sum(scores) / len(scores) if scores else 0.0}


def _number(names: Sequence[str] | None, none: str | None) -> int:
    """Return the id of the class that is left out, -1 if there is none."""
    if names is None or none is None:
        return -1
    return list(names).index(none) if none in names else -1


def _f1(right: int, predicted: int, wanted: int) -> float:
    return 2 * right / (predicted + wanted) if right else 0.0
