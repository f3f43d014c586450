"""LoRA: low-rank changes of one backbone's weight matrices, one for each task, through the peft
library.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models". A matrix W of the backbone
becomes for task t

    W + alpha / r B_t A_t    with A_t (r x in) random and B_t (out x r) zero at the start

so that at the start the backbone's output is unchanged. The paper freezes W (`frozen=true`). By
default, W is trained for all tasks together, and the changes hold what differs between tasks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import Merges, ParameterTable, Trunk
from mtlcli.models.per_task import key_of, task_of
from mtlcli.sharing.lora import LoRASharing
from mtlcli.sharing.parts.low_rank import check_rank

SHARED = "_all"
"""Name that peft has for the change of all tasks together. No task has this name, because tasks'
names begin with a letter."""


class Active(Sequence[str]):
    """The names of the changes that peft's layers make in the current pass."""

    def __init__(self, shared: bool) -> None:
        self._shared = [SHARED] if shared else []

    def _names(self) -> list[str]:
        return [key_of(current(ForwardPass).owner), *self._shared]

    def __getitem__(self, index: Any) -> Any:
        return self._names()[index]

    def __len__(self) -> int:
        return len(self._names())


class LoRA(Trunk, Merges):
    """One backbone, frozen or not, with low-rank changes for each task, and with `shared` one for
    all of them."""

    packs = True
    first_token = True
    new_tasks = True

    def __init__(
        self, config: LoRASharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self._shared = config.shared
        self.backbone = make_backbone()
        network = self.backbone.network
        trained = (
            []
            if config.frozen
            else [parameter for parameter in network.parameters() if parameter.requires_grad]
        )
        wanted = None if config.modules == "auto" else config.modules
        for name in (*self.heads, *([SHARED] if config.shared else [])):
            settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=wanted)  # type: ignore[arg-type]
            try:
                with warnings.catch_warnings():
                    # Both warnings are expected: there are several adapters, and GPT-2 keeps its
                    # matrices transposed.
                    warnings.filterwarnings(
                        "ignore", "Already found a `peft_config`|fan_in_fan_out is set to False"
                    )
                    inject_adapter_in_model(settings, network, key_of(name))
            except ValueError as error:
                raise _refusal(config, network.config.model_type, error) from error
        changed: list[Any] = [each for each in network.modules() if isinstance(each, LoraLayer)]
        check_rank(config.rank, [(each.in_features, each.out_features) for each in changed])
        # peft's own way to choose an adapter freezes the others, which have to be trained.
        active: Any = Active(config.shared)
        for module in changed:
            module._active_adapter = active
        # peft has frozen the network, and all changes except the last.
        for factors in self._factors():
            factors.requires_grad_(True)
        for parameter in trained:
            parameter.requires_grad = True

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. Those of a task's change belong to the task and those that
        borrow its head."""
        table = super().parameter_table()
        for factors in self._factors():
            for name, factor in factors.items():
                if name != SHARED:
                    table.change(factor.parameters(), users=self.borrowers(task_of(name)))
        return table

    @torch.no_grad()
    def merged(self, task: str) -> Backbone:
        """Return a copy of the backbone for a task with plain matrices."""
        backbone = deepcopy(self.backbone)
        names = [key_of(self.owners[task]), *([SHARED] if self._shared else [])]
        for name, module in list(backbone.named_modules()):
            if isinstance(module, LoraLayer):
                changed: Any = module
                plain = changed.get_base_layer()
                for each in names:
                    plain.weight += changed.get_delta_weight(each)
                place, _, last = name.rpartition(".")
                setattr(backbone.get_submodule(place), last, plain)
        return backbone

    def _factors(self) -> Iterator[nn.ModuleDict]:
        """Yield the A factors of all changes of a matrix, and the B factors, for each matrix."""
        for module in self.modules():
            if isinstance(module, LoraLayer):
                yield from (module.lora_A, module.lora_B)


def _refusal(config: LoRASharing, kind: str, error: ValueError) -> UserError:
    what = (
        f"peft has no matrices to change in {kind}"
        if config.modules == "auto"
        else f"peft cannot change {config.modules} of {kind}"
    )
    return UserError(
        f"{what}: {str(error).splitlines()[0][:200]}",
        where="sharing.modules",
        fix="type sharing.modules=all-linear, or the ends of the names of the model's linear "
        "modules",
    )
