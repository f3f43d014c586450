"""Gradient rows of several tasks from one forward and one backward pass.

In a packed batch the states of different tasks never meet, so one backward pass gives the gradients
of all states. Only the gradients of weights add up over tokens; here they are taken for the range
of tokens of each task. K tasks then need the launches of one pass. It works where every shared
parameter belongs to a linear map, a layer norm or an embedding.

torch.func's gradients per example (`vmap(grad)`) and Opacus have one gradient for each row of a
batch, not for ranges of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from mtlcli.fast.mixin import put_on
from mtlcli.models.multitask import GradientRow, MultiTaskModel


class Recorder:
    """Keeps the gradients of each part of a packed batch apart while it is recording."""

    def __init__(self) -> None:
        self.rows: list[GradientRow] = []
        """A row for each part; empty while nothing is recorded."""
        # A gradient has to reach modules even where no state below them needs one.
        self.anchor = torch.zeros((), requires_grad=True)
        self._ends: list[list[int]] = []
        self._members: dict[tuple[int, torch.dtype], Tensor] = {}

    @contextmanager
    def recording(
        self, tokens: Sequence[int], inputs: Sequence[int]
    ) -> Iterator[list[GradientRow]]:
        """Yield a list for the gradients of the parts of a batch, which the backward pass inside
        the context fills. `tokens`, `inputs`: their numbers in each part."""
        self._ends = [[0, *np.cumsum(counts).tolist()] for counts in (tokens, inputs)]
        self._members = {}
        self.rows = [{} for _ in tokens]
        try:
            yield self.rows
        finally:
            self.rows = []

    def ranges(self, count: int) -> list[slice]:
        """Return the range of each part among `count` tokens, or inputs."""
        ends = next((each for each in self._ends if each[-1] == count), None)
        assert ends is not None, "a shared module of a packed batch sees all tokens or all inputs"
        return [slice(*each) for each in pairwise(ends)]

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum of `values` (n, width) over the range of each part: (parts, width)."""
        kind = len(values), values.dtype
        if kind not in self._members:
            member = np.zeros((len(self.rows), len(values)), np.float32)
            for row, part in zip(member, self.ranges(len(values)), strict=True):
                row[part] = 1
            made = torch.from_numpy(member).to(values.dtype)
            # A copy from memory that is not pinned would wait for the GPU.
            made = made.pin_memory() if values.is_cuda else made
            self._members[kind] = made.to(values.device, non_blocking=True)
        return self._members[kind] @ values

    def add(self, parameter: Parameter, gradients: Sequence[Tensor]) -> None:
        """Add the gradients of a parameter to the rows of the parts."""
        for row, gradient in zip(self.rows, gradients, strict=True):
            given = gradient.to(parameter.dtype)
            row[parameter] = row[parameter] + given if parameter in row else given


