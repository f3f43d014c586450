"""IMTL: IMTL-L and IMTL-G together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.weighting.gradients.helpers import NAMES, build, random_rows, step_of


def formula(rows: Tensor) -> Tensor:
    """The closed form of IMTL-G in the paper (equation 6), as the library LibMTL has it: weights of
    sum 1."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    differences, units = rows[:1] - rows[1:], unit[:1] - unit[1:]
    alpha = rows[0] @ units.T @ torch.inverse(differences @ units.T)
    return torch.cat([1 - alpha.sum()[None], alpha])


def test_trajectory_is_that_of_both_formulas() -> None:
    """The scales by torch's SGD on the paper's objective, the gradients of the scaled losses by the
    closed form."""
    method = build("imtl", 3)
    scales = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    ours = torch.optim.SGD(method.parameters(), lr=0.5)
    theirs = torch.optim.SGD([scales], lr=0.5)
    generator = torch.Generator().manual_seed(0)
    for number in range(10):
        rows = random_rows(3, number, common=2.0)
        losses = 0.2 + 2 * torch.rand(3, generator=generator, dtype=torch.float64)
        scaled = scales.detach().exp()[:, None] * rows
        expected = 3 * formula(scaled) @ scaled
        step = step_of(rows, number)
        factors, weights = method.factors(step), method.weights(step)
        update = sum(weights[name] * factors[name] * row for name, row in zip(NAMES, rows))
        torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-6)
        assert list(factors.values()) == pytest.approx(scales.exp().tolist(), rel=1e-5)
        ours.zero_grad()
        method.objective(dict(zip(NAMES, losses.float()))).backward()
        ours.step()
        theirs.zero_grad()
        (scales.exp() * losses - scales).sum().backward()
        theirs.step()
    assert scales.abs().max() > 0.3 and method.failures == 0
