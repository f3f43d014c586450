"""The parameters of a model as the trained tasks share them."""

from __future__ import annotations

from collections.abc import Collection

from torch.nn import Embedding, Parameter

from mtlcli.models.multitask import MultiTaskModel


class TrainedParameters:
    """The parameters of a model, sorted by the tasks that use them.

    A parameter is shared only if several trained tasks use it: tasks that are only evaluated, or
    not trained in the present stage, do not count.
    """

    def __init__(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
        """Sort the parameters for the trained tasks `tasks`."""
        self.named = dict(model.named_parameters())
        self.users = {
            name: [task for task in users if task in tasks] for name, users in model.users().items()
        }
        """The trained tasks that use each parameter, by the parameter's name."""
        self.shared_names = [name for name in self.named if len(self.users[name]) > 1]
        self.all = list(self.named.values())
        self.shared = [self.named[name] for name in self.shared_names]
        sparse = {
            module.weight
            for module in model.modules()
            if isinstance(module, Embedding) and module.sparse
        }
        self.of_all_tasks = [
            parameter
            for name, parameter in self.named.items()
            if len(self.users[name]) == len(tasks) and parameter not in sparse
        ]
        """The parameters that every trained task uses, and whose gradients are dense."""
        self.private: dict[str, list[Parameter]] = {task: [] for task in tasks}
        """The parameters that one trained task has for itself, by task."""
        for name, parameter in self.named.items():
            if len(self.users[name]) == 1:
                self.private[self.users[name][0]].append(parameter)
