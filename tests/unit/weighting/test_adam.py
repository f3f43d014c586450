"""Adam on one number a task."""

from __future__ import annotations

import json

import pytest
import torch

from mtlcli.weighting.adam import Adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_torchs_adam(weight_decay: float) -> None:
    """One parameter a task, in float64; a task without a gradient is left alone by both."""
    values = {"a": 0.5, "b": -2.0}
    parameters = {
        name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
        for name, value in values.items()
    }
    theirs = torch.optim.Adam(parameters.values(), lr=0.03, weight_decay=weight_decay)
    ours = Adam(values, 0.03, weight_decay)
    generator = torch.Generator().manual_seed(0)
    for number in range(50):
        gradient = dict(
            zip(
                values,
                torch.randn(2, generator=generator, dtype=torch.float64).tolist(),
                strict=True,
            )
        )
        if number % 3 == 0:
            del gradient["b"]
        theirs.zero_grad()
        for name, slope in gradient.items():
            parameters[name].grad = torch.tensor(slope, dtype=torch.float64)
        theirs.step()
        ours.step(values, gradient)
        assert list(values.values()) == pytest.approx(
            [parameter.item() for parameter in parameters.values()], rel=1e-12
        )


def test_its_state_survives_json() -> None:
    values, copied = {"a": 0.5, "b": -2.0}, {"a": 0.5, "b": -2.0}
    ours, other = Adam(values, 0.03), Adam(values, 0.03)
    for number in range(10):
        gradient = {"a": 0.1 * number, "b": 1 / (number + 3)}
        ours.step(values, gradient)
        if number == 4:
            other.load_state_dict(json.loads(json.dumps(ours.state_dict())))
            copied = dict(values)
        elif number > 4:
            other.step(copied, gradient)
    assert copied == values
