"""Gradients, steps and methods for the tests of gradient balancing."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from mtlcli.config import Balancing, weightings
from mtlcli.weighting.base import Step, WeightedTask
from mtlcli.weighting.gradients.base import GradientBalancing

METHODS = [name for name in weightings if issubclass(weightings.configs[name], Balancing)]
NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]


def random_rows(
    count: int, seed: int = 0, *, size: int = 30, common: float = 0.0, spread: float = 0.0
) -> Tensor:
    """(count, size) float64 vectors: noise plus `common` times one vector, with norms spread over
    about +-`spread` orders of magnitude."""
    # Small seeds next to one another give draws that look alike.
    generator = torch.Generator().manual_seed((seed + 1) * 2_654_435_761 % 2**32)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (draw(count, size) + common * draw(size)) * 10 ** (
        spread * (2 * torch.rand(count, 1, generator=generator) - 1).double()
    )


def real_rows(count: int, seed: int = 0) -> Tensor:
    """Gradients of `count` task losses with respect to the shared layers of a small network, each
    on a batch of its own, in fp32."""
    torch.manual_seed(seed)
    shared = torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8), torch.nn.Tanh()
    )
    rows = []
    for index in range(count):
        head = torch.nn.Linear(8, 3)
        logits = head(shared(torch.randn(12, 6) * (1 + index)))
        loss = torch.nn.functional.cross_entropy(logits, torch.randint(3, (12,)))
        rows.append(
            torch.cat(
                [each.flatten() for each in torch.autograd.grad(loss, list(shared.parameters()))]
            )
        )
    return torch.stack(rows)


def tasks_of(count: int, importance: list[float] | None = None) -> dict[str, WeightedTask]:
    """The first `count` tasks."""
    return {
        name: WeightedTask((importance or [1.0] * count)[index], "classification")
        for index, name in enumerate(NAMES[:count])
    }


def build(
    name: str, count: int, importance: list[float] | None = None, **options: Any
) -> GradientBalancing:
    """A method with the config's defaults but `options`, over the first `count` tasks."""
    method = weightings.implementation(name)(
        weightings.configs[name](**options), tasks_of(count, importance)
    )
    assert isinstance(method, GradientBalancing)
    return method


def step_of(
    rows: Tensor,
    number: int = 0,
    tasks: list[str] | None = None,
    *,
    losses: list[float] | None = None,
    seed: int = 5,
) -> Step:
    """A step whose tasks have these gradients; by default the first K tasks with losses 1."""
    tasks = tasks or NAMES[: len(rows)]
    return Step(
        number=number,
        total=100,
        epoch=0,
        seed=seed,
        tasks=tasks,
        losses=dict(zip(tasks, losses or [1.0] * len(tasks), strict=True)),
        gram=rows.double() @ rows.double().T,
    )


def weights_of(
    method: GradientBalancing,
    rows: Tensor,
    number: int = 0,
    tasks: list[str] | None = None,
    **more: Any,
) -> Tensor:
    """The weights (K,) that the method gives for these gradients."""
    step = step_of(rows, number, tasks, **more)
    found = method.weights(step)
    assert list(found) == step.tasks
    return torch.tensor(list(found.values()), dtype=torch.float64)


def update_of(
    method: GradientBalancing, rows: Tensor, number: int = 0, tasks: list[str] | None = None
) -> Tensor:
    """The update of the shared parameters (P,), carried out as training/step.py does."""
    step = step_of(rows, number, tasks)
    scaled = rows * method.importance(step)[:, None]
    if method.known(step) == "rows":
        return method.combine(step, scaled, 0, rows.shape[1])
    return weights_of(method, rows, number, tasks) @ scaled.double()


def gain_rounding(gram: Tensor, weights: Tensor, gains: Tensor) -> Tensor:
    """(K,) how far off, relative to themselves, gains G w can be by rounding alone, whatever
    library sums them up: G and the sums are right to some units of eps of their terms, |G| |w|, and
    of nearly opposed gradients the terms are many times as large as what is left of them."""
    return 16 * torch.finfo(torch.float64).eps * (gram.abs() @ weights.abs()) / gains.abs()


def through_json(method: GradientBalancing, other: GradientBalancing) -> GradientBalancing:
    """`other` with the state of `method`."""
    other.load_state_dict(json.loads(json.dumps(method.state_dict())))
    return other
