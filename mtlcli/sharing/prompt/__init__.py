"""The options of `sharing=prompt`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("prompt", ".trunk:Prompt")
@section
class PromptSharing(SharingConfig):
    """A soft prompt in front of each input: one for all tasks, times a rank-one matrix of each task
    (Wang et al. 2023, MPT).

    When it helps: many tasks on one large, frozen model, some of them with few rows.

    Cost: length x hidden shared numbers, length + hidden for each task, and `length` more tokens in
    each input of every layer.
    """

    generates: ClassVar[bool] = False
    """False, because the prompt would stand in front of each new token again."""
    name: Literal["prompt"] = "prompt"
    """Strategy."""
    length: Annotated[int, Gt(0), Le(100_000)] = 20
    """Length of the prompt in tokens, which take as many positions of the model."""
    frozen: bool = False
    """Train only the prompts and heads; the backbone keeps its weights, which should be
    pretrained."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Peak learning rate of the prompts."""

    def tokens_in_front(self) -> int:
        return self.length
