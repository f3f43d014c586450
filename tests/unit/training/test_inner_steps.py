"""The gradients of meta-learning: against plain loops over copies of the model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import TaskBatch, build_inner_batches, build_task_batch
from tests.small import small_data, small_model, small_step

ALONE = Ranks(0, 1, torch.device("cpu"))
WEIGHTS = {"cola": 1.0, "stsb": 0.5, "squad": 2.0}
LR = 0.05


def batches(model: MultiTaskModel, parts: int, rows: int = 12) -> dict[str, TaskBatch]:
    _, _, features, _ = small_data()
    found = {}
    for name, task in model.tasks.items():
        given = (task, features[name], np.arange(rows))
        how = {"input_format": InputFormat(0, True), "accumulation": 2, "ranks": ALONE}
        found[name] = build_task_batch(*given, **how)
        found[name].inner = build_inner_batches(*given, parts, **how)
    return found


def loss_of(model: MultiTaskModel, task: str, part: TaskBatch) -> Tensor:
    return torch.stack([model(task, micro).loss for micro in part.micro]).sum()


def by_copies(model: MultiTaskModel, given: dict[str, TaskBatch], ahead: bool) -> dict[str, Tensor]:
    """The sum of the tasks' meta-gradients times their weights, by a copy of the model for each
    task, which torch's SGD updates."""
    total: dict[str, Tensor] = {}
    for task, batch in given.items():
        copy = deepcopy(model)
        optimizer = torch.optim.SGD(copy.parameters(), lr=LR)
        steps: Sequence[TaskBatch] = batch.inner[:-1] if ahead else batch.inner
        for part in steps:
            optimizer.zero_grad()
            loss_of(copy, task, part).backward()
            optimizer.step()
        if ahead:
            optimizer.zero_grad()
            loss_of(copy, task, batch.inner[-1]).backward()
        before = dict(model.named_parameters())
        for name, parameter in copy.named_parameters():
            way = (before[name] - parameter).detach() / LR
            found = parameter.grad if ahead else way
            if found is not None:
                total[name] = total.get(name, 0) + WEIGHTS[task] * found
    return total


@pytest.mark.parametrize(("method", "sharing"), [("reptile", "hard"), ("fomaml", "lora")])
def test_the_gradient_is_that_of_copies(method: str, sharing: str) -> None:
    model, weighting = small_model(
        sharing, weighting=method, weights=WEIGHTS, inner_steps=3, inner_lr=LR
    )
    plain, _ = small_model(sharing, fast=False)
    given = batches(model, weighting.config.inner_batches)
    counts = [4, 4, 4] if method == "reptile" else [3, 3, 3, 3]
    assert [part.examples for part in given["cola"].inner] == counts
    before = {name: each.clone() for name, each in model.state_dict().items()}
    step = small_step(given)
    outcome = Backward(model, weighting, ALONE, bf16=False)(given, step)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), "the parameters are where they were"
    expected = by_copies(plain, given, ahead=method == "fomaml")
    for name, parameter in model.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wanted = expected.get(name, torch.zeros_like(parameter))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-5, msg=name)
    first = [loss_of(plain, task, batch.inner[0]).item() for task, batch in given.items()]
    assert outcome.losses.tolist() == pytest.approx(first, rel=1e-5)
    assert step.losses == pytest.approx(dict(zip(given, first, strict=True)), rel=1e-5)


def test_one_inner_step_is_joint_training() -> None:
    model, weighting = small_model(
        "hard", weighting="reptile", weights=WEIGHTS, inner_steps=1, inner_lr=LR
    )
    same, static = small_model("hard", weights=WEIGHTS)
    Backward(model, weighting, ALONE, bf16=False)(batches(model, 1), small_step())
    Backward(same, static, ALONE, bf16=False)(batches(same, 1), small_step())
    for (name, one), two in zip(model.named_parameters(), same.parameters(), strict=True):
        if two.grad is not None:
            assert one.grad is not None
            # The way is a difference of parameters, which rounds it.
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=2e-5, msg=name)


def test_a_batch_of_few_examples_has_few_inner_steps() -> None:
    model, _ = small_model("hard")
    given = batches(model, parts=5, rows=2)
    assert [part.examples for part in given["cola"].inner] == [1, 1]
    both = np.concatenate([part.indices for part in given["squad"].inner])
    assert sorted(both) == sorted(given["squad"].indices)
