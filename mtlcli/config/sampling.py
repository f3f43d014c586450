"""Sampling policies: which tasks, and how many examples of each, make up a step. One dataclass per
policy."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlcli.config.section import section
from mtlcli.registry import Registry

samplings = Registry("sampling")


@samplings.register("proportional", "mtlcli.sampling.proportional:Proportional")
@section
class ProportionalSampling:
    """One task a step; in an epoch every task is met once through, in an order shuffled anew (Liu
    et al. 2019, MT-DNN)."""

    all_tasks: ClassVar[bool] = False
    """Whether every step holds every task, which methods that compare tasks within a step need."""
    name: Literal["proportional"] = "proportional"
    """Policy."""


@samplings.register("temperature", "mtlcli.sampling.temperature:Temperature")
@section
class TemperatureSampling:
    """One task a step, drawn with probability proportional to min(size, cap)^(1/temperature)
    (Raffel et al. 2020)."""

    all_tasks: ClassVar[bool] = False
    """Whether every step holds every task, which methods that compare tasks within a step need."""
    name: Literal["temperature"] = "temperature"
    """Policy."""
    temperature: Annotated[float, Ge(1)] = 2.0
    """1 is proportional; large values approach uniform."""
    cap: Annotated[int, Gt(0)] | None = None
    """Sizes above this count as this (examples); null: no cap."""


@samplings.register("uniform", "mtlcli.sampling.uniform:Uniform")
@section
class UniformSampling:
    """One task a step, each equally often."""

    all_tasks: ClassVar[bool] = False
    """Whether every step holds every task, which methods that compare tasks within a step need."""
    name: Literal["uniform"] = "uniform"
    """Policy."""


@samplings.register("all", "mtlcli.sampling.all:All")
@section
class AllSampling:
    """Every task in every step; small tasks are repeated until the largest has been met once."""

    all_tasks: ClassVar[bool] = True
    """Whether every step holds every task, which methods that compare tasks within a step need."""
    name: Literal["all"] = "all"
    """Policy."""
