"""The weights of another run with which a run begins (`init.from`): what is taken over, and what
begins as new.

Where the other run's trunk is a backbone as the library has built it, its weights stand in the
place of pretrained ones, for every sharing strategy. Where a strategy has added to it, only a run
of the same strategy can begin with it; parameter by parameter, by name. A head is taken where the
other run has one for a task of that name, with the same labels and shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlcli.config import Config, sharings
from mtlcli.config.init import other_head, other_settings
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone, layer_of
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.per_task import key_of

ANSWERS = ("language_head.", "decoder.")
"""Beginnings of the names of what a backbone has in order to write: a run whose tasks have heads
does without it."""


@dataclass
class Start:
    """The weights of a checkpoint of another run."""

    config: Config
    """The resolved config of that run."""
    tensors: Mapping[str, Tensor]
    """The tensors of its model.safetensors."""
    where: str
    """The checkpoint's folder, for messages."""
    layers: list[int] | None = None
    """The layers that are taken, which become the layers 0, 1, ...; None: all."""

    def prefix(self) -> str | None:
        """Return what the names of the tensors of that run's backbone begin with, where it is a
        plain one; None where the strategy has added to it, or keeps several."""
        return only(self.backbones())

    def backbones(self) -> dict[str, str]:
        """Return what the names of the tensors of each head's backbone begin with, where that run
        has nothing but plain backbones; else nothing."""
        trunk = sharings.implementation(self.config.sharing.name)
        named = trunk.plain_backbones(owners(self.config))
        return {owner: f"trunk.{name}." for owner, name in named.items()}

    def fill_backbone(self, backbone: Backbone) -> None:
        """Copy the weights of a plain backbone into one that was just built, if that run has a
        plain one. Raises UserError when they are not those of such a backbone."""
        if (prefix := self.prefix()) is None:
            return
        found = below(self.tensors, prefix)
        if self.layers is not None:
            found = with_layers(found, self.layers)
        wanted = backbone.state_dict()
        if lost := sorted(wanted.keys() - found.keys()):
            what = f"the run of init.from lacks {_some(lost)} of the model"
            if lost[0].startswith(ANSWERS):
                what += ", with which it would answer in text"
            raise self._refusal(what, "begin with a run of the same model and form")
        if more := sorted(
            name for name in found.keys() - wanted.keys() if not name.startswith(ANSWERS)
        ):
            what = f"the run of init.from has {_some(more)}, which the model does not have"
            raise self._refusal(what, "begin with a run of the same model")
        self._copy(wanted, {name: found[name] for name in wanted})

    def fill_trunk(self, model: MultiTaskModel, config: Config) -> None:
        """Copy the weights of a trunk to which a strategy has added into the trunk of a run with
        `config`. Raises UserError when that run has another strategy, or the trunk does not fit."""
        if self.prefix() is not None:
            return
        before, now = owners(self.config), model.trunk.heads
        if (refused := other_trunk(config, now, self.config)) is not None:
            raise self._refusal(*refused)
        wanted = {name: tensor for name, tensor in model.state_dict().items() if _of_trunk(name)}
        found = {name: tensor for name, tensor in self.tensors.items() if _of_trunk(name)}
        new = {owner for owner in now if owner not in before}
        fresh = {
            name
            for name, users in model.users().items()
            if name not in found and {model.owner(user) for user in users} <= new
        }
        unlike = sorted(
            name
            for name, tensor in wanted.items()
            if name not in fresh and (name not in found or found[name].shape != tensor.shape)
        )
        gone = {owner for owner in before if owner not in now}
        unlike += sorted(
            name
            for name in found.keys() - wanted.keys()
            if not any(f".{key_of(owner)}." in name for owner in gone)
        )
        if unlike:
            differing = other_settings(config.sharing, self.config.sharing)
            why = f": {'; '.join(differing)}" if differing else ""
            what = f"the trunk of that run has another shape ({_some(unlike)}){why}"
            raise self._refusal(what, "give the options of sharing that the run of init.from has")
        self._copy(wanted, {name: found[name] for name in wanted if name not in fresh})

    def fill_heads(self, model: MultiTaskModel, names: list[str]) -> None:
        """Copy the heads of these tasks. Raises UserError for a head that does not fit."""
        for name in names:
            if (why := self.unfit(model, name)) is not None:
                what = f"the head of task {name} cannot be taken: {why}"
                fix = f"take {name} out of init.heads: its head then begins as new"
                raise UserError(what, "init.heads", fix)
            wanted, found = model.heads[name].state_dict(), below(self.tensors, head_prefix(name))
            self._copy(wanted, found)

    def unfit(self, model: MultiTaskModel, name: str) -> str | None:
        """Return why that run's head of a task does not fit the task's head in `model`, as a
        clause; None if it fits."""
        found = below(self.tensors, head_prefix(name))
        if name not in self.config.tasks:
            return "the run has no task of this name"
        if not found and self.config.tasks[name].head is None:
            return "the run has no head for it"
        if not found:
            return f"it used the head of {self.config.tasks[name].head} there"
        mine, theirs = model.tasks[name].config, self.config.formed_tasks[name]
        if (why := other_head(mine, theirs)) is not None:
            return why
        wanted = model.heads[name].state_dict()
        for key in sorted(wanted.keys() | found.keys()):
            if key not in wanted or key not in found:
                return f"{key} is {'here' if key in wanted else 'there'} alone"
            if wanted[key].shape != found[key].shape:
                return f"{key} is {_shape(found[key])} there and {_shape(wanted[key])} here"
        return None

    def left(self, model: MultiTaskModel) -> list[str]:
        """Return what of that run has no place in a model, in words."""
        gone = [f"the task {name}" for name in self.config.tasks if name not in model.tasks]
        writes = [
            {part for part in ANSWERS for name in names if _of_trunk(name) and f".{part}" in name}
            for names in (self.tensors, model.state_dict())
        ]
        if writes[0] > writes[1]:
            gone.append("what it writes texts with")
        return gone

    @torch.no_grad()
    def _copy(self, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
        """Copy tensors into those of the same names, once all are known to fit."""
        for name, tensor in found.items():
            target = wanted[name]
            if tensor.shape != target.shape or tensor.dtype != target.dtype:
                what = (
                    f"the run of init.from has another model: {name} is {_shape(tensor)} there "
                    f"and {_shape(target)} here"
                )
                raise self._refusal(what, "leave the model out (model=auto)")
            if not tensor.isfinite().all():
                raise self._refusal(f"{name} is not finite", "begin with another checkpoint")
        for name, tensor in found.items():
            wanted[name].copy_(tensor)

    def _refusal(self, what: str, fix: str) -> UserError:
        return UserError(what, f"init.from ({self.where})", fix)


def only(names: Mapping[str, str]) -> str | None:
    """Return the one name that all heads' backbones have; None where they have several, or none."""
    different = set(names.values())
    return different.pop() if len(different) == 1 else None


def owners(config: Config) -> list[str]:
    """Return the tasks with a head of their own."""
    return list(dict.fromkeys(task.head or name for name, task in config.tasks.items()))


def other_trunk(config: Config, now: list[str], other: Config) -> tuple[str, str] | None:
    """Return why the trunk of a run with the config `other` has no place in a run with `config` and
    the head owners `now`, and what to do about it, as far as strategies and tasks say; None where
    it has."""
    mine, theirs = config.sharing.name, other.sharing.name
    trunk, before = sharings.implementation(theirs), owners(other)
    if only(trunk.plain_backbones(before)) is not None:
        return None
    if mine != theirs:
        what = (
            f"sharing={theirs} has added to the backbone of that run, or keeps several, and "
            f"sharing={mine} has no place for that"
        )
        return what, f"type sharing={theirs}, or begin with a run with sharing=hard"
    if before != now and not trunk.new_tasks:
        what = (
            f"sharing={mine} keeps parts for each task, in the order of the tasks: that run has "
            f"{', '.join(before)}, this one {', '.join(now)}"
        )
        return what, "train the same tasks in the same order, or begin with a run with sharing=hard"
    return None


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors in memory: of their names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {_shape(tensor)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain_state(model: MultiTaskModel) -> dict[str, Tensor] | None:
    """Return the tensors of a model's first backbone by the library's names, where its trunk has
    nothing but plain ones (`Trunk.plain_backbones`); None for any other."""
    names = list(type(model.trunk).plain_backbones(model.trunk.heads).values())
    return below(model.state_dict(), f"trunk.{names[0]}.") if names else None


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def with_layers(tensors: Mapping[str, Tensor], layers: list[int]) -> dict[str, Tensor]:
    """Return the tensors of a backbone without those of other layers than `layers`, which are
    numbered anew from 0."""
    kept = {}
    for name, tensor in tensors.items():
        if (number := layer_of(name)) is None:
            kept[name] = tensor
        elif number in layers:
            kept[name.replace(f".{number}.", f".{layers.index(number)}.", 1)] = tensor
    return kept


def head_prefix(task: str) -> str:
    """Return what the names of the tensors of a task's head begin with."""
    return f"heads.{key_of(task)}."


def _of_trunk(name: str) -> bool:
    return name.startswith("trunk.")


def _shape(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
