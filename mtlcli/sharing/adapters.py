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

from torch import nn

from mtlcli.config.sharing import AdapterSharing
from mtlcli.data.batches import Batch
from mtlcli.models.adapters import Bottleneck, adapt
from mtlcli.models.backbone import Backbone
from mtlcli.models.layers import Layer, PerTask, Route, hidden_of, with_hidden
from mtlcli.models.multitask import Trunk
from mtlcli.tasks.base import Encoded


class Adapters(Trunk):
    """One backbone, frozen or not, with adapters for each task, and with `shared` an adapter for
    all of them."""

    joint = True
    first_token = True

    def __init__(
        self, config: AdapterSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self._route = Route()
        self.backbone = make_backbone()
        hidden = self.backbone.hidden

        def place(layer: nn.Module) -> AdaptedLayer:
            adapters = PerTask({name: Bottleneck(hidden, config.size) for name in self.heads})
            return AdaptedLayer(
                layer,
                adapters,
                Bottleneck(hidden, config.size) if config.shared else None,
                self._route,
            )

        adapt(self.backbone, config.layers, place, frozen=config.frozen)

    def forward(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors computed through the task's adapters."""
        self._route.parts = self.owned(task, batch)
        return self.backbone(batch)


class AdaptedLayer(Layer):
    """A layer, and behind it the task's adapter and the shared one, side by side."""

    def __init__(
        self, layer: nn.Module, adapters: PerTask, shared: Bottleneck | None, route: Route
    ) -> None:
        super().__init__(layer)
        self.inner, self.adapters, self.shared = layer, adapters, shared
        self._route = route

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output with adapted hidden states."""
        output = self.inner(*inputs, **more)
        hidden = hidden_of(output)
        adapted = hidden + self._route.each(
            lambda owner, states: self.adapters[owner](states), hidden
        )
        return with_hidden(
            output, adapted if self.shared is None else adapted + self.shared(hidden)
        )
