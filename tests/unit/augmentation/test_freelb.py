"""FreeLB against algorithm 1 of Zhu et al. 2020."""

from __future__ import annotations

import pytest
import torch

from tests.unit.augmentation.plain import assert_alike, augmented, batch_of, logits_of, losses_of


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_the_loss_is_that_of_embeddings_that_are_moved_upwards(task: str) -> None:
    model = augmented("freelb", dropout=0.2, steps=3, step_size=0.2, radius=0.3)
    batch = batch_of(task)
    torch.manual_seed(5)
    loss = model(task, batch).loss
    after = torch.get_rng_state()
    with torch.no_grad():
        torch.manual_seed(5)
        assert torch.equal(model(task, batch).loss, loss)

    torch.manual_seed(5)
    embedded = model.trunk.backbone.network.get_input_embeddings()(batch.input_ids)
    moved = torch.rand(embedded.shape) * 2 - 1
    for row, length in enumerate(batch.lengths.tolist()):
        moved[row] *= 0.3 / (length * embedded.shape[-1]) ** 0.5
        moved[row, length:] = 0
    masks, losses, shortened = torch.get_rng_state(), [], 0
    for _ in range(3):
        torch.set_rng_state(masks)
        moved = moved.detach().requires_grad_()
        logits, _ = logits_of(model, task, batch, embedded + moved)
        losses.append(losses_of(task, logits, batch).sum() / batch.denominator)
        (gradient,) = torch.autograd.grad(losses[-1], moved, retain_graph=True)
        moved = moved.detach()
        for row in range(len(batch)):
            moved[row] += 0.2 * gradient[row] / gradient[row].norm()
            if (norm := moved[row].norm()) > 0.3:
                moved[row] *= 0.3 / norm
                shortened += 1
    assert torch.equal(after, torch.get_rng_state()), "one draw of dropout"
    assert 0 < shortened < 3 * len(batch)
    assert losses[0] < losses[1] < losses[2]
    assert_alike(model, loss, torch.stack(losses).mean())
