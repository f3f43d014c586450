"""Metrics of the package `evaluate`: a folder or file on this machine, or a name on the hub.
Loading such a metric runs its code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from mtlcli.errors import UserError
from mtlcli.metrics import OUTSIDE


@cache
def load(name: str) -> Any:
    """Return the `evaluate` metric of the name `evaluate:NAME`. Imports evaluate, which takes
    seconds. Raises UserError when the metric cannot be loaded."""
    import evaluate

    path = name.removeprefix(OUTSIDE)
    try:
        return evaluate.load(str(Path(path).expanduser()), keep_in_memory=True)
    except Exception as error:  # Loading runs the metric's own code.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fix = (
            "give the folder of a metric on this machine, as evaluate:PATH, or a name on the hub "
            "while it can be reached"
        )
        raise UserError(f"the metric cannot be loaded: {reason}", name, fix) from error


def check(name: str, task_type: str, predictions: list[Any], references: list[Any]) -> None:
    """Load a metric and let it score a small example. Raises UserError when the metric cannot be
    loaded, or cannot score tasks of this type."""
    load(name)
    try:
        if compute_outside(name, predictions, references):
            return
        reason = "it returns no number"
    except Exception as error:  # noqa: BLE001 (it is the metric's own code that fails)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UserError(
        f"the metric cannot score a {task_type} task: {reason}",
        name,
        "take it out, or name another one",
    )


def compute_outside(
    name: str, predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float]:
    """Return every number in the metric's result. A single number has the key `evaluate:NAME`;
    several have `evaluate:NAME.KEY` each."""
    result = load(name).compute(predictions=list(predictions), references=list(references)) or {}
    numbers = {key: float(value) for key, value in result.items() if isinstance(value, Real)}
    return {name if len(numbers) == 1 else f"{name}.{key}": value for key, value in numbers.items()}
