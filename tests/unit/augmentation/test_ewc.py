"""EWC against a plain loop of the formula of Kirkpatrick et al. 2017."""

from __future__ import annotations

import torch

from tests.unit.augmentation.plain import Earlier, batch_of, kept, logits_of, losses_of, moved

ROWS = 5


def test_ewc_is_the_formula() -> None:
    model = kept("ewc", strength=7.0, rows=ROWS)
    information = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    for batch in Earlier(model).rows("stsb", ROWS):
        model.zero_grad()
        logits, _ = logits_of(model, "stsb", batch)
        losses_of("stsb", logits, batch).sum().backward()
        for name, each in model.named_parameters():
            if each.grad is not None:
                information[name] += each.grad**2 / ROWS
    assert model.penalty() == 0
    before = moved(model)
    expected = torch.zeros(())
    for name, each in model.named_parameters():
        if name.startswith("trunk."):  # Heads belong to one task, which is not this one.
            for now, then, much in zip(
                each.flatten(), before[name].flatten(), information[name].flatten(), strict=True
            ):
                if much > 1e-9:
                    expected = expected + 7.0 / 2 * much * (now - then) ** 2
    assert expected > 0
    torch.testing.assert_close(model.penalty(), expected, rtol=1e-4, atol=1e-8)
    model.zero_grad()
    model.penalty().backward()
    name = "trunk.backbone.network.embeddings.word_embeddings.weight"
    parameter = dict(model.named_parameters())[name]
    slope = 7.0 * information[name] * (parameter.detach() - before[name])
    torch.testing.assert_close(parameter.grad, slope, rtol=1e-4, atol=1e-8)
    # The loss of a batch is the task's own.
    batch = batch_of("cola")
    logits, _ = logits_of(model, "cola", batch)
    plain = losses_of("cola", logits, batch).sum() / batch.denominator
    torch.testing.assert_close(model("cola", batch).loss, plain)
