"""Progressive distillation: what the earlier heads are held to, and that they stay as they are.
Whole runs are in test_progressive.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtlcli.models.multitask import MultiTaskModel
from mtlcli.sharing.progressive_distill import ProgressiveDistillSharing
from tests.small import small_model
from tests.unit.sharing.test_progressive import shaken
from tests.unit.sharing.training import batch_of


def distilled(**options: Any) -> MultiTaskModel:
    """cola and squad are known, stsb is new."""
    config = ProgressiveDistillSharing(stages=[["cola", "squad"], ["stsb"]], **options)
    model, _ = small_model(config)
    shaken(model, seed=2)
    model.trunk.enter(1, anew=True)
    return model


def term_of(model: MultiTaskModel) -> Tensor | None:
    batch = batch_of("stsb")
    encoded = model.trunk("stsb", batch)
    return model.trunk.batch_loss(batch, encoded, model.heads, model.tasks)  # type: ignore[operator, no-any-return]


def test_distillation_begins_at_zero_with_zero_gradient() -> None:
    model = distilled()
    term = term_of(model)
    assert term is not None and abs(term.item()) < 1e-5
    term.backward()
    assert all(
        each.grad is None or each.grad.to_dense().abs().max() < 1e-5 for each in model.parameters()
    )
    assert sum(each.grad is not None for each in model.trunk.parameters()) > 0


def test_distillation_is_the_formula_and_moves_no_earlier_head() -> None:
    model = distilled(strength=0.7)
    batch = batch_of("stsb")
    with torch.no_grad():
        then = {name: model.heads[name](model.trunk("stsb", batch)) for name in ("cola", "squad")}
    shaken(model.trunk, seed=3)
    now = {name: model.heads[name](model.trunk("stsb", batch)) for name in ("cola", "squad")}

    def divergence(kept: Tensor, found: Tensor) -> Tensor:
        kept, found = (kept / 2).softmax(-1), (found / 2).softmax(-1)
        return (kept * (kept / found).log()).sum()

    expected = divergence(then["cola"]["logits"], now["cola"]["logits"])
    for row, length in enumerate(batch.attention_mask.sum(1).tolist()):
        for key in ("start", "end"):
            expected = expected + divergence(
                then["squad"][key][row, :length], now["squad"][key][row, :length]
            )
    term = term_of(model)
    assert (
        term is not None
        and term.item() == pytest.approx(0.7 * expected.item(), rel=1e-4)
        and term.item() > 0.01
    )
    own = model.tasks["stsb"].loss(model.outputs("stsb", batch), batch)
    loss = model("stsb", batch).loss
    assert loss.item() == pytest.approx((own + term).item() / batch.denominator, rel=1e-5)
    assert model.trunk.measures() == {
        "stage": 1,
        "distillation": pytest.approx(term.item() / 8, rel=1e-5),
    }
    loss.backward()
    assert all(
        parameter.grad is None
        for name in ("cola", "squad")
        for parameter in model.heads[name].parameters()
    )
    used = [name for name, tasks in model.users().items() if "stsb" in tasks]
    assert [
        name for name, parameter in model.named_parameters() if parameter.grad is not None
    ] == used


def test_scores_are_held_by_their_squared_difference() -> None:
    model, _ = small_model(ProgressiveDistillSharing(stages=[["stsb"], ["cola", "squad"]]))
    model.trunk.enter(1, anew=True)
    batch = batch_of("cola")
    with torch.no_grad():
        then = model.heads["stsb"](model.trunk("cola", batch))["logits"]
        shaken(model.trunk)
        encoded = model.trunk("cola", batch)
        now = model.heads["stsb"](encoded)["logits"]
        term = model.trunk.batch_loss(batch, encoded, model.heads, model.tasks)
    assert term is not None and term.item() == pytest.approx(
        (now - then).square().sum().item(), rel=1e-5
    )


def test_a_resumed_stage_keeps_what_was_known_when_it_began() -> None:
    model = distilled()
    shaken(model.trunk, seed=3)
    other = distilled()
    other.load_state_dict(model.state_dict())
    other.trunk.enter(1, anew=False)
    one, two = term_of(model), term_of(other)
    assert one is not None and two is not None and torch.equal(one, two) and one > 0.01


def test_the_distance_of_single_scores_is_their_squared_difference() -> None:
    from types import SimpleNamespace

    from mtlcli.sharing.progressive_distill.trunk import _distance

    task: Any = SimpleNamespace(loss_kind="classification", token_outputs=False)
    now, then = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert float(_distance(now, then, task, torch.ones(2, 1, dtype=torch.bool))) == 5.0
