"""The chain of tags: likelihood and best sequence against all sequences, gradients, schemes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.features import NO_TARGET, Features
from mtlcli.distributed.process_group import Ranks
from mtlcli.evaluation.evaluate import outputs_of
from mtlcli.metrics.entities import entities
from mtlcli.tasks.base import Encoded
from mtlcli.tasks.tagging.crf import ChainHead, best_tags, chain_loss, forbidden
from mtlcli.tasks.tagging.task import Tagging
from tests.unit.tasks.test_tagging import encoder, table, task

TAGS = torch.tensor(
    [
        # Gaps before, between and after the words of a chain.
        [NO_TARGET, 1, NO_TARGET, NO_TARGET, 0, 2, NO_TARGET],
        [2, 1, 1, 0, 2, 0, 1],
        [NO_TARGET, NO_TARGET, NO_TARGET, 2, NO_TARGET, NO_TARGET, NO_TARGET],
        [NO_TARGET] * 7,
    ]
)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random scores that are the same in each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def score(emissions: Tensor, tags: tuple[int, ...], transitions: Tensor) -> Tensor:
    """The score of one sequence by its definition. emissions: (words, T)."""
    last = len(transitions) - 1
    path = [last, *tags, last]
    return sum(emissions[place, tag] for place, tag in enumerate(tags)) + sum(
        (transitions[one, other] for one, other in zip(path, path[1:], strict=False)),
        torch.zeros((), dtype=emissions.dtype),
    )


def every(emissions: Tensor, transitions: Tensor) -> dict[tuple[int, ...], Tensor]:
    """The scores of all sequences of tags for the words of one sentence."""
    sequences = product(range(emissions.shape[1]), repeat=len(emissions))
    return {tags: score(emissions, tags, transitions) for tags in sequences}


def test_the_likelihood_is_that_over_all_sequences() -> None:
    emissions, transitions = drawn(*TAGS.shape, 3), drawn(4, 4)
    wanted = torch.zeros((), dtype=torch.float64)
    for tags, scores in zip(TAGS, emissions, strict=True):
        words = tags != NO_TARGET
        if words.any():
            all_scores = every(scores[words], transitions)
            right = all_scores[tuple(tags[words].tolist())]
            wanted += torch.stack(list(all_scores.values())).logsumexp(0) - right
    found = chain_loss(emissions, TAGS, transitions)
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)
    # What stands at other places has no part in it, not even numbers that are not finite.
    emissions[TAGS == NO_TARGET] = torch.inf
    assert float(chain_loss(emissions, TAGS, transitions)) == float(found)


def test_without_transitions_the_loss_is_the_cross_entropy_of_words() -> None:
    emissions = drawn(*TAGS.shape, 3)
    wanted = torch.nn.functional.cross_entropy(
        emissions.flatten(0, 1), TAGS.flatten(), reduction="sum", ignore_index=NO_TARGET
    )
    found = chain_loss(emissions, TAGS, torch.zeros(4, 4, dtype=torch.float64))
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)


def test_the_gradients_are_those_of_the_loss() -> None:
    emissions, transitions = drawn(*TAGS.shape, 3).requires_grad_(), drawn(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda one, other: chain_loss(one, TAGS, other), (emissions, transitions)
    )
    # A batch without words, or of single words, still has a gradient for each parameter.
    for tags in (TAGS[3:], TAGS[2:3]):
        loss = chain_loss(emissions[:1], tags, transitions)
        gradients = torch.autograd.grad(loss, [emissions, transitions])
        assert all(bool(each.isfinite().all()) for each in gradients)


@pytest.mark.parametrize("constrained", [False, True])
def test_the_best_sequence_is_the_best_of_all(constrained: bool) -> None:
    labels = ["O", "B-X", "I-X"]
    emissions, transitions = drawn(20, 3).numpy(), drawn(4, 4).numpy()
    if constrained:
        transitions = np.where(forbidden(labels), -np.inf, transitions)
    sentences = np.repeat([0, 1, 4, 5], [1, 6, 8, 5])
    found = best_tags(emissions, sentences, transitions)
    for sentence in set(sentences.tolist()):
        own = sentences == sentence
        scores = every(torch.from_numpy(emissions[own]), torch.from_numpy(transitions))
        assert tuple(found[own].tolist()) == max(scores, key=lambda tags: float(scores[tags]))
    assert len(best_tags(emissions[:0], sentences[:0], transitions)) == 0


def spelt(scheme: str, found: list[tuple[str, int, int]], length: int) -> list[str]:
    """The tags of entities in a scheme, by its definition."""
    tags = ["O"] * length
    for kind, first, last in found:
        tags[first : last + 1] = [f"I-{kind}"] * (last + 1 - first)
        begin, end, single = {"BIO": "BIB", "BIOES": "BES", "BILOU": "BLU"}[scheme]
        tags[last], tags[first] = f"{end}-{kind}", f"{begin}-{kind}"
        if first == last:
            tags[first] = f"{single}-{kind}"
    return tags


@pytest.mark.parametrize(
    ("scheme", "prefixes"), [("BIO", "BI"), ("BIOES", "BIES"), ("BILOU", "BILU")]
)
def test_forbidden_sequences_are_those_that_no_entities_spell(scheme: str, prefixes: str) -> None:
    labels = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in "XY")]
    never, boundary = forbidden(labels), len(labels)
    for numbers in product(range(len(labels)), repeat=3):
        path = [boundary, *numbers, boundary]
        tags = [labels[number] for number in numbers]
        possible = not any(never[one, other] for one, other in zip(path, path[1:], strict=False))
        assert possible == (tags == spelt(scheme, entities(tags), 3)), tags


def encoded_rows(made: Tagging, words: Any, tags: Any) -> tuple[Features, Batch]:
    made.prepare(table(words, tags))
    features = made.encode(table(words, tags), encoder())
    everything = np.arange(len(features))
    return features, collate(
        features, everything, input_format=InputFormat(0, False), denominator=1
    )


def test_the_words_of_all_windows_are_decoded_as_one_chain() -> None:
    words = [[f"word{number % 2}" for number in range(40)], ["word0"]]
    tags = [["O"] * 39 + ["B-X"], ["I-X"]]
    made = task(["O", "B-X", "I-X"], crf=True, stride=3)
    features, batch = encoded_rows(made, words, tags)
    assert features.columns["row"].tolist() == [0, 0, 1]
    head = made.build_head(8, 0.0, dense=False, std=1.0)
    assert isinstance(head, ChainHead)
    with torch.no_grad():
        head.transitions.copy_(3 * drawn(4, 4))
    hidden = drawn(*batch.input_ids.shape, 8, dtype=torch.float32)
    encoded = Encoded(hidden, hidden[:, 0], batch.attention_mask)
    outputs = made.outputs(head, encoded, batch)
    assert made.loss(outputs, batch) > 0
    flat = outputs["logits"][batch.attention_mask].detach().numpy()
    transitions = outputs["transitions"].detach().numpy()
    found = made.decode({"logits": flat, "transitions": transitions}, features, table(words, tags))
    first = features.token_columns["word"] >= 0
    whole = best_tags(flat[first], np.repeat([0, 1], [40, 1]), transitions)
    assert [made.labels.index(tag) for each in found for tag in each["tags"]] == whole.tolist()
    assert (whole != flat[first].argmax(axis=1)).any(), "the transitions matter"


def test_constrained_tags_without_a_chain() -> None:
    made = task(["O", "B-X", "I-X"], constrained=True)
    rows = table([["a", "b"]], [["O", "B-X"]])
    made.prepare(rows)
    features = made.encode(rows, encoder())
    logits = np.zeros((len(features.ids), 3), np.float32)
    words = np.flatnonzero(features.token_columns["word"] >= 0)
    # One by one, the best tags would be O I-X.
    logits[words[0]], logits[words[1]] = [2.0, 1.5, 0.0], [0.0, 0.0, 3.0]
    (found,) = made.decode({"logits": logits}, features, rows)
    assert found["tags"] == ["B-X", "I-X"]


def test_constrained_tags_that_are_not_in_the_scheme_are_told() -> None:
    made = task(["O", "B-X", "I-X"], constrained=True)
    (problem,) = made.doubts(table([["a", "b"]], [["O", "I-X"]]))[1:]
    assert problem.what == "the tags are not a sequence in BIO" and "row 1" in problem.where
    (problem,) = task(["A", "B"], constrained=True).check(table([["a"]], [["A"]]), labelled=True)
    assert problem.where == "tasks.toy.constrained" and "do not spell entities" in problem.what


@dataclass(frozen=True)
class OneOfTwo(Ranks):
    """A rank that is not told what the other one has."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return torch.ones_like(tensor) if tensor.dtype == torch.int32 else tensor

    def broadcast_json(self, value: Any) -> Any:
        return value


def test_the_sum_over_ranks_has_the_transitions_once() -> None:
    made = task(["O", "B-X", "I-X"], crf=True)
    features, _ = encoded_rows(made, [["a"]] * 4, [["O"]] * 4)
    own = drawn(4, 4, dtype=torch.float32)

    def outputs(name: str, batch: Batch) -> dict[str, Tensor]:
        return {"logits": torch.ones(*batch.input_ids.shape, 3), "transitions": own}

    def outputs_together(batches: dict[str, Batch]) -> dict[str, dict[str, Tensor]]:
        return {name: outputs(name, batch) for name, batch in batches.items()}

    model: Any = SimpleNamespace(
        tasks={"toy": made},
        outputs_together=outputs_together,
        eval=lambda: None,
        parameters=list,
    )
    found = [
        outputs_of(
            *(model, "toy", features),
            batch_size=1,
            input_format=InputFormat(0, False),
            bf16=False,
            ranks=OneOfTwo(rank, 2, torch.device("cpu")),
        )
        for rank in (0, 1)
    ]
    assert (found[0]["transitions"] + found[1]["transitions"] == own.numpy()).all()
    assert (found[0]["logits"] + found[1]["logits"] == 1).all()
