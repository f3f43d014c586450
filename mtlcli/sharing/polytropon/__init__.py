"""The options of `sharing=polytropon`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import INSIDE, LowRank, sharings


@sharings.register("polytropon", ".trunk:Polytropon")
@section
class PolytroponSharing(LowRank):
    """An inventory of low-rank skills, mixed for each task (Ponti et al. 2023), also by blocks of
    their factors (Caccia et al. 2023, MHR).

    When it helps: many tasks that combine a few skills. The paper's aim is to adapt to new tasks
    with few rows.

    Cost: `skills` low-rank changes for each matrix, whatever the number of tasks; each pass first
    mixes those of its task.
    """

    name: Literal["polytropon"] = "polytropon"
    """Strategy."""
    skills: Annotated[int, Ge(2), Le(1000)] = 4
    """Number of skills."""
    splits: Annotated[int, Gt(0), Le(1000)] = 1
    """Number of blocks into which the factors of a skill are cut, each of which is mixed by itself
    (MHR); 1: a skill is mixed as a whole."""
    noise: bool = True
    """Draw a task's mixtures in training from a relaxed Bernoulli distribution, once a step."""
    lr: Annotated[float, Gt(0)] = 1e-2
    """Peak learning rate of the mixtures."""

    def uncompilable(self) -> str | None:
        return INSIDE
