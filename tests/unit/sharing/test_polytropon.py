"""Polytropon: peft's own layer, the blocks of MHR, and noise that is drawn once a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.poly import PolyConfig
from peft.tuners.poly.layer import Linear as PolyLinear
from torch import nn
from torch.distributions.relaxed_bernoulli import RelaxedBernoulli

from mtlcli.errors import UserError
from mtlcli.models.forward_pass import running
from mtlcli.sharing.hard import HardSharing
from mtlcli.sharing.parts.low_rank import ChangedMap
from mtlcli.sharing.polytropon import PolytroponSharing
from mtlcli.sharing.polytropon.trunk import PolytroponMap, RoutedPass
from tests.families import FAMILIES, family_batch, family_trunk
from tests.small import small_data, small_model
from tests.unit.sharing.training import batch_of
from tests.unit.training.test_step import batches, gradients, run_step

OWNERS = {"one": "one", "other": "other", "borrower": "other"}


def shaken(module: nn.Module) -> None:
    """Skills are not zero, and mixtures differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for changed in module.modules():
            if isinstance(changed, ChangedMap):
                added = {*changed.parameters()} - {*changed.inner.parameters()}
                for parameter in (each for each in changed.parameters() if each in added):
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def pair(splits: int) -> tuple[PolytroponMap, Any]:
    """A map with skills, and peft's with the same numbers."""
    torch.manual_seed(0)
    config = PolytroponSharing(rank=3, alpha=1.0, skills=5, splits=splits)
    mine = PolytroponMap(nn.Linear(8, 12), config, ["one", "other"], 1)
    shaken(mine)
    settings = PolyConfig(r=3, n_tasks=2, n_skills=5, n_splits=splits)
    theirs = PolyLinear(mine.inner, "default", settings)
    with torch.no_grad():
        theirs.poly_lora_A["default"].copy_(mine.down.transpose(2, 3))
        theirs.poly_lora_B["default"].copy_(mine.up.transpose(2, 3))
        logits: Any = [mine.logits[name].values for name in ("one", "other")]
        theirs.poly_router["default"].module_logits.copy_(torch.stack(logits))
    return mine, theirs.requires_grad_(True)


@pytest.mark.parametrize("splits", [1, 2, 4])
@pytest.mark.parametrize("noisy", [False, True])
def test_a_map_is_that_of_peft(splits: int, noisy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation, and in training with the same noise for all examples of a task."""
    mine, theirs = pair(splits)
    tasks = torch.tensor([0, 0, 1, 1, 1])
    noise = torch.randn(2, 2, splits * 5) if noisy else None
    if noise is not None:
        drawn = noise[1][tasks].view(5, splits, 5)

        def rsample(self: RelaxedBernoulli) -> torch.Tensor:
            # What torch does, but with these draws of a logistic distribution.
            return torch.sigmoid((self.logits + drawn) / self.temperature)

        monkeypatch.setattr(RelaxedBernoulli, "rsample", rsample)
    theirs.train(noisy)
    states = torch.randn(5, 2, 8)
    # peft writes into the output of the inner map.
    expected = theirs(states, task_ids=tasks)
    mask = torch.ones(5, 2, dtype=torch.bool)
    with running(RoutedPass([("one", 2), ("other", 3)], mask, noise)):
        found = mine(states)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    inner = mine.inner.weight.grad.clone()  # type: ignore[union-attr, operator]
    mine.zero_grad()
    found.square().sum().backward()
    router = theirs.poly_router["default"].module_logits.grad
    for got, wanted in (
        (mine.inner.weight.grad, inner),
        (mine.down.grad, theirs.poly_lora_A["default"].grad.transpose(2, 3)),
        (mine.up.grad, theirs.poly_lora_B["default"].grad.transpose(2, 3)),
        (mine.logits["one"].values.grad, router[0]),  # type: ignore[union-attr]
        (mine.logits["other"].values.grad, router[1]),  # type: ignore[union-attr]
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_hard_sharing_and_becomes_something_else(family: str) -> None:
    config = PolytroponSharing(splits=4)
    hard, ours = family_trunk(family, HardSharing(), OWNERS), family_trunk(family, config, OWNERS)
    batch = family_batch()
    with torch.no_grad():
        before = hard("one", batch).hidden
        assert torch.equal(ours("one", batch).hidden, before)
        shaken(ours)
        one, other, borrower = (ours(task, batch).hidden for task in OWNERS)
    assert not torch.allclose(one, before) and not torch.allclose(one, other)
    assert torch.equal(other, borrower)


def test_noise_holds_for_a_step_and_is_that_of_a_relaxed_bernoulli() -> None:
    trunk: Any = small_model(PolytroponSharing(skills=8, splits=8))[0].trunk.train()
    trunk.draw(3)
    noise = trunk.begin("cola", batch_of("cola")).noise
    trunk.draw(4)
    assert not torch.equal(trunk.begin("cola", batch_of("cola")).noise, noise)
    trunk.draw(3)
    assert torch.equal(trunk.begin("stsb", batch_of("stsb")).noise, noise)
    torch.manual_seed(0)
    zeros = torch.zeros(noise.numel())
    theirs = RelaxedBernoulli(temperature=1.0, logits=zeros).sample().sort().values
    assert (noise.sigmoid().flatten().sort().values - theirs).abs().max() < 0.05
    assert trunk.eval().begin("cola", batch_of("cola")).noise is None


def test_a_step_has_noise_that_its_number_decides() -> None:
    _, _, features, _ = small_data()
    model, weighting = small_model("polytropon")
    shaken(model)
    given = batches(model, features)
    losses = [run_step(model, weighting, given, number).losses for number in (0, 1, 0)]
    assert torch.equal(losses[0], losses[2]) and not torch.allclose(losses[0], losses[1])
    quiet, weighting = small_model(PolytroponSharing(noise=False))
    shaken(quiet)
    assert torch.equal(*(run_step(quiet, weighting, given, number).losses for number in (0, 1)))
    cut = batches(model, features, 3)
    model.zero_grad()
    run_step(model, weighting, given)
    whole = gradients(model)
    model.zero_grad()
    run_step(model, weighting, cut)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-5, rtol=1e-3)


def test_who_uses_what_and_how_fast_it_learns() -> None:
    model, _ = small_model(PolytroponSharing(frozen=True, lr=0.3))
    for name, info in model.parameter_infos.items():
        last = name.split(".")[-1]
        if last == "values":
            assert info.users == (name.split(".")[-2],) and info.lr == 0.3 and info.depth > 0
        elif last in ("down", "up"):
            assert info.users == tuple(model.tasks) and info.lr is None
        else:
            assert name.startswith("heads.") or not model.get_parameter(name).requires_grad


def test_blocks_of_unequal_size_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be cut into 3 blocks") as caught:
        small_model(PolytroponSharing(splits=3))
    assert caught.value.problems[0].where == "sharing.splits"


def test_statistics_say_how_alike_the_tasks_mix() -> None:
    trunk: Any = small_model(PolytroponSharing(skills=2))[0].trunk
    with torch.no_grad():
        for each in trunk.maps:
            for name, values in (("cola", [90, -90]), ("stsb", [-90, 90]), ("squad", [90, 90])):
                each.logits[name].values.copy_(torch.tensor(values, dtype=torch.float32))
    found = np.array(trunk.measures()["cosines"])
    half = 0.5**0.5
    assert found == pytest.approx(np.array([[1, 0, half], [0, 1, half], [half, half, 1]]), abs=1e-4)
