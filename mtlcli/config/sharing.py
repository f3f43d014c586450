"""Sharing strategies: which parameters tasks have in common. One dataclass per strategy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry, suggest

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


@sharings.register("hierarchical", "mtlcli.sharing.hierarchical:Hierarchical")
@section
class HierarchicalSharing:
    """One backbone of which each task reads a layer of its own choice (Søgaard & Goldberg 2016; Hashimoto et al. 2017)."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["hierarchical"] = "hierarchical"
    """Strategy."""
    tasks: dict[str, int] = field(default_factory=dict)
    """The layer that a task reads: from 0, -1 is the last, and that of tasks not named here. Layers that no task reads or needs are dropped."""
    mix: bool = False
    """Read a learned mix of the layers up to the task's, for each task (ELMo's scalar mix, Peters et al. 2018), not the layer alone."""
    successive: Annotated[float, Ge(0)] = 0.0
    """Successive regularisation: factor of the squared distance of the lower tasks' layers to what they were some steps before."""
    successive_every: Annotated[int, Gt(0)] = 100
    """Steps after which what the lower layers are now takes the place of what they were."""

    def problems(self, owners: dict[str, str]) -> Iterator[Problem]:
        """What is wrong with it in a run of these tasks: task -> the task whose head it uses."""
        for task in self.tasks:
            at = f"sharing.tasks.{task}"
            if task not in owners:
                yield Problem(f"task '{task}' is not in the run", at, suggest(task, owners))
            elif owners[task] != task:
                yield Problem(
                    f"task '{task}' uses the head of '{owners[task]}', and so its layer", at, f"give sharing.tasks.{owners[task]} instead"
                )
