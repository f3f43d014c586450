"""The mathematics of GradNorm."""

from __future__ import annotations

import pytest
import torch

from mtlcli.errors import RunError
from mtlcli.weighting.losses.gradnorm import FLOOR
from tests.unit.weighting.steps import build, drive, make_step, random_steps, reloaded, tasks


def gram(*norms: float) -> torch.Tensor:
    """Gradients of these norms, at right angles."""
    return torch.diag(torch.tensor(norms, dtype=torch.float64) ** 2)


def test_worked_update() -> None:
    """Norms 1 and 3, losses at first: r = 1, the target of both is 2. dL/dw = (-1, 3); Adam's first
    step is lr whatever the size: w = (1.025, 0.975), which sum to 2 already."""
    method = build("gradnorm", tasks(a=1.0, b=1.0))
    step = make_step({"a": 1.0, "b": 5.0}, gram=gram(1.0, 3.0))
    assert method.weights(step) == {"a": 1.0, "b": 1.0}
    method.observe(step)
    assert method.weights(step) == pytest.approx({"a": 1.025, "b": 0.975}, abs=1e-6)


def test_worked_target() -> None:
    """Second step, norms 2 and 2: a has 1/4 of its loss left, b 3/4. r = (0.5, 1.5), alpha 1:
    targets 1 and 3; a falls, b rises."""
    method = build("gradnorm", tasks(a=1.0, b=1.0), alpha=1.0, first_steps=1)
    method.observe(make_step({"a": 4.0, "b": 4.0}, gram=gram(2.0, 2.0)))
    assert method.weights(make_step(["a", "b"])) == pytest.approx({"a": 1.0, "b": 1.0}), (
        "both are at their targets"
    )
    assert method._gradient(
        make_step({"a": 1.0, "b": 3.0}, number=1, gram=gram(2.0, 2.0))
    ) == pytest.approx({"a": 2.0, "b": -2.0})


