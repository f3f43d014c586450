"""Schedules against the library's, and which parameters get which rate and decay."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from mtlcli.config.optim import AdamWOptim, MuonOptim, Optim, optims
from mtlcli.errors import UserError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.training.optim import Unfreezing, build_optimizer, schedule_lr_factor, set_lr
from mtlcli.training.optimizers import LionOptimizer, Optimizers
from mtlcli.weighting.base import Weighting
from tests.small import small_model


@pytest.mark.parametrize(
    ("schedule", "library"),
    [
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
        (
            "constant",
            lambda optimizer, warmup, _: get_constant_schedule_with_warmup(optimizer, warmup),
        ),
        ("inverse_sqrt", lambda optimizer, warmup, _: get_inverse_sqrt_schedule(optimizer, warmup)),
        (
            "wsd",
            lambda optimizer, warmup, steps: get_wsd_schedule(
                optimizer, warmup, 8, steps, decay_type="linear"
            ),
        ),
    ],
)
@pytest.mark.parametrize("warmup", [0, 0.1, 7])
def test_learning_rates_equal_those_of_the_library(schedule: str, library, warmup: float) -> None:  # type: ignore[no-untyped-def]
    steps = 40
    optim = AdamWOptim(lr=1.0, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule_of_library = library(
        reference, int(warmup * steps) if warmup < 1 else int(warmup), steps
    )
    for step in range(steps):
        assert schedule_lr_factor(optim, step, steps) == pytest.approx(
            reference.param_groups[0]["lr"], abs=1e-12
        )
        reference.step()
        schedule_of_library.step()


@pytest.mark.parametrize(
    ("decay", "rates"),
    [(4, [1.0, 1.0, 0.75, 0.25]), (0.5, [1.0, 0.8, 0.6, 0.2]), (None, [1.0, 1.0, 1.0, 0.5])],
)
def test_the_decay_of_wsd_is_a_share_or_a_number_of_steps(
    decay: float | None, rates: list[float]
) -> None:
    optim = AdamWOptim(lr=1.0, schedule="wsd", warmup=0, decay=decay)
    assert [schedule_lr_factor(optim, step, 10) for step in (5, 6, 7, 9)] == pytest.approx(rates)


@pytest.mark.parametrize("sharing", ["hard", "none"])
def test_groups_follow_ownership_and_shape(sharing: str) -> None:
    model, weighting = small_model(sharing, lr_factors={"cola": 3.0}, weighting="uncertainty")
    optimizer = build_optimizer(AdamWOptim(lr=0.01, weight_decay=0.1), model, weighting)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    users = model.users()
    for name, parameter in model.named_parameters():
        expected_lr = 0.03 if users[name] == ("cola",) else 0.01
        assert found.pop(id(parameter)) == (
            pytest.approx(expected_lr),
            0.1 if parameter.ndim > 1 else 0.0,
        ), name
    assert {found.pop(id(p)) for p in weighting.parameters()} == {(0.01, 0.0)}
    assert not found


def test_each_layer_has_a_lower_learning_rate_than_the_one_above() -> None:
    model, weighting = small_model("hard")
    optimizer = build_optimizer(AdamWOptim(lr=1.0, layer_decay=0.5), model, weighting)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        part = (
            "head"
            if name.startswith("heads")
            else "layer.0"
            if "layer.0" in name
            else "layer.1"
            if "layer.1" in name
            else "embeddings"
        )
        rates.setdefault(part, set()).add(found[id(parameter)])
    assert rates == {"head": {1.0}, "layer.1": {0.5}, "layer.0": {0.25}, "embeddings": {0.125}}


def trained_parts(model: MultiTaskModel) -> set[str]:
    """Which of head, layer.0, layer.1, embeddings can be trained; a part must be so as a whole."""
    parts: dict[str, set[bool]] = {}
    for name, parameter in model.named_parameters():
        part = next((part for part in ("layer.0", "layer.1", "embeddings") if part in name), "head")
        parts.setdefault(part, set()).add(parameter.requires_grad)
    assert all(len(each) == 1 for each in parts.values())
    return {part for part, each in parts.items() if True in each}


def test_gradual_unfreezing_goes_from_the_top() -> None:
    model, _ = small_model("none")
    unfreezing = Unfreezing(model, 5)
    wanted = {0: {"head"}, 4: {"head"}, 5: {"head", "layer.1"}, 10: {"head", "layer.1", "layer.0"}}
    wanted |= {
        15: {"head", "layer.1", "layer.0", "embeddings"},
        100: {"head", "layer.1", "layer.0", "embeddings"},
    }
    for step, parts in wanted.items():
        unfreezing.apply(step)
        assert trained_parts(model) == parts, step


@pytest.mark.parametrize(
    ("layers", "parts"),
    [(0, {"head", "layer.0", "layer.1"}), (1, {"head", "layer.1"}), (2, {"head"})],
)
def test_frozen_layers_stay_frozen(layers: int, parts: set[str]) -> None:
    model, _ = small_model("hard", frozen_layers=layers)
    assert trained_parts(model) == parts
    Unfreezing(model, 1).apply(100)
    assert trained_parts(model) == parts


def test_more_frozen_layers_than_there_are() -> None:
    with pytest.raises(UserError, match="the backbone has 2 layers"):
        small_model("hard", frozen_layers=3)


# ------------------------------------------------------------------------------------------------
# optimisers

OTHERS = [name for name in optims if name != "adamw_8bit" or find_spec("bitsandbytes")]


def make(name: str, **options: Any) -> tuple[MultiTaskModel, Weighting, Optimizers]:
    model, weighting = small_model("hard", weighting="uncertainty", lr_factors={"cola": 3.0})
    return (
        model,
        weighting,
        build_optimizer(optims.configs[name](lr=0.01, **options), model, weighting),
    )


def give_gradients(model: MultiTaskModel, weighting: Weighting, seed: int) -> None:
    """Random gradients for all parameters but the first matrix of a layer, as if it was frozen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in (*model.parameters(), *weighting.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    next(parameter for name, parameter in model.named_parameters() if "layer.0" in name).grad = None


@pytest.mark.parametrize("name", OTHERS)
def test_every_parameter_has_one_optimiser_learning_rate_and_decay(name: str) -> None:
    model, weighting, optimizer = make(name, layer_decay=0.5, weight_decay=0.1)
    _, _, reference = make("adamw", layer_decay=0.5, weight_decay=0.1)
    parameters = [*model.parameters(), *weighting.parameters()]
    found = {
        id(each): (group["lr"], group["peak"], group["weight_decay"])
        for group in optimizer.param_groups
        for each in group["params"]
    }
    assert (
        len(found)
        == len(parameters)
        == sum(len(group["params"]) for group in optimizer.param_groups)
    )
    expected = sorted(
        (group["lr"], group["peak"], group["weight_decay"])
        for group in reference.param_groups
        for _ in group["params"]
    )
    assert sorted(found.values()) == expected


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_goes_through_named_tensors_to_the_bit(name: str) -> None:
    model, weighting, optimizer = make(name)
    names = {
        parameter: key
        for key, parameter in (*model.named_parameters(), *weighting.named_parameters().items())
    }
    other, others_weighting, resumed = make(name)
    for seed in range(6):
        give_gradients(model, weighting, seed)
        if seed == 3:
            other.load_state_dict(model.state_dict())
            others_weighting.load_state_dict(weighting.state_dict())
            their_names = {
                parameter: key
                for key, parameter in (
                    *other.named_parameters(),
                    *others_weighting.named_parameters().items(),
                )
            }
            resumed.load(
                their_names, {key: value.clone() for key, value in optimizer.tensors(names).items()}
            )
        set_lr(optimizer, 0.5**seed)
        optimizer.step()
        if seed >= 3:
            give_gradients(other, others_weighting, seed)
            set_lr(resumed, 0.5**seed)
            resumed.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert others_weighting.state_dict() == weighting.state_dict()
    assert all(value.isfinite().all() for value in optimizer.tensors(names).values())
    resting = next(key for key in names.values() if "layer.0" in key)
    assert not any(key.startswith(f"{resting}/") for key in optimizer.tensors(names)), (
        "without a gradient there is no state"
    )


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_optimiser_is_refused(name: str) -> None:
    model, weighting, optimizer = make(name)
    names = {
        parameter: key
        for key, parameter in (*model.named_parameters(), *weighting.named_parameters().items())
    }
    give_gradients(model, weighting, 0)
    optimizer.step()
    another = "lion" if name != "lion" else "adamw"
    other, others_weighting, wrong = make(another)
    their_names = {
        parameter: key
        for key, parameter in (
            *other.named_parameters(),
            *others_weighting.named_parameters().items(),
        )
    }
    with pytest.raises(ValueError, match="is missing|which the run does not have"):
        wrong.load(their_names, optimizer.tensors(names))


def test_muon_trains_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    model, weighting, optimizer = make("muon")
    (_, muon), (_, adam) = optimizer.parts
    assert isinstance(muon, torch.optim.Muon) and isinstance(adam, torch.optim.AdamW)
    names = {parameter: name for name, parameter in model.named_parameters()}
    taken = {names[parameter] for group in muon.param_groups for parameter in group["params"]}
    assert taken == {
        name
        for name, each in model.named_parameters()
        if each.ndim == 2 and "layer." in name or "pooler.dense.weight" in name
    }
    assert {parameter for group in adam.param_groups for parameter in group["params"]} >= set(
        weighting.parameters()
    )


def test_muon_equals_torchs_with_the_learning_rate_of_adamw() -> None:
    model, weighting, optimizer = make("muon", weight_decay=0.1)
    (_, muon), _ = optimizer.parts
    copies = [
        [torch.nn.Parameter(each.detach().clone()) for each in group["params"]]
        for group in muon.param_groups
    ]
    theirs = torch.optim.Muon(
        [
            {"params": params, "lr": group["lr"], "weight_decay": 0.1}
            for params, group in zip(copies, muon.param_groups, strict=True)
        ],
        adjust_lr_fn="match_rms_adamw",
    )
    give_gradients(model, weighting, 0)
    for group, params in zip(muon.param_groups, copies, strict=True):
        for one, other in zip(group["params"], params, strict=True):
            other.grad = None if one.grad is None else one.grad.clone()
    optimizer.step()
    theirs.step()
    for group, params in zip(muon.param_groups, copies, strict=True):
        assert all(
            torch.equal(one, other) for one, other in zip(group["params"], params, strict=True)
        )


def test_lion_is_the_papers_program() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = LionOptimizer(
        [{"params": [parameter], "lr": 0.1, "weight_decay": 0.5}], [0.9, 0.99]
    )
    weights, momentum = parameter.detach().clone(), torch.zeros(3)
    for gradient in (
        torch.tensor([1.0, -1.0, 0.0]),
        torch.tensor([-3.0, -1.0, 2.0]),
        torch.tensor([-0.01, 0.0, -0.01]),
    ):
        parameter.grad = gradient.clone()
        optimizer.step()
        update = torch.sign(0.9 * momentum + 0.1 * gradient)
        weights = weights - 0.1 * (update + 0.5 * weights)
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(parameter.detach(), weights)
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], momentum)


def test_values_that_do_not_fit_together_are_reported() -> None:
    def said(optim: Optim) -> list[str]:
        return [f"{problem.where}: {problem.what}" for problem in optim.problems()]

    assert said(MuonOptim(betas=[0.9, 1.0])) == [
        "optim.betas: must be two numbers from 0 to below 1, found [0.9, 1.0]"
    ]
    assert said(AdamWOptim(decay=0.1)) == [
        "optim.decay: the value has no effect with optim.schedule=linear"
    ]
    assert said(AdamWOptim(decay=1.5, schedule="wsd")) == [
        "optim.decay: 1.5 is neither a share below 1 nor a whole number of steps"
    ]
    assert said(AdamWOptim(decay=0.7, warmup=0.4, schedule="wsd")) == [
        "optim.decay: the warm-up and the decay together are longer than the run"
    ]
    assert said(AdamWOptim(schedule="wsd")) == []
