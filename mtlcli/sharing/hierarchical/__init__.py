"""What `sharing=hierarchical` can be given. The strategy itself is in trunk.py. No torch."""

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
