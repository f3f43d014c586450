"""The options of `sharing=attention`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings


@sharings.register("attention", ".trunk:Attention")
@section
class AttentionSharing(SharingConfig):
    """A shared backbone with soft masks over its features for each task (Liu et al. 2019, MTAN).

    When it helps: tasks that need different features of the same layers. The paper has dense
    prediction from images, where all tasks read one input.

    Cost: 3 size x hidden numbers for each task and chosen layer, and these products for each token.
    """

    name: Literal["attention"] = "attention"
    """Strategy."""
    layers: Layers = "all"
    """Layers with task masks, numbered from 0 (-1 is the last), or `all`. Above the highest one,
    the masked states replace the shared ones."""
    size: Annotated[int, Gt(0), Le(65536)] = 32
    """Width of the bottleneck in a mask's network. The paper has none; without one, a task's masks
    would be a quarter of a layer."""
