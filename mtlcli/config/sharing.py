"""Sharing strategies: which parameters tasks have in common. One dataclass per strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

from mtlcli.config.section import section
from mtlcli.errors import Problem, count_of
from mtlcli.registry import Registry, suggest

if TYPE_CHECKING:
    from mtlcli.config import Config

sharings = Registry("sharing", group="mtl.sharings")


@section
class SharingConfig:
    """What the configurations of all strategies have in common."""

    recomputes: ClassVar[bool] = True
    """Whether layers can be computed again in the backward pass, for
    `model.gradient_checkpointing`."""
    name: str
    """Strategy."""

    @property
    def shares(self) -> bool:
        """Whether tasks have parameters in common, which gradient balancing needs."""
        return True

    def stages_of(self, owners: dict[str, str]) -> list[list[str]]:
        """Return the tasks of each stage of a run; most strategies have one stage. `owners`: task
        -> the task whose head it uses."""
        return [list(owners)]

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        """Yield what is wrong with the values in a run. `names`: its tasks, those that were refused
        among them."""
        yield from ()

    def idle(self) -> Iterator[tuple[str, str, str]]:
        """Yield every key that does nothing beside the other values, why, and what to do about
        it."""
        yield from ()


@sharings.register("hard", "mtlcli.sharing.hard:Hard")
@section
class HardSharing(SharingConfig):
    """One backbone for all tasks, one head each (Caruana 1997)."""

    name: Literal["hard"] = "hard"
    """Strategy."""


@sharings.register("none", "mtlcli.sharing.none:NoSharing")
@section
class NoSharing(SharingConfig):
    """A separate copy of the backbone for each task: the single-task baseline at equal data."""

    name: Literal["none"] = "none"
    """Strategy."""

    @property
    def shares(self) -> bool:
        return False


Layers = Annotated[list[int], MinLen(1)] | Literal["all"]
"""Layers of the backbone by number, from 0; negative ones count from the top."""


@sharings.register("soft", "mtlcli.sharing.soft:Soft")
@section
class SoftSharing(SharingConfig):
    """A copy of the backbone, or of some layers, for each task, pulled together by a penalty (Duong
    et al. 2015)."""

    name: Literal["soft"] = "soft"
    """Strategy."""
    layers: Layers = "all"
    """Layers of which every task has a copy: numbers from 0, -1 is the last; `all`: the whole
    backbone with its embeddings."""
    strength: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty, lambda."""
    distance: Literal["pairs", "trace_norm", "pretrained"] = "pairs"
    """What is penalised: squared distances between every two tasks' copies, the trace norm of the
    stacked copies, or squared distances to the weights at the start."""

    @property
    def shares(self) -> bool:
        return self.layers != "all"

    def idle(self) -> Iterator[tuple[str, str, str]]:
        if self.strength == 0:
            yield (
                "sharing.distance",
                "nothing is penalised (sharing.strength=0)",
                "leave it out, or give sharing.strength",
            )


@sharings.register("hierarchical", "mtlcli.sharing.hierarchical:Hierarchical")
@section
class HierarchicalSharing(SharingConfig):
    """One backbone of which each task reads a layer of its own choice (Søgaard & Goldberg 2016;
    Hashimoto et al. 2017)."""

    name: Literal["hierarchical"] = "hierarchical"
    """Strategy."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Task -> the layer that it reads: from 0; -1 is the last, and that of tasks not named here.
    Layers above all of these are dropped."""
    mix: bool = False
    """Read a learned mix of the layers up to the task's, for each task (ELMo's scalar mix, Peters
    et al. 2018), not the layer alone."""
    successive: Annotated[float, Ge(0)] = 0.0
    """Successive regularisation: factor of the squared distance of the lower tasks' layers to what
    they were some steps before."""
    successive_every: Annotated[int, Gt(0)] = 100
    """Steps after which what the lower layers are now takes the place of what they were."""

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        owners = {name: task.head or name for name, task in config.tasks.items()}
        for task in self.tasks:
            at = f"sharing.tasks.{task}"
            if task not in owners:
                yield Problem(f"task '{task}' is not in the run", at, suggest(task, owners))
            elif owners[task] != task:
                yield Problem(
                    f"task '{task}' uses the head of '{owners[task]}', and so its layer",
                    at,
                    f"give sharing.tasks.{owners[task]} instead",
                )

    def idle(self) -> Iterator[tuple[str, str, str]]:
        if self.successive == 0:
            yield (
                "sharing.successive_every",
                "there is no successive regularisation (sharing.successive=0)",
                "leave it out, or give sharing.successive",
            )


