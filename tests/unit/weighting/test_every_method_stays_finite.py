"""No number that is not finite gets into the state of a weighting: one such step must not spoil all
that follow."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from mtlcli.config import Balancing, weightings
from mtlcli.weighting.base import Weighting
from mtlcli.weighting.losses.annealed import AnnealedTask
from tests.unit.weighting.steps import build, drive, random_steps, tasks

OPTIONS: dict[str, dict[str, Any]] = {
    "annealed": {"tasks": {"a": AnnealedTask(end=0.5)}},
    "coba": {"warmup": 3, "window": 4},
    "dwa": {"every": 3},
}


def make(name: str) -> Weighting:
    method: Weighting = build(name, tasks(a=1.0, b=1.0, c=1.0), **OPTIONS.get(name, {}))
    return method


@pytest.mark.filterwarnings("ignore:step .* the solver")
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("what", ["losses", "losses after the update", "gradients"])
@pytest.mark.parametrize("name", list(weightings))
def test_a_step_that_is_not_finite_leaves_no_trace(name: str, what: str, bad: float) -> None:
    steps = random_steps(["a", "b", "c"], 12, absent=False)
    expected = drive(make(name), steps)
    method = make(name)
    found = drive(method, steps[:6])
    before = json.dumps(method.state_dict())
    step, after = steps[5]
    if what == "losses":
        step.losses = dict(step.losses or {}, b=bad)
    elif what == "gradients":
        assert step.gram is not None
        step.gram = step.gram.clone()
        step.gram[1, 1] = bad
        if isinstance(method.config, Balancing) and method.known(step) == "gradients":
            method.weights(step)
    else:
        after = dict(after, b=bad)
    # What the runner calls, for a step that it may leave out afterwards.
    if what != "losses after the update":
        method.observe(step)
    if method.losses_after_step:
        assert method.observe_after(step, after) is False or what == "gradients"
    if what != "gradients":
        assert json.dumps(method.state_dict()) == before
    assert "NaN" not in json.dumps(method.state_dict()) and "Infinity" not in json.dumps(
        method.state_dict()
    )
    found += drive(method, steps[6:])
    assert all(math.isfinite(weight) for weights in found for weight in weights.values())
    if what == "losses" or not method.losses_after_step:
        assert found == expected
    assert all(bool(torch.isfinite(parameter).all()) for parameter in method.parameters())
