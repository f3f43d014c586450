"""Packed batches in a transformers network: its attention, and the choice between packed and padded
batches.

The network is called with a packed batch as one long sequence, and attention keeps the sequences
apart. Models that take their attention from the library's `AttentionInterface` work like this as
they are; models that bring their own attention, or find positions in a way of their own, do not.
Nothing is assumed by name: `packing_of` compares packed with padded states.

The library's own integrations of variable-length attention need the package flash-attn;
`torch.nn.attention.varlen.varlen_attn` has no dropout. The operator under it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mtlcli.config import Config
from mtlcli.data.batches import Batch, InputFormat, join
from mtlcli.data.pack import Group, Layout, Packing, pack
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current, running
from mtlcli.models.multitask import MultiTaskModel, Trunk
from mtlcli.models.precision import choose_precision
from mtlcli.tasks.base import Encoded

NAME = "mtl_packed"
"""The name under which `attend` is registered with transformers. No mask is registered under it, so
that the library makes none."""
TOLERANCE = 1e-5
"""The largest difference between packed and padded states in fp32, relative to the largest
state."""
BF16_TOLERANCE = 5e-2
"""The same for the kernel of a GPU in bf16."""
PROBE_LENGTH = 96
"""The most tokens of a sequence with which packed and padded states are compared."""
UNKNOWN = ("position_bias", "softcap", "s_aux")
"""Arguments of the interface that change attention, and that `attend` does not know."""


class NotPackable(Exception):
    """The network asks for attention that packed batches do not have."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute attention within each sequence of the current packed batch, as the library's
    interface asks.

    `query`: (1, heads, T, size); `key`, `value`: the same, possibly with fewer heads, each of which
    serves several heads of the query. `sliding_window`: tokens that are so far apart, or farther,
    do not see each other. Returns the attended values (1, T, heads, size) and no weights. Raises
    NotPackable when the network hands over a mask or a bias.
    """
    given = [name for name in UNKNOWN if more.get(name) is not None]
    if attention_mask is not None or given:
        raise NotPackable(f"its attention takes {' and '.join(given) or 'a mask of its own'}")
    layout = current(ForwardPass).layout
    assert layout is not None, "a model with packed attention is given packed batches"
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    low = query.is_cuda and torch.is_autocast_enabled("cuda")
    # Not by an index, whose gradient would be copied.
    tokens = [each.squeeze(0).transpose(0, 1) for each in (query, key, value)]
    kernel = _flash if low else _by_group
    return kernel(layout, tokens, dropout, scale, causal, sliding_window).unsqueeze(0), None


AttentionInterface.register(NAME, attend)


def _flash(
    layout: Layout,
    tokens: list[Tensor],
    dropout: float,
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """Return the attended values (T, heads, size) of tokens (T, heads, size) in the number format
    of autocast, by the variable-length flash kernel, which has a gradient and draws dropout."""
    query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in tokens)
    sides = -1 if window is None else window - 1
    output: Tensor
    output, *_ = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        layout.ends,
        layout.ends,
        layout.longest,
        layout.longest,
        dropout,
        causal,
        False,
        scale=scale,
        window_size_left=sides,
        window_size_right=0 if causal else sides,
    )
    return output


def _by_group(
    layout: Layout,
    tokens: list[Tensor],
    dropout: float,
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """Return the same in the tokens' own number format, by torch's attention over groups of
    sequences that have nearly the same length."""
    groups, unsort = layout.groups()
    shared = tokens[0].shape[1] != tokens[1].shape[1]
    attended = []
    for group in groups:
        query, key, value = (
            each.index_select(0, group.places)
            .unflatten(0, (group.count, group.width))
            .transpose(1, 2)
            for each in tokens
        )
        output = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_visible(group, causal=causal, window=window),
            dropout_p=dropout,
            scale=scale,
            enable_gqa=shared,
        )
        attended.append(output.transpose(1, 2).flatten(0, 1).index_select(0, group.inside))
    return torch.cat(attended).index_select(0, unsort)


def _visible(group: Group, *, causal: bool, window: int | None) -> Tensor | None:
    """Return which tokens see which: (n, 1, width, width) bool, or None where all see all."""
    if window is not None and window >= group.width:
        window = None
    if group.even and not causal and window is None:
        return None
    place = torch.arange(group.width, device=group.real.device)
    distance = place[:, None] - place
    visible = group.real[:, None, None, :]
    if causal:
        visible = visible & (distance >= 0)
    if window is not None:
        visible = visible & (distance.abs() < window)
    # What stands behind the end of a sequence sees itself, since the softmax over nothing is not a
    # number.
    return visible | (distance == 0)


def choose_packing(
    config: Config, model: MultiTaskModel, input_format: InputFormat, device: torch.device
) -> str | None:
    """Let a model take packed batches, if `runner.packing`, its `device` and the model itself
    allow. Return why not, unless `runner.packing` is the reason. The model lies on the CPU still:
    a network that counts positions wrongly would stop a GPU for the whole process.

    Raises UserError when `runner.packing` is `on` and the model cannot.
    """
    wanted = config.runner.packing
    if wanted == "off" or (wanted == "auto" and device.type == "cpu"):
        return None
    try:
        if wanted == "auto" and choose_precision(config.runner.precision, device) == "fp32":
            raise NotPackable("the kernel for packed batches computes in bf16")
        if not model.trunk.packs:
            raise NotPackable(f"sharing={config.sharing.name} needs padded batches")
        if config.augmentation.perturbs:
            raise NotPackable(f"augmentation={config.augmentation.name} needs padded batches")
        if config.model.attention != "auto":
            raise NotPackable(f"model.attention={config.model.attention} is another attention")
        longest = max(task.max_length for task in model.tasks.values())
        model.packing = packing_of(model.trunk, input_format, longest, device)
    except NotPackable as error:
        if wanted == "on":
            raise UserError(
                f"the model cannot take packed batches: {error}",
                where="runner.packing=on",
                fix="type runner.packing=off, or leave it out",
            ) from error
        return str(error)
    return None


def packing_of(
    trunk: Trunk, input_format: InputFormat, longest: int, device: torch.device
) -> Packing:
    """Return how batches are packed for a trunk on the CPU, and change its attention to `attend`.

    Packed and padded states of a few random sequences are compared in fp32, and, where the trunk
    will run on a GPU, the attention there with that on the CPU. Raises NotPackable when they
    differ; the attention is then as before. `longest`: the most tokens of a sequence.
    """
    parts = _random_parts(trunk, input_format, longest)
    before = [(config, config._attn_implementation) for config in _configs(trunk)]
    calls: list[Call] = []

    def recorded(module: Any, *tensors: Any, **more: Any) -> tuple[Tensor, None]:
        output = attend(module, *tensors, **more)
        calls.append(Call(module, tensors, more, output[0]))
        return output

    AttentionInterface.register(NAME, recorded)
    try:
        with _evaluating(trunk):
            expected, first_position = _padded(trunk, parts)
            packing = Packing(longest, first_position)
            for config, _ in before:
                config._attn_implementation = NAME
            _require_equal(_packed(trunk, parts, packing), expected)
            if device.type == "cuda":
                _require_kernel(calls, parts, packing, device)
    except NotPackable:
        for config, implementation in before:
            config._attn_implementation = implementation
        raise
    finally:
        AttentionInterface.register(NAME, attend)
    return packing


@dataclass(frozen=True)
class Call:
    """A call of `attend` and its result."""

    module: Any
    tensors: tuple[Any, ...]
    more: dict[str, Any]
    output: Tensor


def _configs(trunk: Trunk) -> list[Any]:
    """Return the configurations that name an implementation of attention: copies of layers have
    their own."""
    found = {id(each): each for each in (getattr(m, "config", None) for m in trunk.modules())}
    return [each for each in found.values() if hasattr(each, "_attn_implementation")]


@contextmanager
def _evaluating(trunk: Trunk) -> Iterator[None]:
    """Compute without dropout and gradients."""
    training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        trunk.train(training)


def _random_parts(trunk: Trunk, input_format: InputFormat, longest: int) -> list[tuple[str, Batch]]:
    """Return three random sequences of different lengths, of two tasks if the trunk takes mixed
    batches."""
    random = np.random.default_rng(0)
    backbone = next(module for module in trunk.modules() if isinstance(module, Backbone))
    vocabulary = backbone.network.config.get_text_config().vocab_size
    width = min(longest, PROBE_LENGTH)
    lengths = np.array([max(1, width // 2), width, max(1, width // 3)])
    mask = np.arange(width) < lengths[:, None]
    # The id that pads is no token of a text, and some networks count positions by it.
    words = np.setdiff1d(np.arange(vocabulary), [input_format.pad_id])
    ids = np.where(mask, random.choice(words, mask.shape), input_format.pad_id)
    segments = (np.arange(width) >= lengths[:, None] // 2) & mask

    def part(rows: slice) -> Batch:
        return Batch(
            input_ids=torch.from_numpy(ids[rows]),
            attention_mask=torch.from_numpy(mask[rows]),
            token_type_ids=torch.from_numpy(segments[rows].astype(np.int64))
            if input_format.uses_segments
            else None,
            columns={},
            lengths=lengths[rows],
            indices=np.arange(len(lengths))[rows],
            denominator=1.0,
            pad_id=input_format.pad_id,
        )

    if trunk.joint and len(trunk.heads) > 1:
        return [(trunk.heads[0], part(slice(0, 2))), (trunk.heads[1], part(slice(2, 3)))]
    return [(trunk.heads[0], part(slice(0, 3)))]


States = tuple[Tensor, Tensor]
"""The states of all tokens (tokens, hidden), and the pooled vectors (inputs, hidden)."""


def _padded(trunk: Trunk, parts: list[tuple[str, Batch]]) -> tuple[States, int]:
    """Return the states from a padded batch, and the position that the network gives the first
    token of a sequence: 0, unless an embedding of positions has been asked for another."""
    batch = join(parts)
    full = int(batch.lengths.argmax())
    counting = torch.arange(batch.input_ids.shape[1])
    found = [0]

    def look(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        ids = inputs[0] if inputs else None
        if (
            isinstance(ids, Tensor)
            and ids.shape[-1:] == counting.shape
            and not ids.is_floating_point()
        ):
            row = ids.reshape(-1, len(counting))
            row = row[min(full, len(row) - 1)]
            if torch.equal(row - row[0], counting):
                found.append(int(row[0]))

    hooks = [
        module.register_forward_pre_hook(look)
        for module in trunk.modules()
        if isinstance(module, nn.Embedding)
    ]
    encoded: Encoded = trunk(parts[0][0], batch)
    for hook in hooks:
        hook.remove()
    return (encoded.hidden[batch.attention_mask], encoded.pooled), found[-1]


def _packed(trunk: Trunk, parts: list[tuple[str, Batch]], packing: Packing) -> States:
    """Return the states from a packed batch. Raises NotPackable when the network fails."""
    batch = pack(parts, packing)
    try:
        encoded: Encoded = trunk(parts[0][0], batch)
    except NotPackable:
        raise
    except Exception as error:  # A network that is not made for this may raise anything.
        raise NotPackable(f"the network fails with {_first_line(error)}") from error
    return encoded.hidden[batch.attention_mask], encoded.pooled


def _require_equal(found: States, expected: States) -> None:
    """Raise NotPackable when states or pooled vectors differ."""
    for what, mine, other in zip(("token states", "pooled vectors"), found, expected, strict=True):
        if mine.shape != other.shape:
            raise NotPackable(f"its {what} have another shape in packed batches")
        if not (apart := _apart(mine, other)) <= TOLERANCE:
            raise NotPackable(f"its {what} differ from those of padded batches by {apart:.1e}")


def _apart(mine: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest number."""
    return float((mine - other).abs().max() / other.abs().max())


def _require_kernel(
    calls: list[Call], parts: list[tuple[str, Batch]], packing: Packing, device: torch.device
) -> None:
    """Raise NotPackable when the attention of a GPU in bf16 fails or differs from that on the
    CPU."""
    batch = pack([(name, part.to(device)) for name, part in parts], packing)
    passing = ForwardPass([], batch.attention_mask, layout=batch.layout)
    with running(passing), torch.autocast("cuda", torch.bfloat16):
        for call in calls:
            tensors: list[Any] = [
                each.to(device) if isinstance(each, Tensor) else each for each in call.tensors
            ]
            try:
                found = attend(call.module, *tensors, **call.more)[0].float().cpu()
            except RuntimeError as error:
                raise NotPackable(f"the kernel fails with {_first_line(error)}") from error
            if not (apart := _apart(found, call.output)) <= BF16_TOLERANCE:
                raise NotPackable(f"the kernel's results differ from the CPU's by {apart:.1e}")


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {line}"