class Recorded:
    """Mixin for the class of a module whose gradients are recorded."""

    function: type[torch.autograd.Function]
    recorder: Recorder
    own: dict[str, Parameter]
    """The module's parameters that are trained, by name. During a pass, others may stand in their
    place."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        """Return what the module returns."""
        if not self.recorder.rows:
            return super().forward(inputs)  # type: ignore[misc]
        output: Tensor = self.function.apply(inputs, self.recorder.anchor, self)
        return output


class LinearFunction(torch.autograd.Function):
    """A linear map."""

    @staticmethod
    def forward(context: Any, states: Tensor, _anchor: Tensor, module: Any) -> Tensor:
        """Return (..., outputs) for states (..., inputs)."""
        context.module, context.dtype = module, states.dtype
        weight, bias = module.weight, module.bias
        if torch.is_autocast_enabled(states.device.type):
            low = torch.get_autocast_dtype(states.device.type)
            states, weight = states.to(low), weight.to(low)
            bias = None if bias is None else bias.to(low)
        context.save_for_backward(states, weight)
        return nn.functional.linear(states, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        """Return the gradient of the states."""
        states, weight = context.saved_tensors
        module = context.module
        inside, outside = states.flatten(0, -2), gradient.flatten(0, -2)
        if "weight" in module.own:
            module.recorder.add(
                module.own["weight"],
                [outside[part].T @ inside[part] for part in module.recorder.ranges(len(inside))],
            )
        if "bias" in module.own:
            module.recorder.add(module.own["bias"], module.recorder.sums(outside))
        back = (gradient @ weight).to(context.dtype) if context.needs_input_grad[0] else None
        return back, None, None


class NormFunction(torch.autograd.Function):
    """A layer norm, in fp32."""

    @staticmethod
    def forward(context: Any, states: Tensor, _anchor: Tensor, module: Any) -> Tensor:
        """Return states of the same shape."""
        context.module, context.dtype = module, states.dtype
        output, mean, scale = torch.native_layer_norm(
            states.float(), module.normalized_shape, module.weight, module.bias, module.eps
        )
        context.save_for_backward(states.float(), mean, scale)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        """Return the gradient of the states."""
        states, mean, scale = context.saved_tensors
        module = context.module
        if "weight" in module.own:
            normed = gradient * ((states - mean) * scale)
            module.recorder.add(module.own["weight"], module.recorder.sums(normed.flatten(0, -2)))
        if "bias" in module.own:
            module.recorder.add(module.own["bias"], module.recorder.sums(gradient.flatten(0, -2)))
        if not context.needs_input_grad[0]:
            return None, None, None
        back, _, _ = torch.ops.aten.native_layer_norm_backward(
            *(gradient, states, module.normalized_shape, mean, scale, module.weight, module.bias),
            [True, False, False],
        )
        return back.to(context.dtype), None, None


class EmbeddingFunction(torch.autograd.Function):
    """An embedding."""

    @staticmethod
    def forward(context: Any, ids: Tensor, _anchor: Tensor, module: Any) -> Tensor:
        """Return (..., width) for ids (...)."""
        context.module = module
        context.save_for_backward(ids)
        return nn.functional.embedding(ids, module.weight)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        """Return nothing: ids have no gradient."""
        (ids,) = context.saved_tensors
        module = context.module
        table = module.own["weight"]
        ids, values = ids.flatten(), gradient.flatten(0, -2).to(table.dtype)
        module.recorder.add(
            table,
            [
                torch.sparse_coo_tensor(
                    ids[None, part], values[part], table.shape, check_invariants=False
                )
                if module.sparse
                else torch.zeros_like(table).index_add_(0, ids[part], values[part])
                for part in module.recorder.ranges(len(ids))
            ],
        )
        return None, None, None


FUNCTIONS = {
    nn.Linear: LinearFunction,
    nn.LayerNorm: NormFunction,
    nn.Embedding: EmbeddingFunction,
}


def record_rows(model: MultiTaskModel) -> None:
    """Let a model that takes packed batches of several tasks give the gradient rows of all of them
    at once, if all of its shared parameters are of a kind that can be recorded."""
    if model.packing is None or not model.trunk.joint:
        return
    if any(task.answers_in_text for task in model.tasks.values()):
        return  # A language head reads the states of answers alone.
    users = model.users()
    shared = {each for name, each in model.named_parameters() if len(users[name]) > 1}
    found = [
        module
        for module in model.trunk.modules()
        if type(module) in FUNCTIONS and not shared.isdisjoint(module.parameters(recurse=False))
    ]
    if {each for module in found for each in module.parameters(recurse=False)} != shared:
        return
    recorder = Recorder()
    for module in found:
        trained = {
            name: each
            for name, each in module.named_parameters(recurse=False)
            if each.requires_grad
        }
        if trained:
            function = FUNCTIONS[type(module)]
            put_on(Recorded, module, function=function, recorder=recorder, own=trained)
    model.recorder = recorder
