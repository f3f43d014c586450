"""Mixed batches: the inputs of several tasks go through the trunk together, cut anew by length.

They give the same gradient as one task after the other, in fewer passes and with less padding.
Packed batches need no cutting.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from mtlcli.data.batches import InputFormat, rectangles
from mtlcli.training.passes import Pass, PassGroup, TaskMicroBatch
from mtlcli.training.task_batch import Batches

PASS_OVERHEAD_TOKENS = {"cpu": 32, "cuda": 100_000}
"""The fixed cost of a pass through the trunk, in tokens that take about as long, by kind of device.
Measured on a CPU: 20 for 6 layers x 384, 120 for 2 layers x 64. On a GPU the cost is the launch of
the kernels: 28 ms for 6 layers x 384 on an H200, in which it computes about 100,000 tokens."""

MAX_HIDDEN_NUMBERS = {"cpu": 1 << 17, "cuda": 1 << 23}
"""Bound on the numbers in the hidden states of a mixed batch, padded tokens times width, by kind of
device; where the micro-batch of one task is larger, that size is the bound. On a CPU, hidden states
that do not fit into its caches take longer: with 6 layers x 384, a token among 1,700 takes 7%
longer than a token among 400."""


class MixedBatches:
    """The rule by which the micro-batches of a step become mixed batches."""

    def __init__(
        self,
        hidden: int,
        device: str,
        *,
        max_tokens: int | None = None,
        input_format: InputFormat | None = None,
        packed: bool = False,
    ) -> None:
        """`hidden`: the width of the hidden states. `device`: the kind of device. `max_tokens`:
        bound on the padded tokens of a mixed batch on this rank, if lower than the bound that suits
        the device. `input_format`: how mixed batches are padded; None: to the longest example of
        the batch. `packed`: whether mixed batches are packed, so that lengths do not matter."""
        self._packed = packed
        suits = MAX_HIDDEN_NUMBERS[device] // hidden
        self._most = suits if max_tokens is None else min(max_tokens, suits)
        self._overhead = PASS_OVERHEAD_TOKENS[device]
        self._input_format = input_format or InputFormat(pad_id=0, uses_segments=False)

    def passes(self, batches: Batches) -> list[PassGroup]:
        """Return the passes of a step, in one group."""
        if self._packed:
            return [self.packs(batches)]
        every = [(name, micro) for name, batch in batches.items() for micro in batch.micro]
        # Features that belong together are not cut apart.
        group: PassGroup = [[TaskMicroBatch(*each)] for each in every if each[1].widest is not None]
        micros = [each for each in every if each[1].widest is None]
        if not micros:
            return [group] if group else []
        most = max(self._most, *(micro.input_ids.numel() for _, micro in micros))
        widest = max(micro.input_ids.shape[1] for _, micro in micros)
        lengths = self._input_format.rounded(
            np.concatenate([micro.lengths for _, micro in micros]), widest
        )
        ends = np.cumsum([len(micro) for _, micro in micros])
        for places in rectangles(lengths, overhead=self._overhead, most=most):
            owners = np.searchsorted(ends, places, side="right")
            one_pass: Pass = []
            for owner in np.unique(owners):
                name, micro = micros[owner]
                rows = places[owners == owner] - (ends[owner] - len(micro))
                picked = micro.pick(np.sort(rows), int(lengths[places].max()))
                one_pass.append(TaskMicroBatch(name, picked))
            group.append(one_pass)
        return [group]

    def packs(self, batches: Batches) -> PassGroup:
        """Return as few passes as the bound on their tokens allows: the first micro-batches of all
        tasks, then the second ones, and so on."""
        passes: PassGroup = []
        for each in zip_longest(*(batch.micro for batch in batches.values())):
            tokens = self._most
            for name, micro in zip(batches, each, strict=True):
                if micro is None:
                    continue
                tokens += int(micro.lengths.sum())
                if tokens > self._most:
                    passes.append([])
                    tokens = int(micro.lengths.sum())
                passes[-1].append(TaskMicroBatch(name, micro))
        return passes
