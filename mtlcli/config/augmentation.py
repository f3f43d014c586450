"""The base classes of the configurations of augmentations. Each augmentation has its own, in its
file in `mtlcli/augmentation/`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import MinLen

from mtlcli.commands import setting
from mtlcli.config.section import section
from mtlcli.config.task import Task
from mtlcli.errors import Problem
from mtlcli.registry import Registry, suggest

if TYPE_CHECKING:
    from mtlcli.config import Config

augmentations = Registry("augmentation", "mtlcli.augmentation")


@section
class AugmentationConfig:
    """The base class of the configurations of augmentations."""

    draws: ClassVar[bool] = True
    """Whether random numbers are drawn that depend on how a batch is cut over ranks and
    micro-batches."""
    needs_dropout: ClassVar[bool] = False
    """Whether the augmentation does nothing in a model without dropout."""
    perturbs: ClassVar[bool] = False
    """Whether something is added to the word embeddings of padded batches."""
    keeps: ClassVar[bool] = False
    """Whether it keeps what the run knows of earlier tasks when it begins (`Keeping`)."""
    name: str
    """Augmentation."""

    def other_runs(self) -> list[str]:
        """Return the folders of the runs from whose outputs a run learns."""
        return []

    def problems(self, config: Config) -> Iterator[Problem]:
        """Yield the problems of the augmentation in a run."""
        yield from ()


@augmentations.register("none", "mtlcli.augmentation.base:no_augmentation")
@section
class NoAugmentation(AugmentationConfig):
    """Every batch goes through the model once, as it is.

    When it helps: always as the first run.

    Cost: none.
    """

    draws: ClassVar[bool] = False
    """False, because there is nothing to draw."""
    name: Literal["none"] = "none"
    """Augmentation."""


@section
class Augmenting(AugmentationConfig):
    """The base class of the configurations of augmentations that act on tasks."""

    several_passes: ClassVar[bool] = True
    """Whether a batch goes through the model more than once."""
    tasks: Annotated[list[str], MinLen(1)] | None = None
    """The tasks whose training is augmented; null: all that are trained."""

    def unfit(self, task: Task) -> str | None:
        """Return why a task cannot be augmented, as a sentence; None if it can."""
        return None

    def problems(self, config: Config) -> Iterator[Problem]:
        """Yield the tasks that do not fit, and what the rest of the run does not allow."""
        at, group = "augmentation.tasks", f"augmentation={self.name}"
        trained = {
            name: task
            for name, task in config.formed_tasks.items()
            if task.splits.train is not None
        }
        for name in self.tasks or []:
            if name not in trained:
                what = f"the run does not train a task '{name}'"
                yield Problem(what, at, suggest(name, trained))
        chosen = [name for name in trained if self.tasks is None or name in self.tasks]
        reasons = {name: self._reason(trained[name]) for name in chosen}
        fit = [name for name in chosen if reasons[name] is None]
        others = f"name the others, {setting(at, fit)}" if fit else "type augmentation=none"
        for name, why in reasons.items():
            if why is not None:
                yield Problem(f"{group} cannot act on {name}: {why}", at, others)
        if config.runner.engine == "fsdp" and self.several_passes:
            yield Problem(
                f"{group} sends a batch through the model more than once before its gradient is "
                "taken, and fsdp has put the shards away then",
                "runner.engine",
                "type runner.engine=ddp, or augmentation=none",
            )
        if config.runner.packing == "on" and self.perturbs:
            yield Problem(
                f"{group} perturbs each input of a padded batch",
                "runner.packing",
                "leave it out, or type augmentation=none",
            )

    def _reason(self, task: Task) -> str | None:
        """Return why a task cannot be augmented, or None."""
        if task.form == "text":
            return "it is put as prompt and answer (form=text), where answers are a part of inputs"
        return self.unfit(task)


@section
class Comparing(Augmenting):
    """The base class of the configurations of augmentations that compare the outputs of two
    passes."""

    def unfit(self, task: Task) -> str | None:
        if task.compares:
            return None
        return (
            f"the outputs of two passes are compared for classes, labels and numbers of a whole "
            f"input, and its type is {task.type}"
        )


@section
class Keeping(AugmentationConfig):
    """The base class of the configurations of augmentations that keep earlier tasks from being
    forgotten while a new one is learned. The run begins with the weights of a run that has learned
    them; of the tasks that it trains, the last is the new one."""

    draws: ClassVar[bool] = False
    """False, because there is nothing to draw."""
    keeps: ClassVar[bool] = True
    """True, because the run keeps what it knows of earlier tasks when it begins."""

    def unfit_earlier(self, task: Task) -> str | None:
        """Return why an earlier task cannot be kept, as a sentence; None if it can."""
        return None

    def problems(self, config: Config) -> Iterator[Problem]:
        """Yield what is missing for tasks to be kept, and the tasks that cannot be."""
        group = f"augmentation={self.name}"
        if config.init.from_ is None:
            what = f"{group} keeps what another run has learned"
            yield Problem(what, "init.from", "name the run to begin with, init.from=RUN")
        earlier, new = earlier_tasks(config)
        if not earlier:
            what = f"{group} keeps the tasks before the last, and the run trains {new or 'none'}"
            yield Problem(what, "task", "name the earlier tasks, too: 'task=[OLD,NEW]'")
        for name in earlier:
            if (why := self.unfit_earlier(config.formed_tasks[name])) is not None:
                yield Problem(f"{group} cannot keep {name}: {why}", "augmentation", "leave it out")
        if config.runner.engine == "fsdp":
            what = f"{group} compares whole parameters and outputs, and fsdp has cut them"
            yield Problem(what, "runner.engine", "type runner.engine=ddp")


def earlier_tasks(config: Config) -> tuple[list[str], str | None]:
    """Return the trained tasks before the last, and the last; None where nothing is trained."""
    trained = [name for name, task in config.tasks.items() if task.splits.train is not None]
    return trained[:-1], trained[-1] if trained else None
