"""Steps and methods for the tests of weightings."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from mtlcli.config.weighting import weightings
from mtlcli.weighting.base import Step, WeightedTask, Weighting
from mtlcli.weighting.kept_rows import RowKeeping


def tasks(loss_kind: str = "classification", **importance: float) -> dict[str, WeightedTask]:
    """Tasks by name with their importance."""
    return {name: WeightedTask(weight, loss_kind) for name, weight in importance.items()}


def build(name: str, of: dict[str, WeightedTask], **config: Any) -> Any:
    """A weighting method with its default configuration but for `config`."""
    return weightings.implementation(name)(weightings.configs[name](**config), of)


def minimise(method: Any, losses: dict[str, Tensor]) -> None:
    """Bring the method's parameters to the minimum of its objective for fixed losses."""
    optimizer = torch.optim.LBFGS(
        method.parameters(), max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total: Tensor = method.objective(losses)
        total.backward()
        return total

    optimizer.step(closure)


def make_step(
    losses: dict[str, float] | list[str],
    *,
    number: int = 0,
    total: int = 100,
    epoch: int = 0,
    seed: int = 0,
    gram: Tensor | None = None,
) -> Step:
    """A step of these tasks; given as a list of names, their losses are not known."""
    known = losses if isinstance(losses, dict) else None
    return Step(number, total, epoch, seed, list(losses), known, gram)


def random_steps(
    names: list[str], count: int, *, absent: bool, per_epoch: int = 7
) -> list[tuple[Step, dict[str, float]]]:
    """Steps with random losses and Gram matrices, and the losses after each. `absent`: tasks are
    missing from some of them."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for number in range(count):
        chosen = [name for index, name in enumerate(names) if not absent or (number + index) % 3]
        before, after = (
            0.2 + torch.rand(2, len(chosen), generator=generator, dtype=torch.float64)
        ).tolist()
        rows = torch.randn(len(chosen), 5, generator=generator, dtype=torch.float64)
        losses = dict(zip(chosen, before, strict=True))
        step = make_step(
            losses, number=number, total=count, epoch=number // per_epoch, gram=rows @ rows.T
        )
        steps.append((step, dict(zip(chosen, after, strict=True))))
    return steps


def drive(method: Weighting, steps: list[tuple[Step, dict[str, float]]]) -> list[dict[str, float]]:
    """The weights of each step, with the calls that a run makes."""
    found = []
    for step, after in steps:
        if method.validates(step):
            method.observe_validation(step, after)
        if isinstance(method, RowKeeping):
            assert step.gram is not None
            # Rows with this Gram matrix, as wide in every step.
            values, vectors = torch.linalg.eigh(step.gram)
            rows = vectors * values.clamp(min=0).sqrt()
            padded = torch.nn.functional.pad(rows, (0, len(method.tasks) - len(rows)))
            method.absorb(step, {"weight": padded.float()})
        found.append(method.weights(step))
        method.observe(step)
        if method.losses_after_step:
            method.observe_after(step, after)
    return found


def reloaded(method: Weighting) -> Any:
    """A new method with the state of this one, by way of JSON."""
    other = type(method)(method.config, method.tasks)
    other.load_state_dict(json.loads(json.dumps(method.state_dict())))
    other.load_tensors({name: tensor.clone() for name, tensor in method.tensors().items()})
    return other
