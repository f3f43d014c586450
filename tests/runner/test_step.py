"""The gradient of a step: against autograd on the plain weighted sum, and the same however the batch is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.runner.distributed import Ranks
from mtlcli.runner.step import TaskBatch, backward, cut
from tests.runner.small import small_data, small_model

ALONE = Ranks(0, 1, torch.device("cpu"))


def batches(model, features, accumulation: int = 1) -> dict[str, TaskBatch]:  # type: ignore[no-untyped-def]
    return {
        name: cut(
            model.tasks[name], features[name], np.arange(13), pad_id=0, uses_segments=True, accumulation=accumulation, ranks=ALONE
        )
        for name in model.tasks
    }  # fmt: skip


def gradients(model) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sharing", ["hard", "none"])
@pytest.mark.parametrize("accumulation", [1, 3, 13])
def test_step_is_the_gradient_of_the_weighted_sum_of_means(sharing: str, accumulation: int) -> None:
    _, _, features, _ = small_data()
    weights = {"cola": 0.5, "stsb": 2.0}
    model, weighting = small_model(sharing, weights=weights)
    losses, used = backward(model, weighting, batches(model, features, accumulation), ALONE, bf16=False)
    found = gradients(model)
    assert used == {"cola": 0.5, "stsb": 2.0, "squad": 1.0}

    model.zero_grad()
    whole = batches(model, features)
    plain = {name: model(name, batch.micro[0]).loss for name, batch in whole.items()}
    sum(used[name] * loss for name, loss in plain.items()).backward()  # type: ignore[union-attr]
    expected = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    for name, loss in plain.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_losses_are_means_over_labelled_items() -> None:
    """Against the losses of torch on the logits, task by task."""
    _, _, features, _ = small_data()
    model, weighting = small_model("hard")
    model.eval()
    cut_batches = batches(model, features)
    losses, _ = backward(model, weighting, cut_batches, ALONE, bf16=False)
    with torch.no_grad():
        cola, stsb = cut_batches["cola"].micro[0], cut_batches["stsb"].micro[0]
        logits = next(iter(model.outputs("cola", cola).values()))
        assert losses["cola"].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, cola.columns["label"]).item(), rel=1e-5)
        scores = next(iter(model.outputs("stsb", stsb).values())).reshape(-1)
        assert losses["stsb"].item() == pytest.approx(torch.nn.functional.mse_loss(scores, stsb.columns["score"].float()).item(), rel=1e-5)


def test_absent_tasks_have_no_gradient() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("none")
    backward(model, weighting, {"cola": batches(model, features)["cola"]}, ALONE, bf16=False)
    users = model.users()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (users[name] == ("cola",)), name


def test_learned_weights_get_the_gradient_of_their_objective() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("hard", weighting="uncertainty")
    losses, _ = backward(model, weighting, batches(model, features, 4), ALONE, bf16=False)
    # d/ds at s = 0: 1/2 - c L
    expected = [0.5 - (0.5 if name == "stsb" else 1.0) * losses[name].item() for name in losses]
    assert [p.grad.item() for p in weighting.parameters()] == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]
