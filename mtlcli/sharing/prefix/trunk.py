"""Prefix tuning: one backbone, and for each task learned keys and values in its layers, which every
token sees beside those of the input.

Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation"; for encoders of any
size and for tasks with labels: Liu et al. 2022, "P-Tuning v2". In a layer with queries Q, keys K
and values V of an input of task t, attention becomes

    softmax(Q [P_t; K]' / sqrt(size)) [R_t; V]

with P_t and R_t (length x size for each head) of the task and the layer. The library calls its
attention through `AttentionInterface`; a function of our own puts the prefixes in front and hands
on to torch's kernel. Networks that bring an attention of their own (DeBERTa, MPNet) are refused.

Differences from the papers and from peft's `PrefixTuningConfig`:
- The papers freeze the backbone (`frozen=true`). By default, it is trained here.
- There, a prefix stands at the first positions, and those of the input move on by `length`. Here it
  has no positions: the input keeps its own, `max_length` may be all that the model takes, layers
  with a window see the whole prefix, and T5's distances to it have no bias.
- P_t and R_t are free parameters, as in P-tuning v2, and not made by a small network. They start
  with the standard deviation of the backbone's initial weights, in peft with 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import ParameterTable, Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.models.pruned import FIELD
from mtlcli.sharing.parts.layers import Layer, replace_layers
from mtlcli.sharing.prefix import PrefixSharing

NAME = "mtl_prefix"
"""The name under which `attend` and its masks are registered with transformers."""


class KeysAndValues(nn.Module):
    """The prefix of a task in a layer."""

    def __init__(self, length: int, width: int, std: float) -> None:
        """`width`: that of all heads together. `std`: standard deviation of the initial numbers."""
        super().__init__()
        self.keys = nn.Parameter(torch.empty(length, width).normal_(std=std))
        self.values = nn.Parameter(torch.empty(length, width).normal_(std=std))


@dataclass
class PrefixPass(ForwardPass):
    """A pass in which attention looks for its prefixes."""

    prefixes: Mapping[nn.Module, PerTask]
    """The prefixes of all tasks, for each module of a layer that has some."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    position_bias: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute attention as the library's `sdpa` does, with the prefixes of the tasks.

    `query`: (batch, heads, length, size); `key`, `value`: the same, possibly with fewer heads.
    `attention_mask`: (batch, 1, length, length) bool, True where a token is seen. `position_bias`:
    (1, heads, length, length), or None. Returns the attended values (batch, length, heads, size)
    and no weights.
    """
    passing = current(PrefixPass)
    if module in passing.prefixes:
        prefixes = passing.prefixes[module]

        def with_prefix(which: str, states: Tensor) -> Tensor:
            def of_task(owner: str, states: Tensor) -> Tensor:
                prefix: Tensor = getattr(prefixes[owner], which)
                heads = prefix.to(states.dtype).unflatten(1, (states.shape[1], -1)).transpose(0, 1)
                return torch.cat([heads.expand(states.shape[0], -1, -1, -1), states], 2)

            return passing.each(of_task, states)

        length = key.shape[2]
        key, value = with_prefix("keys", key), with_prefix("values", value)
        front = (key.shape[2] - length, 0)
        attention_mask = nn.functional.pad(attention_mask, front, value=True)
        if position_bias is not None:
            position_bias = nn.functional.pad(position_bias, front)
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, position_bias=position_bias, **more
    )
    return output


def masked(**options: Any) -> Tensor | None:
    """Make a mask as the library's `sdpa_mask` does, but never leave one out."""
    never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(**options | never)
    return mask


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, masked)


class PrefixedLayer(Layer):
    """A layer with prefixes of the tasks, which its attention looks for in the pass."""

    def __init__(self, layer: nn.Module, prefixes: PerTask) -> None:
        super().__init__(layer)
        self.inner, self.prefixes = layer, prefixes

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output."""
        return self.inner(*inputs, **more)


class Prefix(Trunk):
    """One backbone, frozen or not, with prefixes for each head."""

    unmergeable = "the task's keys and values stand beside those of the input in each layer"

    joint = True
    new_tasks = True

    def __init__(
        self, config: PrefixSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        """Raises UserError when the network's attention takes no prefixes."""
        super().__init__(owners)
        self.config = config
        self.backbone = make_backbone()
        network = self.backbone.network
        if getattr(network.config, FIELD, None):
            what = "a prefix is as wide as all heads of a layer, and the model lacks some of them"
            raise UserError(what, "sharing=prefix", "begin with the run before heads were removed")
        width, std = _width(network.config.get_text_config()), self.backbone.initializer_range
        self._prefixes: dict[nn.Module, PerTask] = {}

        def place(layer: nn.Module) -> PrefixedLayer:
            prefixes = PerTask(
                {name: KeysAndValues(config.length, width, std) for name in self.heads}
            )
            self._prefixes.update(dict.fromkeys(layer.modules(), prefixes))
            return PrefixedLayer(layer, prefixes)

        replace_layers(self.backbone, config.layers, place, frozen=config.frozen)
        for module in network.modules():
            own: Any = getattr(module, "config", None)
            if getattr(own, "_attn_implementation", None) == "sdpa":
                own._attn_implementation = NAME
        if not self.backbone.network.get_input_embeddings().weight.is_meta:
            self._try()

    def begin(self, task: str, batch: Batch) -> PrefixPass:
        """Return the pass of a batch, with the prefixes of its layers."""
        return PrefixPass(self.parts(task, batch), batch.attention_mask, self._prefixes)

    def _try(self) -> None:
        """Compute the states of two tokens. Raises UserError when a prefix is not read."""
        two = np.array([2])
        batch = Batch(
            torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.bool), None, {}, two, two, 1.0, 0
        )
        wanted = {id(prefixes) for prefixes in self._prefixes.values()}
        found = _Noticed(self._prefixes)
        training = self.training
        self.eval()
        self._prefixes, kept = found, self._prefixes
        try:
            with torch.no_grad():
                self(next(iter(self.owners)), batch)
            fits = found.read == wanted
        except RuntimeError:  # A width that is not that of the keys.
            fits = False
        finally:
            self._prefixes = kept
            self.train(training)
        if not fits:
            kind = self.backbone.network.config.model_type
            raise UserError(
                f"{kind} has an attention of its own, which takes no further keys and values",
                where="sharing=prefix",
                fix="take another strategy, for example sharing=prompt, or another model",
            )

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. The prefixes have a learning rate of their own."""
        table = super().parameter_table()
        for module in self.modules():
            if isinstance(module, KeysAndValues):
                table.change(module.parameters(), lr=self.config.lr)
        return table


class _Noticed(dict[nn.Module, PerTask]):
    """Prefixes that note which of them have been read."""

    def __init__(self, prefixes: Mapping[nn.Module, PerTask]) -> None:
        super().__init__(prefixes)
        self.read: set[int] = set()

    def __getitem__(self, module: nn.Module) -> PerTask:
        prefixes = super().__getitem__(module)
        self.read.add(id(prefixes))
        return prefixes


def _width(config: Any) -> int:
    """Return the width of the keys of all heads together."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    return (getattr(config, "num_key_value_heads", None) or heads) * int(
        size or config.hidden_size // heads
    )
