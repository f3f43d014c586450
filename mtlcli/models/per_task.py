"""Modules that belong to one task, by the task's name."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Sequence
from copy import deepcopy

from torch import nn

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
