"""DSelect-k against its definition: the smooth-step function, the binary code, and what a converged
gate is."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from mtlcli.config import sharings
from mtlcli.sharing.parts.dselect import DSelectK, smooth_step


def test_smooth_step() -> None:
    def plain(t: float) -> float:
        return 0.0 if t <= -0.5 else 1.0 if t >= 0.5 else -2 * t**3 + 1.5 * t + 0.5

    points = torch.linspace(-1, 1, 41, dtype=torch.double, requires_grad=True)
    assert smooth_step(points).tolist() == pytest.approx(
        [plain(t) for t in points.tolist()], abs=1e-12
    )
    smooth_step(points).sum().backward()
    slopes = [0.0 if abs(t) >= 0.5 else 1.5 - 6 * t * t for t in points.tolist()]
    assert points.grad is not None and points.grad.tolist() == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize(("experts", "k"), [(2, 1), (4, 2), (8, 3), (3, 2), (6, 2)])
def test_the_weights_are_the_formula(experts: int, k: int) -> None:
    torch.manual_seed(0)
    gate = DSelectK(experts, k)
    with torch.no_grad():
        gate.z.uniform_(-0.4, 0.4)
    bits = math.ceil(math.log2(experts))
    steps, shares = smooth_step(gate.z).tolist(), gate.selectors.exp().tolist()
    expected = [0.0] * experts
    for selector in range(k):
        # itertools counts the highest bit first, and ours is the lowest.
        codes = [code[::-1] for code in product([0, 1], repeat=bits)][:experts]
        terms = [
            math.prod(
                steps[selector][j] if bit else 1 - steps[selector][j] for j, bit in enumerate(code)
            )
            for code in codes
        ]
        for i, term in enumerate(terms):
            expected[i] += shares[selector] / sum(shares) * term / sum(terms)
    weights = gate(torch.zeros(2, 5, 7))
    assert weights.shape == (2, 5, experts)
    assert weights[1, 3].tolist() == pytest.approx(expected, abs=1e-6)
    assert weights.sum(-1).flatten().tolist() == pytest.approx([1.0] * 10)


@pytest.mark.parametrize("experts", [4, 6])
def test_it_converges_to_at_most_k_experts(experts: int) -> None:
    """Of experts that give the numbers 0, 1, ..., two make what is asked for."""
    torch.manual_seed(0)
    gate = DSelectK(experts, 2)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    values = torch.arange(float(experts))
    for _ in range(150):
        optimizer.zero_grad()
        weights = gate(torch.zeros(1, 1))[0]
        loss = (weights @ values - 2.5).square() + gate.penalty(0.05)
        loss.backward()
        optimizer.step()
    weights = gate(torch.zeros(1, 1))[0].detach()
    assert 1 <= int((weights > 0).sum()) <= 2
    assert float(weights.sum()) == pytest.approx(1)


def test_the_penalty_is_the_entropy_of_the_selectors_and_keeps_them_on_experts() -> None:
    torch.manual_seed(0)
    four, three = DSelectK(4, 2), DSelectK(3, 2)
    for gate in (four, three):
        torch.nn.init.zeros_(gate.z)
    assert four.penalty(0.5).item() == pytest.approx(0.5 * 2 * math.log(4), abs=1e-4)
    assert three.penalty(0.0).item() == pytest.approx(2 / 0.75)


@pytest.mark.parametrize("name", ["mmoe", "cgc", "ple"])
def test_more_selected_than_experts_is_refused(name: str) -> None:
    config = sharings.configs[name](gate="dselect_k", selected=9)
    (problem,) = config.problems(None, [])
    assert problem.where == "sharing.selected" and "cannot choose 9 of" in problem.what
    assert not list(sharings.configs[name](gate="softmax", selected=9).problems(None, []))
