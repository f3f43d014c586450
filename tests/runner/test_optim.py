"""Schedules against the library's, and which parameters get which rate and decay."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from mtlcli.config.run import Optim
from mtlcli.errors import UserError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.runner.optim import Unfreezing, build_optimizer, rate
from tests.runner.small import small_model


@pytest.mark.parametrize(
    ("schedule", "library"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
@pytest.mark.parametrize("warmup", [0, 0.1, 7])
def test_rates_are_those_of_the_library(schedule: str, library, warmup: float) -> None:  # type: ignore[no-untyped-def]
    steps = 40
    optim = Optim(lr=1.0, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule_of_library = library(reference, int(warmup * steps) if warmup < 1 else int(warmup), steps)
    for step in range(steps):
        assert rate(optim, step, steps) == pytest.approx(reference.param_groups[0]["lr"], abs=1e-12)
        reference.step()
        schedule_of_library.step()


def test_constant_rate_after_warm_up() -> None:
    optim = Optim(lr=1.0, schedule="constant", warmup=4)
    assert [rate(optim, step, 10) for step in (0, 2, 4, 9)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("sharing", ["hard", "none"])
def test_groups_follow_ownership_and_shape(sharing: str) -> None:
    model, weighting = small_model(sharing, lr_factors={"cola": 3.0}, weighting="uncertainty")
    optimizer = build_optimizer(Optim(lr=0.01, weight_decay=0.1), model, weighting)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    users = model.users()
    for name, parameter in model.named_parameters():
        expected_lr = 0.03 if users[name] == ("cola",) else 0.01
        assert found.pop(id(parameter)) == (pytest.approx(expected_lr), 0.1 if parameter.ndim > 1 else 0.0), name
    assert {found.pop(id(p)) for p in weighting.parameters()} == {(0.01, 0.0)}
    assert not found


def test_each_layer_has_less_than_the_one_above() -> None:
    model, weighting = small_model("hard")
    optimizer = build_optimizer(Optim(lr=1.0, layer_decay=0.5), model, weighting)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        part = "head" if name.startswith("heads") else "layer.0" if "layer.0" in name else "layer.1" if "layer.1" in name else "embeddings"
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
    wanted |= {15: {"head", "layer.1", "layer.0", "embeddings"}, 100: {"head", "layer.1", "layer.0", "embeddings"}}
    for step, parts in wanted.items():
        unfreezing.apply(step)
        assert trained_parts(model) == parts, step


@pytest.mark.parametrize(("layers", "parts"), [(0, {"head", "layer.0", "layer.1"}), (1, {"head", "layer.1"}), (2, {"head"})])
def test_frozen_layers_stay_frozen(layers: int, parts: set[str]) -> None:
    model, _ = small_model("hard", frozen_layers=layers)
    assert trained_parts(model) == parts
    Unfreezing(model, 1).apply(100)
    assert trained_parts(model) == parts


def test_more_frozen_layers_than_there_are() -> None:
    with pytest.raises(UserError, match="the backbone has 2 layers"):
        small_model("hard", frozen_layers=3)
