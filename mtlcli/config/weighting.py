"""Weighting methods: how K task losses become one update. One dataclass per method."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.registry import Registry

weightings = Registry("weighting")


@weightings.register("static", "mtlcli.weighting.losses.static:Static")
@section
class StaticWeighting:
    """Fixed weights: the sum of the tasks' losses, each times its `tasks.NAME.weight`."""

    name: Literal["static"] = "static"
    """Method."""


@weightings.register("uncertainty", "mtlcli.weighting.losses.uncertainty:Uncertainty")
@section
class UncertaintyWeighting:
    """Learned homoscedastic uncertainty (Kendall, Gal & Cipolla 2018)."""

    name: Literal["uncertainty"] = "uncertainty"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the log variances; they follow the run's schedule and have no weight decay."""
