"""Checks for the methods that need losses above 0, for example because they take logarithms."""

from __future__ import annotations

from mtlcli.errors import RunError
from mtlcli.weighting.base import Step, WeightedTask


def positive_losses(step: Step, tasks: dict[str, WeightedTask], method: str) -> dict[str, float]:
    """Return the losses of the step's tasks whose importance is above 0. Raises RunError when one
    of these losses is 0 or negative.

    A loss that is not a number passes: the run stops at it with a better message.
    """
    assert step.losses is not None, "the losses are known before they are weighted"
    losses = {name: step.losses[name] for name in step.tasks if tasks[name].weight > 0}
    for name, loss in losses.items():
        require_positive(name, loss, step, method)
    return losses


def require_positive(name: str, loss: float, step: Step, method: str) -> None:
    """Raise RunError when a loss, or a mean of losses, is 0 or negative."""
    if loss <= 0:
        raise RunError(
            f"the loss of {name} is {loss:g}, and {method} is only defined for losses above 0",
            where=f"step {step.number}",
            fix=f"choose another weighting, for example weighting=static, or leave {name} out of "
            "the run",
        )
