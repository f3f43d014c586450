"""The space of a search on the command line: its entries as overrides, which are checked like those
of a sweep, and as Optuna's distributions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mtlcli.commands import hydra_value
from mtlcli.config.schema import kinds
from mtlcli.config.sweep import Sweep, not_searched

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def written(value: Any) -> str:
    """Return a value in the form that Hydra's grammar reads. Numbers keep every digit."""
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return hydra_value(value)


def ends(space: Any) -> list[str]:
    """Return an override of several values for each sound entry of a space: all values of a list,
    both ends of a range. What is wrong with the others, `Sweep.problems` says."""
    texts = []
    for key, choice in space.items() if isinstance(space, dict) else ():
        values = choice if isinstance(choice, list) else []
        if isinstance(choice, dict) and {"low", "high"} <= choice.keys():
            values = [choice["low"], choice["high"]]
        if not_searched(key):
            continue
        if values and not any(isinstance(value, dict) for value in values):
            texts.append(f"{key}={','.join(map(written, values))}")
    return texts


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution for each key of a space. The values of a list are the texts that
    stand for them on the command line."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, choice in sweep.space.items():
        if isinstance(choice, list):
            found[key] = CategoricalDistribution([written(value) for value in choice])
            continue
        low, high, step = choice["low"], choice["high"], choice.get("step")
        log = choice.get("log", False)
        # A weight from 1 to 5 may be 2.5, whatever its ends look like.
        if float not in kinds(key) and all(type(each) is int for each in (low, high, step or 1)):
            found[key] = IntDistribution(low, high, log=log, step=step or 1)
        else:
            found[key] = FloatDistribution(low, high, log=log, step=step)
    return found


def override(key: str, value: Any) -> str:
    """Return the override that gives a key the value that a distribution has proposed."""
    return f"{key}={value if isinstance(value, str) else written(value)}"
