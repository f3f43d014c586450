"""The base classes of the configurations of sharing strategies. Each strategy has its own, in its
folder in `mtlcli/sharing/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

from mtlcli.config.section import section
from mtlcli.errors import Problem, count_of
from mtlcli.registry import Registry, suggest

if TYPE_CHECKING:
    from mtlcli.config import Config

INSIDE = "puts modules into the layers that ask for the task of a batch"
"""A reason for `SharingConfig.uncompilable`."""
sharings = Registry("sharing", "mtlcli.sharing", group="mtlcli.sharing")


@section
class SharingConfig:
    """The base class of the configurations of sharing strategies."""

    recomputes: ClassVar[bool] = True
    """Whether layers can be computed again in the backward pass, for
    `model.gradient_checkpointing`."""
    generates: ClassVar[bool] = True
    """Whether a decoder-only model can generate text with it, one token after another, out of the
    keys and values of earlier tokens that the network has kept."""
    to_share: ClassVar[str] = ""
    """Settings with which tasks have parameters in common, where it has others as well."""
    name: str
    """Strategy."""

    @property
    def shares(self) -> bool:
        """Whether tasks have parameters in common, which gradient balancing needs."""
        return True

    def alone(self) -> str | None:
        """Return what one task lacks for the strategy to share anything, as a sentence; None where
        the strategy is worth having for one task, as low-rank changes are."""
        return None

    def unshardable(self) -> str | None:
        """Return why the parameters cannot be cut into shards (`runner.engine=fsdp`), as a sentence
        without its subject, which is `sharing=NAME`; None if they can."""
        return None

    def uncompilable(self) -> str | None:
        """Return why torch cannot compile the layers (`runner.compile=on`), as a sentence without
        its subject, which is `sharing=NAME`; None if it can. What asks for the task of a batch
        must not lie inside a layer."""
        return None

    def no_text(self) -> str | None:
        """Return why tasks in the form of text cannot use the strategy, as a sentence without its
        subject, which is `sharing=NAME`; None if they can. A token's state must not depend on later
        tokens, which would tell the answer."""
        return None

    def tokens_in_front(self) -> int:
        """Return the number of the model's positions that the strategy takes in front of each
        input. Its key `length` sets it."""
        return 0

    def stages_of(self, owners: dict[str, str]) -> list[list[str]]:
        """Return the tasks of each stage of a run; most strategies have one stage. `owners`: task
        -> the task whose head it uses."""
        return [list(owners)]

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        """Yield the problems of the values in a run. `names`: its tasks, including refused ones."""
        yield from ()

    def idle(self) -> Iterator[tuple[str, str, str]]:
        """Yield every key that has no effect beside the other values, why, and what to do about
        it."""
        yield from ()

    def keeps_backbone(self) -> bool:
        """Return whether the backbone is never trained (the key `frozen`, where a strategy has
        it), so that it has to be pretrained."""
        return bool(getattr(self, "frozen", False))


Layers = Annotated[list[int], MinLen(1)] | Literal["all"]
"""Layers of the backbone, numbered from 0; negative numbers count from the top."""


@section
class Gating(SharingConfig, ABC):
    """The base class of the strategies with experts."""

    gate: Literal["softmax", "dselect_k"] = "softmax"
    """How a task weighs experts: with a softmax for each token (softmax, Ma et al. 2018), or by
    choosing at most `selected` of them for all its tokens (dselect_k, Hazimeh et al. 2021)."""
    selected: Annotated[int, Ge(1), Le(1000)] = 2
    """With gate=dselect_k: the largest number of experts with a weight, k."""
    entropy: Annotated[float, Ge(0)] = 1e-2
    """With gate=dselect_k: factor of the selectors' entropy in the loss; the larger the factor, the
    sooner they decide."""

    def unshardable(self) -> str | None:
        if self.gate == "softmax":
            return None
        return "with sharing.gate=dselect_k adds a function of the whole gates to the loss"

    @abstractmethod
    def gated(self) -> int:
        """Return the smallest number of experts that a gate weighs."""

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        if self.gate == "dselect_k" and not self.selected <= self.gated() > 1:
            what = f"the gate cannot choose {self.selected} of {self.gated()} experts"
            yield Problem(
                what, "sharing.selected", "lower it, or take gate=softmax or more experts"
            )

    def idle(self) -> Iterator[tuple[str, str, str]]:
        if self.gate == "softmax":
            for key in ("selected", "entropy"):
                yield (
                    f"sharing.{key}",
                    "gates weigh all experts (sharing.gate=softmax)",
                    "leave it out, or type sharing.gate=dselect_k",
                )


ExpertLayers = Annotated[list[int], MinLen(1)] | Literal["all", "top"]
"""Layers of the backbone whose feed-forward blocks become experts, or `top` for new blocks behind
the last layer."""


@section
class LowRank(SharingConfig):
    """The base class of the strategies with low-rank changes that tasks have in common."""

    rank: Annotated[int, Gt(0), Le(65536)] = 8
    """Rank of a change, r."""
    alpha: Annotated[float, Gt(0)] = 16.0
    """Scale of the changes, which are multiplied by alpha / r."""
    modules: Literal["all-linear"] | Annotated[list[str], MinLen(1)] = "all-linear"
    """Matrices in the layers to change: ends of module names, for example [query, value], or all of
    them."""
    frozen: bool = False
    """Train only the low-rank changes and heads; the backbone keeps its weights, which should be
    pretrained."""


@section
class Staging(SharingConfig):
    """The base class of the strategies with stages."""

    to_share: ClassVar[str] = "sharing.stages with several tasks in each"
    """Tasks of a stage are trained together."""
    stages: Annotated[list[Annotated[list[str], MinLen(1)]], MinLen(1)] | None = None
    """The tasks of each stage, in order, for example [[mnli, qqp], [rte]]; null: one stage per
    task, in the order of the run's tasks."""
    lengths: list[Annotated[int, Gt(0)]] | None = None
    """Steps of every stage but the last, which lasts until the end of the run; null: in proportion
    to the stages' data. The learning rate rises and falls once in each stage."""
    patience: Annotated[int, Gt(0)] | None = None
    """Number of evaluations without a better average of its own tasks after which a stage also
    ends; null: it always has its full length."""

    @property
    def shares(self) -> bool:
        return self.stages is not None and all(len(stage) > 1 for stage in self.stages)

    def alone(self) -> str | None:
        return "there is one stage"

    def stages_of(self, owners: dict[str, str]) -> list[list[str]]:
        if self.stages is not None:
            return self.stages
        return [
            [task for task in owners if owners[task] == owner]
            for owner in dict.fromkeys(owners.values())
        ]

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        heads = {
            name: task.head or name
            for name, task in config.tasks.items()
            if task.splits.train is not None
        }
        at = "sharing.stages"
        stages = self.stages_of(heads)
        staged = [task for stage in stages for task in stage]
        for task in dict.fromkeys(staged):
            if task not in names:
                yield Problem(f"task '{task}' is not in the run", at, suggest(task, heads))
            elif task in config.tasks and task not in heads:
                yield Problem(
                    f"task '{task}' has no train split",
                    at,
                    "take it out: it is evaluated with the head it uses",
                )
            elif staged.count(task) > 1:
                yield Problem(f"task '{task}' is listed twice", at, "name every task once")
        for task, owner in heads.items():
            if task not in staged:
                yield Problem(
                    f"task '{task}' is in no stage",
                    at,
                    "add it to a stage, or take it out of the run",
                )
            elif owner in staged and any((task in stage) != (owner in stage) for stage in stages):
                yield Problem(
                    f"task '{task}' uses the head of '{owner}', which is in another stage",
                    at,
                    "put both into one stage",
                )
        for name, each in config.tasks.items():
            if (each.head or name) not in heads.values():
                yield Problem(
                    f"no stage trains the head of task '{name}'",
                    f"tasks.{name}",
                    "take it out of the run, or name another head",
                )
        if self.lengths is not None:
            steps, total = config.runner.steps, sum(self.lengths)
            if len(self.lengths) != len(stages) - 1:
                what = (
                    f"{len(stages)} stages need {count_of(len(stages) - 1, 'length')}, found "
                    f"{len(self.lengths)}"
                )
                yield Problem(
                    what,
                    "sharing.lengths",
                    "give the steps of every stage but the last, which goes on to the end of "
                    "the run",
                )
            elif steps is not None and total >= steps:
                what = (
                    f"the stages before the last take {total} of {count_of(steps, 'step')}: the "
                    "last one has none"
                )
                yield Problem(what, "sharing.lengths", "lower them, or raise runner.steps")
        alone = [stage[0] for stage in stages if len(stage) < 2]
        if config.weighting.needs.several_tasks and alone:
            what = (
                f"weighting={config.weighting.name} compares tasks, and '{alone[0]}' is alone in "
                "its stage"
            )
            yield Problem(what, at, "put several tasks into every stage, or type weighting=static")
        if config.runner.patience is not None:
            fix = "give sharing.patience, which ends a stage, and with the last one the run"
            yield Problem("patience may end the run before its last stage", "runner.patience", fix)
        if config.logger.affinity is not None:
            what = (
                "affinity is measured between tasks trained together, and stages train them one "
                "after another"
            )
            yield Problem(what, "logger.affinity", "leave it out")


@section
class Stitching(SharingConfig):
    """The base class of the strategies that mix task copies."""

    recomputes: ClassVar[bool] = False
    """False, because all copies of a layer run at once."""
    layers: Layers = "all"
    """Layers after which the copies' states are mixed, numbered from 0 (-1 is the last), or `all`.
    Every trained layer has copies."""
    own: Annotated[float, Ge(0), Le(1)] = 0.9
    """Initial share of its own states in what a copy reads; the others have equal shares of the
    rest."""
    lr: Annotated[float, Gt(0)] = 1e-2
    """Peak learning rate of the mixing weights."""

    def alone(self) -> str | None:
        return "there is one copy, and no other to mix it with"

    def unshardable(self) -> str | None:
        return "runs all copies of a layer at once, out of stacked weights"

    def uncompilable(self) -> str | None:
        return "runs all copies of a layer at once (torch.vmap)"
