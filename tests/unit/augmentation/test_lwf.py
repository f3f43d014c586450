"""Learning without forgetting against a plain loop of the formula of Li & Hoiem 2016."""

from __future__ import annotations

from tests.unit.augmentation.plain import (
    assert_alike,
    batch_of,
    kept,
    logits_of,
    losses_of,
    moved,
)


def test_lwf_is_the_formula() -> None:
    model = kept("lwf", strength=0.4, temperature=2.0)
    batch = batch_of("cola")
    before, _ = logits_of(model, "stsb", batch)
    before = before.detach()
    moved(model)
    logits, _ = logits_of(model, "cola", batch)
    earlier, _ = logits_of(model, "stsb", batch)
    expected = losses_of("cola", logits, batch).sum() / batch.denominator
    for now, then in zip(earlier[:, 0], before[:, 0], strict=True):
        expected = expected + 0.4 * (now - then) ** 2 / batch.examples
    assert_alike(model, model("cola", batch).loss, expected)
    # A batch of an earlier task, as replay brings it, has the plain loss.
    other = batch_of("stsb")
    found, _ = logits_of(model, "stsb", other)
    plain = losses_of("stsb", found, other).sum() / other.denominator
    assert_alike(model, model("stsb", other).loss, plain)
