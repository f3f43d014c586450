"""Which heads matter least: against a plain loop, and what is left of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlcli.compression.heads import importance, kept_heads, masked, over_tasks
from mtlcli.data.batches import Batch
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import input_format
from mtlcli.models.pruned import attentions, head_counts, prune
from mtlcli.training.task_batch import build_task_batch
from tests.small import small_data, small_model

CPU = torch.device("cpu")


def batch_of(task: str, rows: list[int]) -> Batch:
    tasks, _, features, files = small_data()
    made = build_task_batch(
        tasks[task],
        features[task],
        np.array(rows),
        input_format=input_format(files.encoder(), "fp32", CPU),
        accumulation=1,
        ranks=Ranks(0, 1, CPU),
    )
    return made.micro[0]


def by_weights(model: MultiTaskModel, task: str, rows: list[int]) -> list[Tensor]:
    """The importances by a pass for each input. A mask acts like a factor of the columns by which a
    head is read, so its gradient is the product of these weights with theirs."""
    dense = [each.output.dense.weight for each in attentions(model.trunk.backbone.network)]
    found = []
    for row in rows:
        batch = batch_of(task, [row])
        loss = model.tasks[task].loss(model.outputs(task, batch), batch)
        gradients = torch.autograd.grad(loss, dense)
        counts = head_counts(model.trunk.backbone.network)
        found.append(
            [
                (weight * gradient).unflatten(1, (heads, -1)).sum((0, 2)).abs()
                for weight, gradient, heads in zip(dense, gradients, counts, strict=True)
            ]
        )
    return [torch.stack(each).mean(0).detach() for each in zip(*found, strict=True)]


@pytest.mark.parametrize("task", ["cola", "stsb", "squad"])
def test_the_importance_is_that_of_a_plain_loop(task: str) -> None:
    model, _ = small_model("hard", fast=False)
    model.eval()
    rows = [0, 3, 4, 9, 12]
    found = importance(model, task, [batch_of(task, rows[:3]), batch_of(task, rows[3:])])
    if task == "squad":  # Rows of several windows have several inputs.
        assert all(len(batch_of(task, [row])) == 1 for row in rows)
    for mine, plain in zip(found, by_weights(model, task, rows), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-7)


def test_tasks_count_alike_and_every_layer_keeps_a_head() -> None:
    one = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])]
    large = [torch.tensor([800.0, 600.0]), torch.tensor([1000.0, 0.0])]
    scores = over_tasks([one, large])
    torch.testing.assert_close(scores[0], torch.tensor([1.4, 1.4]))
    torch.testing.assert_close(scores[1], torch.tensor([1.0, 1.0]))
    assert kept_heads(scores, 2) == [[1], [1]]
    ranked = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.9, 0.4, 0.8])]
    assert kept_heads(ranked, 3) == [[2], [0, 2]]


@pytest.mark.parametrize("fast", [False, True])
def test_a_pruned_model_is_the_masked_one(fast: bool) -> None:
    """The last layer, too, which computes the first token alone where only that is read."""
    model, _ = small_model("hard", fast=fast)
    model.eval()
    batches = {task: batch_of(task, [0, 1, 5]) for task in ("cola", "squad")}
    network = model.trunk.backbone.network
    plain, _ = small_model("hard", fast=False)  # Of the same seed.
    plain.eval()
    masks = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])]
    with torch.no_grad(), masked(plain.trunk.backbone.network, masks):
        expected = {task: plain.outputs(task, batch) for task, batch in batches.items()}
    prune(network, [[1], [0]])
    with torch.no_grad():
        found = {task: model.outputs(task, batch) for task, batch in batches.items()}
        whole = {task: plain.outputs(task, batch) for task, batch in batches.items()}
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(whole["cola"]["logits"], expected["cola"]["logits"], atol=1e-3)
    assert head_counts(network) == [1, 1]
