"""Soft sharing: the penalty and its gradient against the formula, and its limits."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from mtlcli.errors import UserError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.soft import SoftSharing
from tests.small import small_model
from tests.unit.sharing.training import trained


def soft(**options: object) -> MultiTaskModel:
    return small_model(SoftSharing(**options))[0]  # type: ignore[arg-type]


def shaken(model: MultiTaskModel) -> MultiTaskModel:
    """The model with copies that differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def copies(model: MultiTaskModel) -> list[torch.Tensor]:
    """For each task all of its copies' weights in one vector, recorded for gradients."""
    found: dict[str, list[torch.Tensor]] = {}
    for module in model.trunk.modules():
        if isinstance(module, PerTask):
            for name, copy in module.items():
                found.setdefault(name, []).extend(
                    parameter.flatten() for parameter in copy.parameters()
                )
    return [torch.cat(parts) for parts in found.values()]


@pytest.mark.parametrize("layers", ["all", [1], [-2, -1]])
def test_the_penalty_is_the_sum_over_pairs(layers: object) -> None:
    model = shaken(soft(layers=layers, strength=0.3))
    expected = (
        0.3
        * torch.stack(
            [(one - other).square().sum() for one, other in combinations(copies(model), 2)]
        ).sum()
    )
    penalty = model.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.trunk.parameters())
    ours = torch.autograd.grad(penalty, parameters, allow_unused=True)
    formula = torch.autograd.grad(expected, parameters, allow_unused=True)
    assert [gradient is None for gradient in ours] == [gradient is None for gradient in formula]
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(ours, formula, strict=True)
        if a is not None and b is not None
    )
    assert model.trunk.measures()["distance"] == pytest.approx(expected.item() / 0.3, rel=1e-5)


def test_the_trace_norm_is_the_sum_of_singular_values() -> None:
    model = shaken(soft(layers=[1], strength=1.0, distance="trace_norm"))
    layer = next(module for module in model.trunk.modules() if isinstance(module, PerTask))
    stacks = [
        torch.stack([parameter.flatten() for parameter in each])
        for each in zip(*(c.parameters() for c in layer.values()), strict=True)
    ]
    expected = sum(float(torch.linalg.svdvals(stack.detach().double()).sum()) for stack in stacks)
    penalty = model.penalty()
    assert penalty is not None and penalty.item() == pytest.approx(expected, rel=1e-4)
    first = next(iter(layer.values()))
    weight = next(parameter for parameter in first.parameters() if parameter.ndim == 2)  # type: ignore[union-attr]
    (ours,) = torch.autograd.grad(penalty, weight)
    place = [parameter is weight for parameter in first.parameters()].index(True)  # type: ignore[union-attr]
    stack = stacks[place]
    left, _, right = torch.linalg.svd(stack.double(), full_matrices=False)
    assert torch.allclose(ours.flatten().double(), (left @ right)[0], atol=1e-4)


def test_the_trace_norm_has_a_gradient_where_all_copies_are_equal() -> None:
    model = soft(strength=1.0, distance="trace_norm")
    penalty = model.penalty()
    assert penalty is not None
    penalty.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in model.trunk.parameters()
    )


def test_the_penalty_can_be_the_distance_to_the_initial_weights() -> None:
    model = soft(strength=2.0, distance="pretrained")
    start = [copy.detach().clone() for copy in copies(model)]
    penalty = model.penalty()
    assert penalty is not None and penalty.item() == 0
    shaken(model)
    penalty = model.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(
        2
        * sum(
            float((a - b).detach().square().sum())
            for a, b in zip(copies(model), start, strict=True)
        ),
        rel=1e-5,
    )
    assert all(
        name.startswith("trunk.start") for name, _ in model.named_buffers() if "start" in name
    )


def test_without_strength_it_is_no_sharing() -> None:
    assert trained(SoftSharing(strength=0.0))[1] == trained("none")[1]


def test_with_much_strength_it_comes_near_to_hard_sharing() -> None:
    """The mean of K copies moves by the mean gradient: K times the step makes it the sum's. At this
    strength one step of gradient descent takes every copy to their mean, so they never differ by
    more than one step's gradient."""
    lr, tasks = 0.0005, 3
    strength = 1 / (2 * tasks * tasks * lr)
    strong, none = (
        copies(trained(SoftSharing(strength=s), steps=24, trunk_lr=lr * tasks)[0])
        for s in (strength, 0.0)
    )
    hard = torch.cat(
        [
            parameter.flatten()
            for parameter in trained("hard", steps=24, trunk_lr=lr)[0].trunk.parameters()
        ]
    )
    distance = max(float((copy - hard).detach().norm()) for copy in strong)
    assert distance < 0.2 * min(float((copy - hard).detach().norm()) for copy in none)


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="there is no layer 2"):
        soft(layers=[2])
