"""The options of `sharing=hierarchical`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings
from mtlcli.errors import Problem
from mtlcli.registry import suggest

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("hierarchical", ".trunk:Hierarchical")
@section
class HierarchicalSharing(SharingConfig):
    """One backbone in which each task reads its own layer (Søgaard & Goldberg 2016; Hashimoto et
    al. 2017).

    When it helps: tasks of different levels, for example parts of speech below entailment, where
    the lower ones serve the higher.

    Cost: less than `hard`: batches of lower tasks skip the layers above. `successive` keeps a
    second copy of the lower layers.
    """

    name: Literal["hierarchical"] = "hierarchical"
    """Strategy."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Task -> the layer that it reads, numbered from 0 (-1 is the last); other tasks read the last
    one. Layers above all of these are dropped."""
    mix: bool = False
    """Let each task read a learned mix of all layers up to its own (ELMo's scalar mix, Peters et
    al. 2018)."""
    successive: Annotated[float, Ge(0)] = 0.0
    """Successive regularisation: factor of the squared distance of the lower tasks' layers to their
    weights of some steps before."""
    successive_every: Annotated[int, Gt(0)] = 100
    """Steps after which the current weights of the lower layers become the new reference."""

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

    def unshardable(self) -> str | None:
        if self.successive > 0:
            return "with sharing.successive keeps all of the earlier weights on each device"
        # torch does not cut scalars, such as the factor of a mix.
        return "with sharing.mix has parameters of a single number" if self.mix else None

    def idle(self) -> Iterator[tuple[str, str, str]]:
        if self.successive == 0:
            yield (
                "sharing.successive_every",
                "there is no successive regularisation (sharing.successive=0)",
                "leave it out, or give sharing.successive",
            )
