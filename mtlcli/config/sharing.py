"""Sharing strategies: which parameters tasks have in common. One dataclass per strategy."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from mtlcli.config.section import section
from mtlcli.registry import Registry

sharings = Registry("sharing")


@sharings.register("hard", "mtlcli.sharing.hard:Hard")
@section
class HardSharing:
    """One backbone for all tasks, one head each (Caruana 1997)."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["hard"] = "hard"
    """Strategy."""


@sharings.register("none", "mtlcli.sharing.none:NoSharing")
@section
class NoSharing:
    """A separate copy of the backbone for each task: the single-task baseline at equal data."""

    shares: ClassVar[bool] = False
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["none"] = "none"
    """Strategy."""


Layers = Annotated[list[int], MinLen(1)] | Literal["all"]
"""Layers of the backbone by number, from 0; negative ones count from the top."""


@sharings.register("soft", "mtlcli.sharing.soft:Soft")
@section
class SoftSharing:
    """A copy of the backbone, or of some layers, for each task, pulled together by a penalty (Duong et al. 2015)."""

    name: Literal["soft"] = "soft"
    """Strategy."""
    layers: Layers = "all"
    """Layers of which every task has a copy: numbers from 0, -1 is the last; `all`: the whole backbone with its embeddings."""
    strength: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty, lambda."""
    distance: Literal["pairs", "trace_norm", "pretrained"] = "pairs"
    """What is penalised: squared distances between every two tasks' copies, the trace norm of the stacked copies, or squared distances
    to the weights at the start."""

    @property
    def shares(self) -> bool:
        """Whether tasks have parameters in common, which gradient balancing needs."""
        return self.layers != "all"


@sharings.register("task_embedding", "mtlcli.sharing.task_embedding:TaskEmbedding")
@section
class TaskEmbeddingSharing:
    """One backbone that is told the task: a learned vector shifts its embeddings and norms (Pilault et al. 2021)."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["task_embedding"] = "task_embedding"
    """Strategy."""
    conditions: Literal["both", "embeddings", "norms"] = "both"
    """What a task's vector shifts: the word embeddings, as a segment does, the gain and bias of every norm, or both."""
    size: Annotated[int, Gt(0)] = 64
    """Numbers in a task's vector."""


@sharings.register("attention", "mtlcli.sharing.attention:Attention")
@section
class AttentionSharing:
    """A shared backbone, and for each task soft masks over its features (Liu et al. 2019, MTAN)."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["attention"] = "attention"
    """Strategy."""
    layers: Layers = "all"
    """Layers over whose features tasks have masks: numbers from 0, -1 is the last; or `all`. Above the highest a task's state goes on."""
    size: Annotated[int, Gt(0)] = 32
    """Width of the bottleneck in a mask's network."""


@sharings.register("progressive", "mtlcli.sharing.progressive:build")
@section
class ProgressiveSharing:
    """Tasks enter in stages: columns that read earlier ones (Rusu et al. 2016), or distillation of what was known (Li & Hoiem 2016)."""

    name: Literal["progressive"] = "progressive"
    """Strategy."""
    form: Literal["columns", "distill"] = "columns"
    """`columns`: each stage has a backbone of its own, with lateral connections from the earlier ones, which stay as they are.
    `distill`: one backbone, held to what it said for the earlier tasks when the stage began."""
    stages: Annotated[list[Annotated[list[str], MinLen(1)]], MinLen(1)] | None = None
    """The tasks of each stage, in order, for example [[mnli, qqp], [rte]]; null: each task is a stage, in the order of the run's tasks."""
    lengths: list[Annotated[int, Gt(0)]] | None = None
    """Steps of every stage but the last, which goes on to the end of the run; null: the share of the run that the stage has of the data.
    The learning rate rises and falls once in each stage."""
    patience: Annotated[int, Gt(0)] | None = None
    """A stage also ends after this many evaluations without a better average of its own tasks; null: never before its length is over."""
    size: Annotated[int, Gt(0)] = 32
    """Columns: width of the bottleneck in a lateral connection."""
    strength: Annotated[float, Ge(0)] = 1.0
    """Distillation: factor of its term in the loss."""

    @property
    def shares(self) -> bool:
        """Whether tasks have parameters in common, which gradient balancing needs: in every stage some that are trained together."""
        return self.stages is not None and all(len(stage) > 1 for stage in self.stages)


def stages_of(sharing: Any, owners: dict[str, str]) -> list[list[str]]:
    """The tasks of each stage of a run. `owners`: for every task, the task whose head it uses. One stage, unless the strategy has more."""
    if not isinstance(sharing, ProgressiveSharing):
        return [list(owners)]
    alone = [[task for task in owners if owners[task] == owner] for owner in dict.fromkeys(owners.values())]
    return alone if sharing.stages is None else sharing.stages
