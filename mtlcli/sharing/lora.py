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
from collections.abc import Callable

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from mtlcli.config.sharing import LoRASharing
from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.layers import key_of, task_of
from mtlcli.models.multitask import Trunk
from mtlcli.tasks.base import Encoded

SHARED = "_all"
"""Name that peft has for the change of all tasks together. No task has this name, because tasks'
names begin with a letter."""
KINDS = ("lora_A", "lora_B")
"""Names that peft has for the two factors. Below each there is one matrix for each adapter."""


class LoRA(Trunk):
    """One backbone, frozen or not, with low-rank changes for each task, and with `shared` one for
    all of them."""

    first_token = True

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
        # peft's own way to choose an adapter freezes the others, which have to be trained. Instead,
        # all layers read one list.
        self._active: list[str] = []
        for module in network.modules():
            if isinstance(module, LoraLayer):
                module._active_adapter = self._active
        # peft has frozen the network, and all changes except the last.
        for name, parameter in network.named_parameters():
            if _adapter(name) is not None:
                parameter.requires_grad = True
        for parameter in trained:
            parameter.requires_grad = True

    def forward(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors computed through the task's changes."""
        self._active[:] = [key_of(self.owners[task]), *([SHARED] if self._shared else [])]
        return self.backbone(batch)

    def users(self, parameter: str) -> tuple[str, ...]:
        """Return the tasks whose loss depends on a parameter; for a parameter of a task's change,
        the task and those that borrow its head."""
        adapter = _adapter(parameter)
        return (
            super().users(parameter)
            if adapter is None or adapter == SHARED
            else self.borrowers(task_of(adapter))
        )


def _adapter(parameter: str) -> str | None:
    """Return the name of the adapter that a parameter belongs to; None for parameters of the
    backbone."""
    parts = parameter.split(".")
    return next(
        (following for part, following in zip(parts, parts[1:], strict=False) if part in KINDS),
        None,
    )


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
