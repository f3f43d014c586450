"""A weighting's state through JSON in the middle of training: the rest of the trajectory is the
same to the bit."""

from __future__ import annotations

import json

import pytest
import torch

from mtlcli.config import weightings
from mtlcli.distributed.process_group import Ranks
from tests.small import small_data
from tests.trajectory import make, optimizer_of, train

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", list(weightings))
def test_training_goes_on_from_a_saved_state(name: str) -> None:
    _, _, features, _ = small_data()
    model, weighting = make(name)
    optimizer = optimizer_of(model, weighting)
    train(model, weighting, optimizer, features, ALONE, range(5))
    saved = json.dumps(weighting.state_dict())
    kept = {name: tensor.clone() for name, tensor in weighting.tensors().items()}
    weights, moments = (
        {key: value.clone() for key, value in model.state_dict().items()},
        optimizer.state_dict(),
    )
    expected = train(model, weighting, optimizer, features, ALONE, range(5, 9))

    other, resumed = make(name)
    other.load_state_dict(weights)
    resumed.load_state_dict(json.loads(saved))
    resumed.load_tensors(kept)
    again = optimizer_of(other, resumed)
    again.load_state_dict(moments)
    assert train(other, resumed, again, features, ALONE, range(5, 9)) == expected
    assert resumed.state_dict() == weighting.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
