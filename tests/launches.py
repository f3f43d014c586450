"""A stand-in for a GPU on a CPU, which counts what a step would ask of a real one: the operators
that it launches, and the times that the host waits.

`GPU` is the device `cpu:0`: tensors that are made on it, moved to it or computed from such tensors
count as lying on the GPU. A FakeTensorMode is no alternative, since the transformers library leaves
out its own reads there.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cpu", 0)
SIZE_FROM_DATA = (
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),
    *("_coalesce", "bincount", "equal", "repeat_interleave", "_local_scalar_dense"),
)
"""Operators that give the host a number, or a result whose size depends on the data."""
NO_LAUNCH = (
    *("_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"),
    *("_local_scalar_dense", "is_same_size", "_sparse_coo_tensor_unsafe", "resize_"),
)
"""Operators, apart from views, that launch nothing by themselves."""
DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
OURS = ("/mtlcli/", "/transformers/")


class Launches:
    """What has been counted."""

    def __init__(self) -> None:
        self.operators: Counter[str] = Counter()
        """The number of launches of each operator."""
        self.waits: Counter[str] = Counter()
        """The number of times that the host waits, by reason and place."""
        self._there: dict[int, StorageWeakRef] = {}
        self._paused = False

    @property
    def total(self) -> int:
        """The number of launches."""
        return self.operators.total()

    def put(self, tensors: Iterable[Tensor]) -> None:
        """Let tensors lie on the GPU."""
        for tensor in tensors:
            storage = _storage(tensor)
            self._there[storage._cdata] = StorageWeakRef(storage)

    def lies_there(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies on the GPU."""
        reference = self._there.get(_storage(tensor)._cdata)
        return reference is not None and not reference.expired()

    def wait(self, why: str) -> None:
        """Count a time that the host waits."""
        frames = [
            frame
            for frame in traceback.extract_stack()
            if any(part in frame.filename for part in OURS) and "/tests/" not in frame.filename
        ]
        at = f" at {frames[-1].filename.split('/')[-1]}:{frames[-1].lineno}" if frames else ""
        self.waits[why + at] += 1

    def as_one(self, name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return a function of tensors, counted as one operator forward and one backward."""
        output: Tensor = AsOne.apply(self, name, function, *inputs)
        return output

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing within the context."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within the context."""
        with ExitStack() as stack:
            stack.enter_context(Operators(self))
            stack.enter_context(Calls(self))
            yield


class Operators(TorchDispatchMode):
    """The operators that autograd and Python hand to the device."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self._launches = launches

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, launches = kwargs or {}, self._launches
        result = func(*args, **kwargs)
        if launches._paused:
            return result
        name = func._schema.name.removeprefix("aten::")
        given = _tensors((args, kwargs))
        there = [launches.lies_there(tensor) for tensor in given]
        device = kwargs.get("device")
        if not (any(there) or device == GPU):
            return result
        if name == "copy_":
            to_gpu, from_gpu = there[0], there[1] if len(there) > 1 else there[0]
            no_wait = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            if to_gpu != from_gpu and not no_wait:
                launches.wait("copy_")
            if to_gpu != from_gpu:
                launches.operators["copy"] += 1
                return result
        if name in SIZE_FROM_DATA:
            launches.wait(name)
        if name in ("index", "index_put_", "index_put", "_index_put_impl_"):
            for place in tree_leaves(args[1]):
                if isinstance(place, Tensor) and (
                    place.dtype == torch.bool or not launches.lies_there(place)
                ):
                    launches.wait(f"{name} by {place.dtype}")
        if not (_is_view(func) or name in NO_LAUNCH):
            launches.operators[name] += 1
        launches.put(_tensors(result))
        if func._schema.is_mutable:
            launches.put(given[:1])
        return result


class Calls(TorchFunctionMode):
    """The calls that a GPU answers with other operators than a CPU, and reads that are no
    operators."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self._launches = launches

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, launches = kwargs or {}, self._launches
        if launches._paused:
            return func(*args, **kwargs)
        if func == DEVICE:
            return GPU if launches.lies_there(args[0]) else func(*args)
        if func in (Tensor.cpu, Tensor.tolist, Tensor.numpy) and launches.lies_there(args[0]):
            launches.wait(func.__name__)
            with launches.paused():
                return args[0].clone() if func is Tensor.cpu else func(*args, **kwargs)
        if (
            func is Tensor.to
            and GPU in (*args[1:], *kwargs.values())
            and not launches.lies_there(args[0])
        ):
            moved = self._move(args[0], no_wait=kwargs.get("non_blocking", False))
            return moved.to(kwargs.get("dtype", moved.dtype))
        if func is torch.tensor and kwargs.get("device") == GPU:
            with launches.paused():
                made = func(*args, **kwargs)
            return self._move(made, no_wait=not made.numel())
        if func is nn.functional.dropout:
            return _dropout(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _move(self, tensor: Tensor, *, no_wait: bool) -> Tensor:
        """Copy a tensor to the GPU."""
        launches = self._launches
        if not no_wait:
            launches.wait("to")
        launches.operators["copy"] += 1
        with launches.paused():
            moved = tensor.clone()
        launches.put([moved])
        return moved

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        **options: Any,
    ) -> Tensor:
        """Compute attention, without dropout."""
        # The kernel takes a bias, which torch makes of a mask in two operators.
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            self._launches.operators["attention mask"] += 2
        attend = nn.functional.scaled_dot_product_attention
        return self._launches.as_one(
            "attention", partial(attend, attn_mask=attn_mask, **options), query, key, value
        )


class AsOne(torch.autograd.Function):
    """A function of tensors as one operator forward and one backward."""

    @staticmethod
    def forward(
        context: Any,
        launches: Launches,
        name: str,
        function: Callable[..., Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        context.save_for_backward(*inputs)
        context.more = launches, name, function
        launches.operators[name] += 1
        with launches.paused():
            output = function(*inputs)
        launches.put([output])
        return output

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        launches, name, function = context.more
        launches.operators[f"{name} backward"] += 1
        with launches.paused(), torch.enable_grad():
            inputs = [each.detach().requires_grad_() for each in context.saved_tensors]
            found = torch.autograd.grad(function(*inputs), inputs, gradients[0])
        launches.put(found)
        return None, None, None, *found


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p else input


def _storage(tensor: Tensor) -> Any:
    return (tensor._values() if tensor.is_sparse else tensor).untyped_storage()


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _is_view(func: Any) -> bool:
    return any(
        each.alias_info is not None and not each.alias_info.is_write
        for each in func._schema.returns
    )
