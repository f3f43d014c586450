"""Tasks that go through the trunk together, grouped by length: the same step as one task after the
other, in fewer passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.config import sharings
from mtlcli.data.batches import Batch, InputFormat
from mtlcli.data.pack import budget
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.packed import packing_of
from mtlcli.training import mixed_batches
from mtlcli.training.step import Backward, Outcome
from tests.small import small_data, small_model, small_step
from tests.unit.training.test_step import ALONE, batches, gradients

PACKING = [name for name in sharings if sharings.implementation(name).packs]
JOINT = [name for name in sharings if getattr(sharings.implementation(name), "joint", False)]


def moved(sharing: str, weighting: str = "static", **options: object):  # type: ignore[no-untyped-def]
    """A model with weights that nothing hides: adapters and the like start at zero."""
    model, weights = small_model(
        sharing, weighting=weighting, weights={"cola": 0.5, "stsb": 2.0}, **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model, weights


def passes_of(model: MultiTaskModel) -> list[Batch]:
    """A list to which the batches are added that go through the trunk from now on."""
    seen: list[Batch] = []
    model.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    return seen


def step(
    model,
    weighting,
    given,
    *,
    together: bool,
    probe: bool = False,
    seed: int = 0,
    most: int = 10_000,
) -> tuple[Outcome, dict[str, torch.Tensor]]:  # type: ignore[no-untyped-def]
    model.zero_grad()
    torch.manual_seed(seed)
    backward = Backward(model, weighting, ALONE, bf16=False, together=together, max_tokens=most)
    outcome = (backward.probe if probe else backward)(given, small_step(given))
    return outcome, gradients(model)


def test_the_strategies_that_mix_batches_are_listed() -> None:
    assert set(JOINT) == {
        *("hard", "adapters", "pal", "attention", "mmoe", "cgc"),
        *("mtl_lora", "hydra_lora", "polytropon", "prompt", "prefix"),
    }


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("sharing", JOINT)
def test_the_step_is_the_same(
    sharing: str, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixed_batches.PASS_OVERHEAD_TOKENS, "cpu", 1000)
    _, _, features, _ = small_data()
    model, weighting = moved(sharing)
    given = batches(model, features, accumulation)
    alone, expected = step(model, weighting, given, together=False)
    told = model.trunk.measures()
    seen = passes_of(model)
    outcome, found = step(model, weighting, given, together=True)
    assert any(len({name for name, _ in batch.parts}) > 1 for batch in seen)
    torch.testing.assert_close(outcome.losses, alone.losses, atol=0, rtol=1e-5)
    assert outcome.weights == alone.weights
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=1e-4)
    if "load" in told:
        for name, weights in told["load"]["layer 1"].items():
            assert model.trunk.measures()["load"]["layer 1"][name] == pytest.approx(
                weights, abs=1e-3
            )


@pytest.mark.parametrize("most", [1, 600])
@pytest.mark.parametrize("overhead", [0, 1000])
def test_mixed_batches_keep_to_the_largest_task_and_to_max_tokens(
    overhead: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixed_batches.PASS_OVERHEAD_TOKENS, "cpu", overhead)
    _, _, features, _ = small_data()
    model, weighting = moved("hard")
    given = batches(model, features)
    seen = passes_of(model)
    outcome, _ = step(model, weighting, given, together=True, most=most)
    largest = max(micro.input_ids.numel() for batch in given.values() for micro in batch.micro)
    assert max(batch.input_ids.numel() for batch in seen) <= max(largest, most)
    tokens = sum(batch.own_tokens for batch in given.values())
    assert sum(int(batch.attention_mask.sum()) for batch in seen) == tokens
    assert sum(batch.input_ids.numel() for batch in seen) == outcome.padded
    assert outcome.padded == tokens if overhead == 0 else len(seen) <= (3 if most == 1 else 2)


def test_a_probe_changes_nothing_to_the_bit_with_dropout() -> None:
    _, _, features, _ = small_data()
    model, weighting = moved("hard")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    given = batches(model, features)
    quiet, without = step(model, weighting, given, together=True)
    probed, found = step(model, weighting, given, together=True, probe=True)
    assert quiet.gram is None and probed.gram is not None
    assert torch.equal(probed.losses, quiet.losses)
    assert all(torch.equal(found[name], gradient) for name, gradient in without.items())
    _, other = step(model, weighting, given, together=True, seed=1)
    assert not all(torch.equal(other[name], gradient) for name, gradient in without.items()), (
        "dropout is at work"
    )


@pytest.mark.parametrize("weighting", ["pcgrad", "gls", "gradnorm"])
def test_methods_that_need_each_gradient_or_loss_first_go_one_by_one(weighting: str) -> None:
    _, _, features, _ = small_data()
    model, weights = moved("hard", weighting)
    seen = passes_of(model)
    step(model, weights, batches(model, features), together=True)
    assert len(seen) == 3 and not any(batch.parts for batch in seen)


def test_a_single_task_is_not_mixed() -> None:
    _, _, features, _ = small_data()
    model, weighting = moved("hard")
    given = {"cola": batches(model, features)["cola"]}
    seen = passes_of(model)
    step(model, weighting, given, together=True)
    assert [np.array_equal(batch.indices, given["cola"].micro[0].indices) for batch in seen] == [
        True
    ]


def packed_model(sharing: str):  # type: ignore[no-untyped-def]
    """The same model with packed batches."""
    model, weighting = moved(sharing, fast=False)
    model.packing = packing_of(model.trunk, InputFormat(0, True), 64, torch.device("cpu"))
    return model, weighting


def test_the_strategies_that_pack_batches_are_listed() -> None:
    assert {*sharings} - set(PACKING) == {
        *("cross_stitch", "sluice", "pal", "prefix", "prompt", "progressive_distill")
    }


@pytest.mark.parametrize("sharing", PACKING)
def test_steps_of_packed_batches_are_those_of_padded_ones(sharing: str) -> None:
    """Of classification, regression and spans, with a bound that cuts some steps into passes."""
    features = small_data()[2]
    found = []
    for model, weighting in (moved(sharing, fast=False), packed_model(sharing)):
        backward = Backward(model, weighting, ALONE, bf16=False, max_tokens=900)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        losses = []
        for number in range(20 if sharing == "hard" else 4):
            optimizer.zero_grad()
            given = batches(model, features, 1 + number % 2, first=number)
            losses.append(backward(given, small_step(given, number)).losses.tolist())
            optimizer.step()
        found.append(losses)
    padded, packed = found
    for mine, other in zip(packed, padded, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    assert packed[0] != packed[-1]


def test_a_step_is_one_packed_pass_of_a_budget() -> None:
    model, weighting = packed_model("hard")
    given = batches(model, small_data()[2], 2)
    seen = passes_of(model)
    outcome, _ = step(model, weighting, given, together=True)
    assert [[name for name, _ in batch.parts] for batch in seen] == [[*given]] * 2
    tokens = [int(batch.lengths.sum()) for batch in seen]
    assert outcome.padded == sum(map(budget, tokens))