@sharings.register("adapters", "mtlcli.sharing.adapters:Adapters")
@section
class AdapterSharing(SharingConfig):
    """A small bottleneck behind each layer of one backbone, one for each task (Houlsby et al. 2019;
    Pfeiffer et al. 2020)."""

    name: Literal["adapters"] = "adapters"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Width of the bottleneck."""
    layers: Layers = "all"
    """Layers that have adapters: numbers from 0, -1 is the last; or `all`."""
    shared: bool = False
    """One adapter more behind each of these layers, for all tasks together."""
    frozen: bool = False
    """Train adapters and heads only: the backbone keeps its weights, which should be pretrained
    ones then."""

    @property
    def shares(self) -> bool:
        return self.shared or not self.frozen


@sharings.register("pal", "mtlcli.sharing.pal:PAL")
@section
class PALSharing(SharingConfig):
    """Projected attention layers: a narrow attention for each task in parallel to each layer
    (Stickland & Murray 2019)."""

    name: Literal["pal"] = "pal"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 96
    """Width of the attention, over all its heads. The paper has 204 for BERT-base, about a quarter
    of its channels; 96 is a quarter of MiniLM's."""
    heads: Annotated[int, Gt(0), Le(1024)] = 6
    """Attention heads."""
    layers: Layers = "all"
    """Layers that have attention in parallel: numbers from 0, -1 is the last; or `all`."""
    frozen: bool = False
    """Train what belongs to one task only: the backbone keeps its weights, which should be
    pretrained ones then."""

    @property
    def shares(self) -> bool:
        return not self.frozen

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        if self.size % self.heads:
            yield Problem(
                f"sharing.size={self.size} is not a multiple of {self.heads}",
                "sharing.heads",
                "change one of them",
            )


@sharings.register("lora", "mtlcli.sharing.lora:LoRA")
@section
class LoRASharing(SharingConfig):
    """Low-rank changes of one backbone's weight matrices for each task, through peft (Hu et al.
    2022); needs `mtlcli[lora]`."""

    name: Literal["lora"] = "lora"
    """Strategy."""
    rank: Annotated[int, Gt(0), Le(65536)] = 8
    """Rank of a change, r."""
    alpha: Annotated[float, Gt(0)] = 16.0
    """Changes are multiplied by alpha / r."""
    modules: Literal["auto", "all-linear"] | Annotated[list[str], MinLen(1)] = "auto"
    """Matrices that are changed: ends of modules' names, for example [query, value]; `all-linear`;
    `auto`: what peft has for the model."""
    shared: bool = False
    """One change more of each of these matrices, for all tasks together."""
    frozen: bool = False
    """Train the changes and heads only: the backbone keeps its weights, which should be pretrained
    ones then."""

    @property
    def shares(self) -> bool:
        return self.shared or not self.frozen

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        if find_spec("peft") is None:
            yield Problem(
                "sharing=lora needs the package peft, which is not installed",
                "sharing",
                "type pip install 'mtlcli[lora]'",
            )


@sharings.register("adapter_fusion", "mtlcli.sharing.adapter_fusion:AdapterFusion")
@section
class AdapterFusionSharing(SharingConfig):
    """Adapters for each task, and an attention for each task over the adapters of all (Pfeiffer et
    al. 2021)."""

    name: Literal["adapter_fusion"] = "adapter_fusion"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Width of the adapters' bottleneck."""
    keys: Annotated[int, Gt(0), Le(65536)] = 16
    """Width of the attention's queries and keys."""
    layers: Layers = "all"
    """Layers that have adapters: numbers from 0, -1 is the last; or `all`."""
    frozen: bool = False
    """Train what belongs to one task only: the backbone keeps its weights, which should be
    pretrained ones then."""

    @property
    def shares(self) -> bool:
        return not self.frozen


