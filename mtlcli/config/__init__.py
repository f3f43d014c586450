"""The configuration of a run: dataclasses, one section each. No torch, no hydra."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Union

from annotated_types import Ge, Le, MinLen

from mtlcli.config.balancing import Balancing
from mtlcli.config.optim import AdamWOptim, Optim, optims
from mtlcli.config.run import Data, Logger, Model, Runner
from mtlcli.config.sampling import samplings
from mtlcli.config.section import section
from mtlcli.config.sharing import sharings
from mtlcli.config.task import Task, task_types
from mtlcli.config.weighting import weightings
from mtlcli.registry import Registry


@dataclass(frozen=True)
class _ToldApartBy:
    """pydantic's Discriminator, imported only when a configuration is validated: shell completion
    reads the schema without it."""

    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator

        return Discriminator(self.key).__get_pydantic_core_schema__(source, handler)


def _one_of(registry: Registry, key: str) -> Any:
    """The union of a registry's configs, told apart by the literal field `key`."""
    # Written out as a subscription: ruff would turn Union[tuple(...)] into a plain tuple.
    return Annotated[Union.__getitem__(tuple(registry.configs.values())), _ToldApartBy(key)]


@section
class Config:
    """A run. `conf/train.yaml` is its table of contents."""

    tasks: Annotated[dict[str, _one_of(task_types, "type")], MinLen(1)]  # type: ignore[valid-type]
    """The tasks by name; `task=` fills it."""
    model: Model = field(default_factory=Model)
    """The backbone."""
    sharing: _one_of(sharings, "name")  # type: ignore[valid-type]
    """Which parameters tasks share."""
    weighting: _one_of(weightings, "name")  # type: ignore[valid-type]
    """How the tasks' losses become one update."""
    sampling: _one_of(samplings, "name")  # type: ignore[valid-type]
    """Which tasks make up a step."""
    optim: _one_of(optims, "name") = field(default_factory=AdamWOptim)  # type: ignore[valid-type]
    """The optimiser and its schedule."""
    data: Data = field(default_factory=Data)
    """Where rows come from and how they are encoded."""
    runner: Runner = field(default_factory=Runner)
    """How the run is carried out."""
    logger: Logger = field(default_factory=Logger)
    """What is shown and written."""
    seed: Annotated[int, Ge(0), Le(2**128 - 1)] = 0
    """Seed of weights, order of data, sampling and dropout."""
    run_dir: str | None = None
    """The run folder; null: runs/<date>_<time>_<suite>_<sharing>_<weighting>."""
    resume: str | None = None
    """A run folder, or one checkpoint of it: go on from there, with the run's own configuration.
    `auto`: go on in `run_dir` if a run has begun there, else start one."""
    allow: list[str] = field(default_factory=list)
    """Keys whose change is meant although it changes the result of the run that is resumed."""


__all__ = [
    "Balancing",
    "Config",
    "Data",
    "Logger",
    "Model",
    "Optim",
    "Runner",
    "Task",
    "optims",
    "samplings",
    "sharings",
    "task_types",
    "weightings",
]
