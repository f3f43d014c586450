"""The layers of a backbone: finding them, and putting something else in their place.

Sharing strategies change what happens at a layer (a copy for each task, experts, an adapter behind
it) and leave the rest of the transformers network as it is: masks, position biases, attention
implementations and checkpointing keep working.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtlcli.errors import UserError


class Route:
    """The tasks whose batch is in the backbone just now. A trunk and the modules that it has put
    into the network share one route. It is not a module, because it has nothing to save."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int]] = []
        """The head owners of the batch's inputs, one part after another, and the number of inputs
        of each. The head owner of a task is the task whose head it uses: itself, or the task from
        which it borrows a head."""

    @property
    def owner(self) -> str:
        """The head owner of a batch of one task."""
        ((owner, _),) = self.parts
        return owner

    @owner.setter
    def owner(self, owner: str) -> None:
        """Set the head owner of a batch of one task. The number of inputs is irrelevant then, and
        set to 0."""
        self.parts = [(owner, 0)]

    def each(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call `function(owner, *inputs)` with the inputs (batch, ...) of each part. Returns the
        results of all parts, joined again: (batch, ...)."""
        if len(self.parts) == 1:
            return function(self.owner, *inputs)
        counts = [count for _, count in self.parts]
        pieces = zip(*(tensor.split(counts) for tensor in inputs), strict=True)
        return torch.cat(
            [function(owner, *piece) for (owner, _), piece in zip(self.parts, pieces, strict=True)]
        )


class MaskedRoute(Route):
    """Route that also knows which positions of the batch are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.empty(0, 0, dtype=torch.bool)
        """(batch, length) bool: True where there is a token."""


RESERVED = (
    frozenset(dir(nn.ModuleDict()))
    | frozenset(dir(nn.ParameterDict()))
    | {"network", "smart_apply"}
)
"""Names of tasks that cannot be names of submodules: attributes of torch's containers (`type`,
`keys`, `training`), the name under which a backbone keeps its network, and the attribute that
transformers gives every module while it builds a model."""
PREFIX = "task:"
"""Prefix of a reserved name in the names of parameters. No task's name has a colon."""


def key_of(task: str) -> str:
    """Return the name of a task's submodule in the names of parameters: the task's own name, or,
    for a reserved name such as `type`, `task:type`."""
    return PREFIX + task if task in RESERVED else task


def task_of(key: str) -> str:
    """Return the task of a submodule that `key_of` has named."""
    return key.removeprefix(PREFIX)


class TaskModules(nn.ModuleDict):
    """A module for each task that has a head of its own. `key_of` changes the names that torch does
    not take."""

    def __getitem__(self, task: str) -> nn.Module:
        return super().__getitem__(key_of(task))

    def __setitem__(self, task: str, module: nn.Module) -> None:
        super().__setitem__(key_of(task), module)

    def __delitem__(self, task: str) -> None:
        super().__delitem__(key_of(task))

    def __contains__(self, task: object) -> bool:
        return isinstance(task, str) and super().__contains__(key_of(task))

    def __iter__(self) -> Iterator[str]:
        return map(task_of, super().__iter__())

    def keys(self) -> KeysView[str]:
        """Return the tasks."""
        return dict(self.items()).keys()

    def items(self) -> ItemsView[str, nn.Module]:
        """Return the tasks and their modules."""
        return {task_of(key): module for key, module in super().items()}.items()


class PerTask(TaskModules):
    """Modules each of which is private to a task and to the tasks that borrow its head."""

    @classmethod
    def copies(cls, module: nn.Module, owners: Sequence[str]) -> PerTask:
        """Make a copy of a module for each task. All start from the weights of `module`, which
        itself is the first copy."""
        return cls(
            {
                owner: module if index == 0 else deepcopy(module)
                for index, owner in enumerate(owners)
            }
        )


class Layer(nn.Module):
    """A module that stands in the place of a layer of the network. Attributes that it does not
    have, and the network reads, are those of the layer, `like`."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that torch does not register the layer as a submodule a second time.
        self._like: tuple[nn.Module] = (like,)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return (
                getattr(self.__dict__["_like"][0], name)
                if "_like" in self.__dict__
                else super().__getattr__(name)
            )


class TaskLayer(Layer):
    """A layer with a copy for every task."""

    def __init__(self, layer: nn.Module, owners: Sequence[str], route: Route) -> None:
        """All copies start from the weights of `layer`, which itself is the first copy."""
        super().__init__(layer)
        self.copies = PerTask.copies(layer, owners)
        self._route = route

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the output of the copy of the batch's task."""
        return self.copies[self._route.owner](*inputs, **more)


def layer_list(network: nn.Module) -> nn.ModuleList:
    """Return the list that holds the layers of a transformers network, lowest first.

    Raises UserError when the network has no list with one entry for each layer (ALBERT's layers are
    one and the same).
    """
    config = network.config.get_text_config()  # type: ignore[union-attr, operator]
    depth = config.num_hidden_layers
    for module in network.modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == depth
            and len({id(layer) for layer in module}) == depth
        ):
            return module
    raise UserError(
        f"{config.model_type} does not keep its {depth} layers in a list, each with weights of its "
        "own",
        where="sharing",
        fix="type sharing=hard or sharing=none, or another model",
    )


def chosen_layers(layers: Sequence[int] | Literal["all"], depth: int, where: str) -> list[int]:
    """Return the chosen layers by their numbers from 0, in order, without repetition. Negative
    numbers in `layers` count from the top. Raises UserError when a layer does not exist."""
    if layers == "all":
        return list(range(depth))
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong:
        raise UserError(
            f"there is no layer {wrong[0]}",
            where=where,
            fix=f"the model has layers 0 to {depth - 1}; -1 is the last one",
        )
    return sorted({layer % depth for layer in layers})


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states (batch, length, hidden) in the output of a layer: the output itself,
    or the first entry of a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return the output of a layer with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