def reference(steps: list[tuple[torch.Tensor, torch.Tensor]], alpha: float) -> list[torch.Tensor]:
    """Algorithm 1 with autograd and torch's Adam; each step is rows of gradients and losses."""
    weights = torch.ones(len(steps[0][1]), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.025)
    found = []
    for rows, losses in steps:
        found.append(weights.detach().clone())
        norms = (weights[:, None] * rows).norm(dim=1)
        left = losses / steps[0][1]
        target = (norms.mean() * (left / left.mean()) ** alpha).detach()
        adam.zero_grad()
        (norms - target).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            weights *= len(weights) / weights.sum()
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_trajectory_is_that_of_autograd_with_the_target_held_constant(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([[0.5], [3.0], [1.0]], dtype=torch.float64)
    raw = [
        (
            scale * torch.randn(3, 4, generator=generator, dtype=torch.float64),
            0.1 + torch.rand(3, generator=generator, dtype=torch.float64),
        )
        for _ in range(30)
    ]
    method = build("gradnorm", tasks(a=1.0, b=1.0, c=1.0), alpha=alpha, first_steps=1)
    for number, ((rows, losses), expected) in enumerate(
        zip(raw, reference(raw, alpha), strict=True)
    ):
        step = make_step(
            dict(zip("abc", losses.tolist(), strict=True)), number=number, gram=rows @ rows.T
        )
        assert list(method.weights(step).values()) == pytest.approx(expected.tolist(), rel=1e-10)
        method.observe(step)
        if number == 15:
            method = reloaded(method)
    assert max(abs(weight - 1) for weight in method.weights(step).values()) > 0.1


def test_alpha_0_brings_the_gradients_to_one_size() -> None:
    method = build("gradnorm", tasks(a=1.0, b=1.0, c=1.0), alpha=0.0, lr=0.005)
    norms = {"a": 1.0, "b": 2.0, "c": 4.0}
    for number in range(1500):
        method.observe(
            make_step(dict.fromkeys("abc", 1.0), number=number, gram=gram(*norms.values()))
        )
    weights = method.weights(make_step(["a", "b", "c"]))
    assert sum(weights.values()) == pytest.approx(3)
    sizes = [weights[name] * norms[name] for name in norms]
    assert sizes == pytest.approx([12 / 7] * 3, rel=0.05)


def test_a_task_that_learns_slowly_gains() -> None:
    method = build("gradnorm", tasks(a=1.0, b=1.0))
    for number in range(20):
        losses = {"a": 1.0, "b": 0.9**number}
        method.observe(make_step(losses, number=number, gram=gram(1.0, 1.0)))
    weights = method.weights(make_step(["a", "b"]))
    assert weights["a"] > 1.2 and weights["b"] < 0.8


def test_the_reference_is_the_mean_of_the_first_losses() -> None:
    """After losses of 1 and 3, L(0) is 2, whatever comes later."""
    method = build("gradnorm", tasks(a=1.0, b=1.0), first_steps=2)
    for number, loss in enumerate((1.0, 3.0, 50.0)):
        method.observe(make_step({"a": loss, "b": loss}, number=number, gram=gram(1.0, 1.0)))
    assert reloaded(method)._share_left("a", make_step({"a": 1.0}, number=3)) == 0.5


def test_equal_tasks_end_with_like_weights_whatever_their_first_batches_gave() -> None:
    """The first loss of a is half its size by chance; with the first loss as the reference, a ends
    above 1.3."""
    weights = {}
    for first_steps in (1, 20):
        method = build("gradnorm", tasks(a=1.0, b=1.0), first_steps=first_steps)
        for number in range(200):
            size = 0.99**number
            losses = {"a": size * (0.5 if number == 0 else 1.0), "b": size}
            method.observe(make_step(losses, number=number, gram=gram(1.0, 1.0)))
        weights[first_steps] = method.weights(make_step(["a", "b"]))["a"]
    assert weights[1] > 1.3 and weights[20] == pytest.approx(1.0, abs=0.1), weights


def test_importance_multiplies_what_is_learned_from_plain_gradients() -> None:
    steps = random_steps(["a", "b"], 10, absent=False)
    plain, dear = (drive(build("gradnorm", tasks(a=1.0, b=b)), steps) for b in (1.0, 3.0))
    assert dear == [{"a": weights["a"], "b": 3 * weights["b"]} for weights in plain]


def test_weights_stay_positive_and_keep_their_sum() -> None:
    """A gradient that is huge on every other step pushes a far down: momentum would carry its
    weight below 0."""
    method = build("gradnorm", tasks(a=1.0, b=1.0), lr=1.0)
    for number in range(10):
        method.observe(
            make_step(
                {"a": 1.0, "b": 1.0}, number=number, gram=gram(50.0 if number < 2 else 1e-3, 1.0)
            )
        )
        weights = method.weights(make_step(["a", "b"]))
        assert min(weights.values()) >= FLOOR / 2 and sum(weights.values()) == pytest.approx(2)


def test_absent_tasks_rest_and_the_others_keep_their_sum() -> None:
    method = build("gradnorm", tasks(a=1.0, b=1.0, c=1.0))
    method.observe(make_step({"a": 1.0, "b": 1.0, "c": 1.0}, gram=gram(1.0, 2.0, 4.0)))
    before = method.weights(make_step(["a", "b", "c"]))
    method.observe(make_step({"a": 1.0, "c": 1.0}, number=1, gram=gram(1.0, 4.0)))
    after = method.weights(make_step(["a", "b", "c"]))
    assert after["b"] == before["b"] and after["a"] > before["a"]
    assert after["a"] + after["c"] == pytest.approx(before["a"] + before["c"])


def test_losses_of_0() -> None:
    with pytest.raises(RunError, match="the loss of a is 0, and gradnorm"):
        build("gradnorm", tasks(a=1.0, b=1.0)).observe(
            make_step({"a": 0.0, "b": 1.0}, gram=gram(1.0, 1.0))
        )
    method = build("gradnorm", tasks(a=1.0, b=1.0))
    method.observe(make_step({"a": 1.0, "b": 1.0}, gram=gram(1.0, 1.0)))
    method.observe(make_step({"a": 0.0, "b": 0.0}, number=1, gram=gram(0.0, 0.0)))
    assert method.weights(make_step(["a", "b"])) == pytest.approx({"a": 1.0, "b": 1.0})
