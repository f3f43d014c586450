"""The configuration of a run: a dataclass for each section. Imports neither torch nor hydra."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen

from mtlcli.config.augmentation import AugmentationConfig, NoAugmentation, augmentations
from mtlcli.config.optim import AdamWOptim, Optim, optims
from mtlcli.config.run import Data, Init, Logger, Model, Runner, Text
from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import OneOf, section
from mtlcli.config.sharing import SharingConfig, sharings
from mtlcli.config.stages import Stage
from mtlcli.config.sweep import Sweep
from mtlcli.config.task import Task, task_types
from mtlcli.config.weighting import Balancing, WeightingConfig, weightings
from mtlcli.registry import Registry


@section
class Config:
    """A run. `conf/train.yaml` is its table of contents."""

    tasks: Annotated[dict[str, Annotated[Task, OneOf(task_types, "type")]], MinLen(1)]
    """The tasks by name; `task=` fills it."""
    form: Literal["head", "text"] = "head"
    """How tasks are put to the model: each with a head of its own, or all as prompts that one
    language model answers (`text`); `tasks.NAME.form` differs for one task."""
    text: Text = field(default_factory=Text)
    """How a language model answers."""
    model: Model = field(default_factory=Model)
    """The backbone."""
    init: Init = field(default_factory=Init)
    """The weights of another run to begin with."""
    sharing: Annotated[SharingConfig, OneOf(sharings)]
    """Which parameters tasks share."""
    weighting: Annotated[WeightingConfig, OneOf(weightings)]
    """How the tasks' losses become one update."""
    sampling: Annotated[SamplingConfig, OneOf(samplings)]
    """Which tasks make up a step."""
    augmentation: Annotated[AugmentationConfig, OneOf(augmentations)] = field(
        default_factory=NoAugmentation
    )
    """What training does with batches beside taking their loss."""
    optim: Annotated[Optim, OneOf(optims)] = field(default_factory=AdamWOptim)
    """The optimiser and its schedule."""
    data: Data = field(default_factory=Data)
    """Where rows come from and how they are encoded."""
    runner: Runner = field(default_factory=Runner)
    """How the run is carried out."""
    logger: Logger = field(default_factory=Logger)
    """What is shown and written."""
    sweep: Sweep = field(default_factory=Sweep)
    """How `mtl train -m` chooses the values of its jobs. A run folder does not hold it."""
    stages: dict[str, Stage] = field(default_factory=dict)
    """Runs that follow one another, in this order, by name: `mtl train` then carries out all of
    them. The first is what the others are compared with. A run folder does not hold them."""
    seed: Annotated[int, Ge(0), Le(2**128 - 1)] = 0
    """Seed of weights, order of data, sampling and dropout."""
    run_dir: str | None = None
    """The run folder; null: `runs/<date>_<time>_<suite>_<sharing>_<weighting>`."""
    resume: str | None = None
    """A run folder, or one checkpoint of it: go on from there, with the run's own configuration.
    `auto`: go on in `run_dir` if a run has begun there, else start one."""
    allow: list[str] = field(default_factory=list)
    """Keys whose change is meant although it changes the result of the run that is resumed."""

    @property
    def formed_tasks(self) -> dict[str, Task]:
        """The tasks by name, with the run's `form` where a task has none of its own, and with a
        fold in place of their validation splits if the run has folds. This is not a key of the
        configuration."""
        return {
            name: replace(
                task,
                form=task.form or self.form,
                splits=task.splits.with_fold(self.data.fold_split),
            )
            for name, task in self.tasks.items()
        }

    @property
    def environment(self) -> dict[tuple[str | int, ...], tuple[str, Any]]:
        """Values that came from environment variables: place -> the text in the configuration, and
        its value. This is not a key of the configuration."""
        return vars(self).setdefault("_environment", {})


@section
class Resolved(Config):
    """A Config in which the run has filled in every value that was left open. Only this form is
    saved, and it never changes."""


METHODS: dict[str, Registry] = {
    "sharing": sharings,
    "weighting": weightings,
    "sampling": samplings,
    "augmentation": augmentations,
    "optim": optims,
}
"""The methods of each group of conf/ in which a file chooses one."""

__all__ = [
    "METHODS",
    "Balancing",
    "Config",
    "Data",
    "Init",
    "Logger",
    "Model",
    "Optim",
    "Resolved",
    "Runner",
    "Stage",
    "Sweep",
    "Task",
    "Text",
    "augmentations",
    "optims",
    "samplings",
    "sharings",
    "task_types",
    "weightings",
]
