"""The rule for numbers that are not finite: what its errors name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcli.errors import NotFinite, RunError
from mtlcli.training.finite import (
    finite_gradient_norm,
    require_finite,
    require_finite_gram,
    require_finite_losses,
)
from mtlcli.training.task_batch import TaskBatch
from mtlcli.training.trained_parameters import TrainedParameters
from tests.small import small_model, small_step

BATCHES = {
    name: TaskBatch(micro=[], examples=2, tokens=0, own_tokens=0, indices=np.array([10 + place, 2]))
    for place, name in enumerate(("cola", "stsb", "squad"))
}


def test_losses_and_shared_gradients_name_their_tasks_and_rows() -> None:
    step = small_step(number=7)
    step.losses = {"cola": 1.0, "stsb": float("nan"), "squad": float("inf")}
    with pytest.raises(NotFinite) as caught:
        require_finite_losses(step, BATCHES)
    (problem,) = caught.value.problems
    assert (problem.where, problem.what) == (
        "step 7",
        "the loss of stsb is nan (train features 2, 11); the loss of squad is inf (train features "
        "2, 12)",
    )
    assert problem.fix and "runner.skip_nonfinite" in problem.fix
    step.gram = torch.eye(3, dtype=torch.float64)
    require_finite_gram(step, BATCHES)
    step.gram[2, 2] = float("inf")
    with pytest.raises(NotFinite, match="^step 7: the shared gradient of squad is not finite"):
        require_finite_gram(step, BATCHES)


@pytest.mark.parametrize(
    ("parameter", "rows"),
    [
        ("heads.stsb.output.bias", "stsb: train features 2, 11"),
        (
            "trunk.backbone",
            "cola: train features 2, 10; stsb: train features 2, 11; squad: train features 2, 12",
        ),
    ],
)
def test_a_gradient_names_the_rows_of_the_tasks_that_it_comes_from(
    parameter: str, rows: str
) -> None:
    model, weighting = small_model("hard")
    parameters = TrainedParameters(model, list(BATCHES))
    for each in parameters.all:
        each.grad = torch.ones_like(each)
    whole = sum(each.numel() for each in parameters.all) ** 0.5
    norm = finite_gradient_norm(parameters, weighting, small_step(), BATCHES)
    assert norm.item() == pytest.approx(whole, rel=1e-5)
    name = next(name for name in parameters.named if name.startswith(parameter))
    parameters.named[name].grad.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(NotFinite) as caught:
        finite_gradient_norm(parameters, weighting, small_step(number=7), BATCHES)
    (problem,) = caught.value.problems
    assert (problem.where, problem.what) == (
        "step 7",
        f"the gradient norm is nan, as the gradient of {name} is not finite ({rows})",
    )


def test_what_is_not_finite_is_named() -> None:
    good = {
        "a": torch.full((3,), 3e38),
        "b": torch.ones(2, dtype=torch.uint8),
        "c": torch.tensor(1.0),
    }
    require_finite(good, "step 3", "fix")  # The sum of a is infinite, its numbers are not.
    for bad in (torch.tensor([1.0, float("nan")]), torch.tensor([float("inf"), -float("inf")])):
        with pytest.raises(RunError) as caught:
            require_finite(good | {"moment": bad}, "step 3", "fix")
        assert str(caught.value.problems[0]).startswith(
            "step 3: moment is not finite after the update"
        )
    with pytest.raises(RunError, match="s is inf after the update"):
        require_finite({"s": torch.tensor(float("inf"))}, "step 3", "fix")