@section
class Gating(SharingConfig, ABC):
    """What the strategies with experts have in common."""

    gate: Literal["softmax", "dselect_k"] = "softmax"
    """How a task weighs experts: for each token with a softmax (Ma et al. 2018), or by a choice of
    at most `selected` of them for all of the task's tokens (DSelect-k, Hazimeh et al. 2021)."""
    selected: Annotated[int, Ge(1), Le(1000)] = 2
    """With gate=dselect_k: the most experts that keep a weight, k."""
    entropy: Annotated[float, Ge(0)] = 1e-2
    """With gate=dselect_k: factor of the selectors' entropy in the loss; more of it makes them
    decide sooner."""

    @abstractmethod
    def gated(self) -> int:
        """The fewest experts that a gate weighs."""

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
"""Layers of the backbone whose feed-forward blocks become experts, or `top`: blocks behind the last
layer."""


@sharings.register("mmoe", "mtlcli.sharing.mmoe:MMoE")
@section
class MMoESharing(Gating):
    """Feed-forward blocks in one backbone as experts, which every task mixes by a gate of its own
    (Ma et al. 2018)."""

    name: Literal["mmoe"] = "mmoe"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Where the experts are: layers, numbered from 0, -1 is the last, whose feed-forward block each
    expert starts as a copy of; `all`; or `top`: new blocks behind the last layer."""
    experts: Annotated[int, Ge(1), Le(1000)] = 4
    """Number of experts. The paper has 8 small ones; these are as large as a feed-forward block."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """In layers: noise on the copies' weights at the start, relative to their standard deviation;
    without any, they part slowly."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.experts

    def idle(self) -> Iterator[tuple[str, str, str]]:
        yield from super().idle()
        if self.layers == "top":
            why = "the experts are new blocks, no copies (sharing.layers=top)"
            yield "sharing.noise", why, "leave it out"


@sharings.register("cgc", "mtlcli.sharing.cgc:CGC")
@section
class CGCSharing(Gating):
    """Shared experts and experts of each task's own in one backbone, mixed by a gate for each task
    (Tang et al. 2020)."""

    name: Literal["cgc"] = "cgc"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Where the experts are: layers, numbered from 0, -1 is the last, whose feed-forward block each
    expert starts as a copy of; `all`; or `top`: new blocks behind the last layer."""
    shared: Annotated[int, Ge(0), Le(1000)] = 2
    """Number of experts that all tasks share."""
    own: Annotated[int, Ge(0), Le(1000)] = 1
    """Number of experts of each task's own."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """In layers: noise on the copies' weights at the start, relative to their standard deviation;
    without any, they part slowly."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.shared + self.own

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        yield from super().problems(config, names)
        if self.shared + self.own == 0:
            yield Problem("no task has an expert", "sharing.shared", "give shared or own experts")


@sharings.register("ple", "mtlcli.sharing.ple:PLE")
@section
class PLESharing(Gating):
    """Levels of shared experts and experts of each task's own on top of one backbone (Tang et al.
    2020)."""

    name: Literal["ple"] = "ple"
    """Strategy."""
    levels: Annotated[int, Ge(1), Le(100)] = 2
    """Number of levels; one level is CGC on top."""
    shared: Annotated[int, Ge(1), Le(1000)] = 2
    """Number of experts in each level that all tasks share."""
    own: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of experts in each level of each task's own."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.shared + self.own


@sharings.register("task_embedding", "mtlcli.sharing.task_embedding:TaskEmbedding")
@section
class TaskEmbeddingSharing(SharingConfig):
    """One backbone that is told the task: a learned vector shifts its embeddings and norms (Pilault
    et al. 2021)."""

    name: Literal["task_embedding"] = "task_embedding"
    """Strategy."""
    conditions: Literal["both", "embeddings", "norms"] = "both"
    """What a task's vector shifts: the word embeddings, as a segment does, the gain and bias of
    every norm, or both."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Numbers in a task's vector."""


