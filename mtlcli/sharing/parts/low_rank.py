"""Low-rank changes of weight matrices that tasks have in common.

A matrix W of the backbone becomes for task t

    W + alpha / r U_t D_t    with D_t (r x in) and U_t (out x r)

and each strategy says how the parts of U_t and D_t are shared. All linear maps inside the layers
are changed, those of GPT-2 as well, which are kept transposed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mtlcli.config.sharing import LowRank
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current, running
from mtlcli.models.multitask import Merges, Trunk
from mtlcli.sharing.parts.layers import Layer
from mtlcli.sharing.parts.stacked import linear_maps

NOT_BY_INPUT = ("deberta", "deberta-v2")
"""Families that also put embeddings of distances, which belong to no input, through the linear maps
of attention. In a mixed batch these would need another change for each task."""


def sizes_of(linear: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear map."""
    if isinstance(linear, Conv1D):
        return int(linear.nx), int(linear.nf)
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features


def check_rank(rank: int, sizes: Iterable[tuple[int, int]]) -> None:
    """Raise UserError when a change of rank `rank` has more numbers than any matrix needs, and no
    effect that a lower rank does not have. `sizes`: inputs and outputs of the matrices."""
    width = max(map(min, sizes))
    if rank > width:
        raise UserError(
            f"a change of rank {rank} is no more than one of rank {width}, the largest rank of the "
            "matrices that are changed",
            where="sharing.rank",
            fix=f"type sharing.rank={width} or less",
        )


def random_down(*shape: int, inputs: int | None = None) -> nn.Parameter:
    """Return factors (..., r, in) that are drawn as a linear map from `inputs` numbers is, by
    default from `in`."""
    bound = 1 / math.sqrt(inputs or shape[-1])
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class ChangedMap(Layer, ABC):
    """A linear map, and the low-rank change that is added to it."""

    def __init__(self, linear: nn.Module, config: LowRank) -> None:
        super().__init__(linear)
        self.inner = linear
        self.scale = config.alpha / config.rank

    def forward(self, states: Tensor) -> Tensor:
        """Return the changed output (..., out) for states (..., in)."""
        output: Tensor = self.inner(states)
        return output + self.scale * self.change(states)

    @abstractmethod
    def change(self, states: Tensor) -> Tensor:
        """Return what is added, before it is scaled: (..., out) for states (..., in)."""


class TaskChangedMap(ChangedMap):
    """A linear map, and a low-rank change that depends on the task."""

    def change(self, states: Tensor) -> Tensor:
        """Return U_t D_t times the states of each task."""

        def of_task(owner: str, states: Tensor) -> Tensor:
            down, up = self.factors(owner)
            return nn.functional.linear(nn.functional.linear(states, down), up)

        return current(ForwardPass).each(of_task, states)

    @abstractmethod
    def factors(self, owner: str) -> tuple[Tensor, Tensor]:
        """Return D_t (r, in) and U_t (out, r) of a task with a head of its own."""

    def merged(self, owner: str) -> nn.Module:
        """Return the inner map, to whose weights the change of a task has been added."""
        down, up = self.factors(owner)
        change = self.scale * (up @ down)
        weight: Any = self.inner.weight
        weight += change.T if isinstance(self.inner, Conv1D) else change
        return self.inner


class LowRankTrunk(Trunk, ABC):
    """One backbone, frozen or not, whose linear maps have low-rank changes."""

    joint = True
    packs = True
    first_token = True

    def __init__(
        self, config: LowRank, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        """Raises UserError when `sharing.modules` names what is not there."""
        super().__init__(owners)
        self.config = config
        self.backbone = make_backbone()
        self.joint = self.backbone.network.config.model_type not in NOT_BY_INPUT
        if config.frozen:
            self.backbone.requires_grad_(False)
        self.maps: tuple[ChangedMap, ...] = ()
        """The changed maps, lowest first. In a tuple, so that torch does not register them a second
        time."""
        for layer in self.backbone.layers():
            for name, linear in _chosen(layer, config.modules):
                place, _, last = name.rpartition(".")
                changed = self.changed(linear)
                setattr(layer.get_submodule(place), last, changed)
                self.maps += (changed,)
        if missing := [each for each in _ends(config.modules) if not self._has(each)]:
            kind = self.backbone.network.config.model_type
            raise UserError(
                f"no linear map in the layers of {kind} has a name that ends with {missing[0]!r}",
                where="sharing.modules",
                fix="type sharing.modules=all-linear, or the ends of the names of the model's "
                "linear modules",
            )
        check_rank(config.rank, map(sizes_of, (each.inner for each in self.maps)))

    def _has(self, end: str) -> bool:
        return any(
            _ends_with(name, end)
            for name, module in self.backbone.named_modules()
            if isinstance(module, ChangedMap)
        )

    @abstractmethod
    def changed(self, linear: nn.Module) -> ChangedMap:
        """Return what takes the place of a linear map."""


class MergingTrunk(LowRankTrunk, Merges):
    """One backbone, frozen or not, whose linear maps have low-rank changes for each task."""

    @torch.no_grad()
    def merged(self, task: str) -> Backbone:
        """Return a copy of the backbone for a task with plain linear maps."""
        backbone = deepcopy(self.backbone)
        owner = self.owners[task]
        with running(self.quiet_pass(owner)):
            for name, module in list(backbone.named_modules()):
                if isinstance(module, TaskChangedMap):
                    place, _, last = name.rpartition(".")
                    setattr(backbone.get_submodule(place), last, module.merged(owner))
        return backbone

    def quiet_pass(self, owner: str) -> ForwardPass:
        """Return a pass of a task, without inputs and without noise."""
        return ForwardPass([(owner, 0)], torch.empty(0, 0, dtype=torch.bool))


def alike(mixtures: Sequence[Tensor]) -> list[list[float]]:
    """Return the cosines between the tasks' weights of what they have in common, as means over all
    maps: a row for each task. `mixtures`: (tasks, n) for each map."""
    directions = [nn.functional.normalize(each.float()) for each in mixtures]
    means = torch.stack([each @ each.T for each in directions]).mean(0)
    return [[round(cosine, 4) for cosine in row] for row in means.tolist()]


def _ends(modules: str | Sequence[str]) -> Sequence[str]:
    return () if isinstance(modules, str) else modules


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _chosen(layer: nn.Module, modules: str | Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Return the linear maps of a layer that are to be changed, by name, lowest first."""
    return [
        (name, linear)
        for name, linear in linear_maps(layer)
        if isinstance(modules, str) or any(_ends_with(name, end) for end in modules)
    ]
