"""Adapters: one backbone, and behind its layers a small bottleneck for each task.

Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP" (two adapters in a layer);
Pfeiffer et al. 2020, "MAD-X" (one, behind the feed-forward block). Here one stands behind the whole
layer, so that every architecture has a place for it:

    h' = h + up(gelu(down(h)))    with h what the layer gives

`up` starts at zero, so that at the start the backbone's output is unchanged. Both papers freeze the
backbone (`frozen=true`), except for Houlsby's layer norms, which are frozen here as well. By
default, the backbone is trained for all tasks together, and adapters hold what differs between
tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.adapters import AdapterSharing
from mtlcli.sharing.parts.layers import Layer, hidden_of, replace_layers, with_hidden


class Bottleneck(nn.Module):
    """The bottleneck up(gelu(down(x))) of an adapter, which is added to hidden states; 0 at the
    start."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, size)
        self.up = nn.Linear(size, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the change of the hidden states: (..., hidden) -> (..., hidden)."""
        change: Tensor = self.up(nn.functional.gelu(self.down(hidden)))
        return change


class Adapters(Trunk):
    """One backbone, frozen or not, with adapters for each task, and with `shared` an adapter for
    all of them."""

    unmergeable = (
        "an adapter is a network of its own behind a layer, with a nonlinear function in it"
    )

    joint = True
    packs = True
    first_token = True
    new_tasks = True

    def __init__(
        self, config: AdapterSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.backbone = make_backbone()
        hidden = self.backbone.hidden

        def place(layer: nn.Module) -> AdaptedLayer:
            adapters = PerTask({name: Bottleneck(hidden, config.size) for name in self.heads})
            return AdaptedLayer(
                layer, adapters, Bottleneck(hidden, config.size) if config.shared else None
            )

        replace_layers(self.backbone, config.layers, place, frozen=config.frozen)


class AdaptedLayer(Layer):
    """A layer, and behind it the task's adapter and the shared one, side by side."""

    def __init__(self, layer: nn.Module, adapters: PerTask, shared: Bottleneck | None) -> None:
        super().__init__(layer)
        self.inner, self.adapters, self.shared = layer, adapters, shared

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output with adapted hidden states."""
        output = self.inner(*inputs, **more)
        hidden = hidden_of(output)
        adapted = hidden + current(ForwardPass).each(
            lambda owner, states: self.adapters[owner](states), hidden
        )
        return with_hidden(
            output, adapted if self.shared is None else adapted + self.shared(hidden)
        )