@sharings.register("attention", "mtlcli.sharing.attention:Attention")
@section
class AttentionSharing(SharingConfig):
    """A shared backbone, and for each task soft masks over its features (Liu et al. 2019, MTAN)."""

    name: Literal["attention"] = "attention"
    """Strategy."""
    layers: Layers = "all"
    """Layers over whose features tasks have masks: numbers from 0, -1 is the last; or `all`. Above
    the highest a task's state goes on."""
    size: Annotated[int, Gt(0), Le(65536)] = 32
    """Width of the bottleneck in a mask's network. The paper has none; without one, a task's masks
    would be a quarter of a layer."""


@section
class Staging(SharingConfig):
    """What the strategies whose tasks enter in stages have in common."""

    stages: Annotated[list[Annotated[list[str], MinLen(1)]], MinLen(1)] | None = None
    """The tasks of each stage, in order, for example [[mnli, qqp], [rte]]; null: each task is a
    stage, in the order of the run's tasks."""
    lengths: list[Annotated[int, Gt(0)]] | None = None
    """Steps of every stage but the last, which goes on to the end of the run; null: the share of
    the run that the stage has of the data. The learning rate rises and falls once in each stage."""
    patience: Annotated[int, Gt(0)] | None = None
    """A stage also ends after this many evaluations without a better average of its own tasks;
    null: never before its length is over."""

    @property
    def shares(self) -> bool:
        return self.stages is not None and all(len(stage) > 1 for stage in self.stages)

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


@sharings.register("progressive", "mtlcli.sharing.progressive:Columns")
@section
class ProgressiveSharing(Staging):
    """Tasks enter in stages: each has a backbone of its own that reads the earlier ones, which stay
    as they are (Rusu et al. 2016)."""

    name: Literal["progressive"] = "progressive"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 32
    """Width of the bottleneck in a lateral connection."""


@sharings.register("progressive_distill", "mtlcli.sharing.progressive_distill:Distilled")
@section
class ProgressiveDistillSharing(Staging):
    """Tasks enter in stages: one backbone, held to what it said for the earlier tasks when the
    stage began (Li & Hoiem 2016)."""

    name: Literal["progressive_distill"] = "progressive_distill"
    """Strategy."""
    strength: Annotated[float, Ge(0)] = 1.0
    """Factor of the distillation term in the loss."""


@section
class Stitching(SharingConfig):
    """What the strategies that mix task copies have in common."""

    recomputes: ClassVar[bool] = False
    """Not here: all copies of a layer run at once."""
    layers: Layers = "all"
    """Layers after which the copies' states are mixed: numbers from 0, -1 is the last. Every layer
    that is trained has copies."""
    own: Annotated[float, Ge(0), Le(1)] = 0.9
    """How much of its own states a copy keeps at the start; the rest comes from all others
    alike."""
    lr: Annotated[float, Gt(0)] = 1e-2
    """Peak learning rate of the mixing weights."""


@sharings.register("cross_stitch", "mtlcli.sharing.cross_stitch:CrossStitch")
@section
class CrossStitchSharing(Stitching):
    """A copy of the layers for each task, whose states are mixed by learned weights (Misra et al.
    2016)."""

    name: Literal["cross_stitch"] = "cross_stitch"
    """Strategy."""


@sharings.register("sluice", "mtlcli.sharing.sluice:Sluice")
@section
class SluiceSharing(Stitching):
    """Cross-stitch over subspaces that are kept apart, and heads that read a mixture of layers
    (Ruder et al. 2019)."""

    name: Literal["sluice"] = "sluice"
    """Strategy."""
    subspaces: Annotated[int, Ge(1), Le(65536)] = 2
    """Equal parts of the states' channels that are mixed by themselves."""
    orthogonality: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty on subspaces that say the same; 0: none, as in the authors' code unless
    it is asked for. The paper gives no value."""
    last: Annotated[float, Ge(0), Le(1)] = 0.9
    """How much of the last layer a task reads at the start; the rest comes from all others
    alike."""
