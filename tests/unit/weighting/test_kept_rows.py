"""The methods that keep numbers for each task and each shared parameter: DB-MTL and ExcessMTL,
against the authors' formulas on whole vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtlcli.weighting.kept_rows import RowKeeping
from tests.unit.weighting.steps import build, make_step, reloaded, tasks

NAMES = ["a", "b", "c"]
SIZES = {"first": 7, "second": 12}


def random_steps(count: int) -> list[tuple[Tensor, Tensor]]:
    """(K, P) gradients of the plain losses of different sizes, and the losses (K,)."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([[0.2], [1.0], [5.0]])
    return [
        (
            scale * torch.randn(3, sum(SIZES.values()), generator=generator),
            0.2 + torch.rand(3, generator=generator, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def update_of(method: RowKeeping, rows: Tensor, losses: Tensor, number: int) -> Tensor:
    """The update of the shared parameters, as training makes it."""
    step = make_step(
        dict(zip(NAMES, losses.tolist(), strict=True)), number=number, gram=(rows @ rows.T).double()
    )
    parts = rows.split(list(SIZES.values()), dim=1)
    kept = method.absorb(step, dict(zip(SIZES, parts, strict=True)))
    weights = torch.tensor([method.weights(step)[name] for name in NAMES])
    method.observe(step)
    return torch.cat([weights @ kept[name] for name in SIZES])


def authors_db_mtl(steps: list[tuple[Tensor, Tensor]], beta: float, decay: float) -> list[Tensor]:
    """`DB_MTL.backward` of LibMTL, the authors' library; the gradients of the logarithms by the
    chain rule."""
    buffer, found = torch.zeros(3, sum(SIZES.values())), []
    for number, (rows, losses) in enumerate(steps, start=1):
        gradients = rows / (losses + 1e-8)[:, None].float()
        buffer = gradients + (beta / number**decay) * (buffer - gradients)
        norms = buffer.norm(dim=-1)
        alpha = norms.max() / (norms + 1e-8)
        found.append((alpha[:, None] * buffer).sum(0))
    return found


def authors_excess(steps: list[tuple[Tensor, Tensor]], step_size: float) -> list[Tensor]:
    """`ExcessMTL.backward` of the authors' LibMTL: the weights of each step."""
    sums, weight, first, found = torch.zeros(3, sum(SIZES.values())), torch.ones(3), None, []
    for rows, _ in steps:
        risk = torch.zeros(3)
        for task in range(3):
            sums[task] += rows[task] ** 2
            hessian = torch.sqrt(sums[task] + 1e-7)
            risk[task] = rows[task] * (1 / hessian) @ rows[task]
        if first is None:
            first = risk
        else:
            weight = weight * torch.exp(risk / first * step_size)
            weight = weight / weight.sum() * 3
        found.append(weight.clone())
    return found


@pytest.mark.parametrize("options", [{}, {"beta": 0.0}, {"beta": 0.5, "decay": 0.0}])
def test_db_mtl_is_the_authors_code(options: dict[str, float]) -> None:
    steps = random_steps(12)
    method = build("db_mtl", tasks(**dict.fromkeys(NAMES, 1.0)), **options)
    beta, decay = options.get("beta", 0.9), options.get("decay", 0.5)
    expected = authors_db_mtl(steps, beta, decay)
    for number, (rows, losses) in enumerate(steps):
        update = update_of(method, rows, losses, number)
        torch.testing.assert_close(update, expected[number], rtol=1e-4, atol=1e-5)
        if number == 5:
            method = reloaded(method)


@pytest.mark.parametrize("step_size", [0.01, 1.0])
def test_excess_is_the_authors_code(step_size: float) -> None:
    steps = random_steps(12)
    method = build("excess", tasks(**dict.fromkeys(NAMES, 1.0)), step_size=step_size)
    expected = authors_excess(steps, step_size)
    for number, (rows, losses) in enumerate(steps):
        update = update_of(method, rows, losses, number)
        weights = expected[number]
        torch.testing.assert_close(update, weights @ rows, rtol=1e-4, atol=1e-5)
        if number == 5:
            method = reloaded(method)
    assert (weights - 1).abs().max() > 0.01


def test_db_mtl_gives_all_averages_the_length_of_the_longest() -> None:
    (rows, losses), *_ = random_steps(1)
    method = build("db_mtl", tasks(**dict.fromkeys(NAMES, 1.0)), beta=0.0)
    update_of(method, rows, losses, 0)
    weights = method.weights(make_step(dict(zip(NAMES, losses.tolist(), strict=True))))
    lengths = rows.norm(dim=1).double() / losses
    found = torch.tensor(list(weights.values()), dtype=torch.float64) * lengths
    assert found.tolist() == pytest.approx([lengths.max().item()] * 3, rel=1e-5)


@pytest.mark.parametrize("name", ["db_mtl", "excess"])
def test_a_task_of_importance_0_stays_out_of_the_balance(name: str) -> None:
    """The others get what they would get without it."""
    steps = random_steps(4)
    method = build(name, tasks(a=1.0, b=0.0, c=1.0))
    alone = build(name, tasks(a=1.0, c=1.0))
    for number, (rows, losses) in enumerate(steps):
        update = update_of(method, rows, losses, number)
        two = [0, 2]
        step = make_step({"a": losses[0].item(), "c": losses[2].item()}, number=number)
        parts = rows[two].split(list(SIZES.values()), dim=1)
        kept = alone.absorb(step, dict(zip(SIZES, parts, strict=True)))
        weights = torch.tensor(list(alone.weights(step).values()))
        expected = torch.cat([weights @ kept[key] for key in SIZES])
        torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-6)
    assert method.private_weights(make_step(dict(zip(NAMES, losses.tolist()))))["b"] == 0.0


@pytest.mark.parametrize("name", ["db_mtl", "excess"])
def test_tensors_of_another_run_are_refused(name: str) -> None:
    (rows, losses), *_ = random_steps(1)
    method: Any = build(name, tasks(**dict.fromkeys(NAMES, 1.0)))
    update_of(method, rows, losses, 0)
    with pytest.raises(ValueError, match="which the run does not have"):
        build(name, tasks(a=1.0, b=1.0)).load_tensors(method.tensors())
    other = {"db_mtl": "excess", "excess": "db_mtl"}[name]
    with pytest.raises(ValueError, match="which the run does not have"):
        build(other, tasks(**dict.fromkeys(NAMES, 1.0))).load_tensors(method.tensors())
