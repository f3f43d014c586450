"""Gradient rows: the gradient of each task with respect to the shared parameters, kept apart until
the rows are combined.

A gradient row is the list of the parameters' gradients as autograd left them, so that keeping a row
costs no copy. Word embeddings have sparse gradients, which differ from zero only for the tokens of
the batch, and only these parts are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from mtlcli.distributed.process_group import Ranks
from mtlcli.seeds import derived_seed

CHUNK = {"cpu": 1 << 16, "cuda": 1 << 24}
"""The number of columns whose inner products are taken at once, by kind of device. On a CPU, K
gradient rows of this width stay in the cache; on a GPU the cost is the launch of the kernels."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Projection:
    """A random projection to `dimension` numbers that preserves inner products, without bias over
    the draw of its signs.

    This is a count sketch (Charikar, Chen & Farach-Colton 2002): every entry of a parameter has a
    random sign and is added to one of `dimension` buckets. The signs are drawn once from the seed.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension = dimension
        self._seed = seed
        self._signs: dict[int, Tensor] = {}

    def signs(self, index: int, parameter: Tensor) -> Tensor:
        """Return the signs of parameter number `index`: bool, in the shape of the parameter."""
        if index not in self._signs:
            generator = torch.Generator().manual_seed(derived_seed(self._seed, index))
            drawn = torch.randint(0, 2, parameter.shape, generator=generator, dtype=torch.int8)
            self._signs[index] = drawn.bool().to(parameter.device)
        return self._signs[index]

    def sketch(self, gradient: Tensor, signs: Tensor) -> Tensor:
        """Return what a flat gradient adds to the projection of its gradient row: (dimension,)
        fp32."""
        signed = torch.where(signs, gradient, -gradient).float()
        return (
            torch.nn.functional.pad(signed, (0, -len(signed) % self.dimension))
            .view(-1, self.dimension)
            .sum(0)
        )


class GradientRows:
    """K gradient rows over the shared parameters. Call `append_from_grad` after each task's
    backward pass, then `agree_on_columns` once; then measure and combine."""

    def __init__(
        self, parameters: Sequence[Parameter], ranks: Ranks, dtype: torch.dtype = torch.float32
    ) -> None:
        self._parameters = parameters
        self._ranks = ranks
        self._dtype = dtype
        self._rows: list[list[Tensor | None]] = []
        self._touched: dict[int, Tensor] = {}
        self._shards: list[Tensor] = []
        self._present: list[int] = []

    def append_from_grad(self) -> None:
        """Move the gradients from the parameters' `.grad` into a new gradient row."""
        row: list[Tensor | None] = []
        for parameter in self._parameters:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None and gradient.is_sparse:
                gradient = gradient.coalesce()
            row.append(gradient if gradient is None else gradient.to(self._dtype))
        self._rows.append(row)

    def agree_on_columns(self) -> None:
        """Agree with the other ranks on the columns that take part, once all gradient rows are
        appended."""
        columns = list(zip(*self._rows, strict=True))
        given = [any(gradient is not None for gradient in column) for column in columns]
        sparse = [
            any(gradient is not None and gradient.is_sparse for gradient in column)
            for column in columns
        ]
        if self._ranks.world_size > 1:
            has = torch.tensor([given, sparse], dtype=torch.float32, device=self._ranks.device)
            given, sparse = self._ranks.all_reduce(has).tolist()
        self._present = [index for index, count in enumerate(given) if count]
        for index, count in enumerate(sparse):
            if count:
                self._compact(index)

    def _compact(self, index: int) -> None:
        """Replace the sparse gradients of parameter number `index` by dense ones. Their first
        dimension covers the indices that any task on any rank has touched."""
        sparse = [row[index] for row in self._rows]
        own = [gradient.indices()[0] for gradient in sparse if gradient is not None]
        ids = self._ranks.all_gather_unique(
            torch.cat(own) if own else torch.empty(0, dtype=torch.int64, device=self._ranks.device)
        )
        self._touched[index] = ids
        for row, gradient in zip(self._rows, sparse, strict=True):
            if gradient is not None:
                dense = torch.zeros(
                    len(ids), *gradient.shape[1:], dtype=self._dtype, device=gradient.device
                )
                row[index] = dense.index_copy_(
                    0, torch.searchsorted(ids, gradient.indices()[0]), gradient.values()
                )

    def _size(self, index: int) -> int:
        """Return the number of columns of a parameter that take part."""
        parameter = self._parameters[index]
        return (
            len(self._touched[index]) * parameter[0].numel()
            if index in self._touched
            else parameter.numel()
        )

    def _flat(self, row: list[Tensor | None], indices: Sequence[int]) -> Tensor:
        """Return the columns of some parameters in one vector."""
        parts = []
        for index in indices:
            gradient = row[index]
            parts.append(
                torch.zeros(self._size(index), dtype=self._dtype, device=self._ranks.device)
                if gradient is None
                else gradient.reshape(-1)
            )
        return torch.cat(parts)

    # --------------------------------------------------------------------------------------------
    # inner products

    def gram(self) -> Tensor:
        """Return the inner products of the gradient rows, summed over ranks first: (K, K) float64
        on the CPU. With several ranks, the summed rows are cut into one shard of the columns for
        each rank; `combine(reduced=True)` uses the shards."""
        if self._ranks.world_size == 1:
            joined = self._ranks.device.type != "cpu"
            return self._products(self._joined_blocks() if joined else self._blocks())
        width = sum(self._size(index) for index in self._present)
        padding = -width % self._ranks.world_size
        self._shards = []
        for row in self._rows:
            flat = torch.nn.functional.pad(self._flat(row, self._present), (0, padding))
            self._shards.append(self._ranks.reduce_scatter(flat))
        partial = self._products([self._shards])
        return self._ranks.all_reduce(partial.to(self._ranks.device)).cpu()

    def gram_of_some(self, indices: Sequence[int]) -> Tensor:
        """Return inner products over some parameters only, as an approximation. Ranks exchange only
        the columns of these parameters."""
        chosen = [index for index in self._present if index in set(indices)]
        return self._products(
            [[self._ranks.all_reduce(self._flat(row, chosen)) for row in self._rows]]
        )

    def gram_of_projection(self, projection: Projection) -> Tensor:
        """Return inner products of random projections of the gradient rows, as an approximation.
        Ranks exchange only these projections."""
        sketches = [
            torch.zeros(projection.dimension, device=self._ranks.device) for _ in self._rows
        ]
        for index in self._present:
            signs = projection.signs(index, self._parameters[index])
            if index in self._touched:
                signs = signs[self._touched[index]]
            for row, sketch in zip(self._rows, sketches, strict=True):
                gradient = row[index]
                if gradient is not None:
                    sketch += projection.sketch(gradient.reshape(-1), signs.reshape(-1))
        return self._products([[self._ranks.all_reduce(sketch) for sketch in sketches]])

    def _blocks(self) -> Iterator[list[Tensor | None]]:
        """Yield this rank's gradient rows, parameter by parameter."""
        for index in self._present:
            yield [None if (part := row[index]) is None else part.reshape(-1) for row in self._rows]

    def _joined_blocks(self) -> Iterator[Sequence[Tensor]]:
        """Yield this rank's gradient rows in blocks of several parameters, about as wide as a
        chunk, with 0 for gradients that are missing."""
        most, indices = CHUNK[self._ranks.device.type], list(self._present)
        while indices:
            width, count = self._size(indices[0]), 1
            while count < len(indices) and width + self._size(indices[count]) <= most:
                width, count = width + self._size(indices[count]), count + 1
            block, indices = indices[:count], indices[count:]
            yield [self._flat(row, block) for row in self._rows]

    def _products(self, blocks: Iterable[Sequence[Tensor | None]]) -> Tensor:
        count, device = len(self._rows), self._ranks.device
        chunk = CHUNK[device.type]
        total = torch.zeros(count, count, dtype=torch.float64, device=device)
        for block in blocks:
            here = [number for number, vector in enumerate(block) if vector is not None]
            vectors = [vector for vector in block if vector is not None]
            products = torch.zeros(len(here), len(here), dtype=torch.float64, device=device)
            for start in range(0, len(vectors[0]), chunk):
                stacked = torch.stack([vector[start : start + chunk] for vector in vectors]).float()
                products += stacked @ stacked.T
            if len(here) == count:
                total += products
            else:
                total[torch.tensor(here)[:, None], torch.tensor(here)] += products
        return total.cpu()

    # --------------------------------------------------------------------------------------------
    # the update

    def combine(self, weights: Sequence[float], *, reduced: bool) -> None:
        """Write sum_t weights[t] * row_t into the parameters' `.grad`. `reduced`: combine the
        gradient rows summed over ranks, which `gram` has made, instead of this rank's own rows. The
        rows are gone afterwards."""
        if reduced and self._ranks.world_size > 1:
            self._each(lambda vectors, _start, _total: _sum(vectors, weights))
            return
        # The same sums for all parameters at once, in the order of the tasks.
        sums: dict[int, Tensor] = {}
        for row, weight in zip(self._rows, weights, strict=True):
            given = {index: each for index, each in enumerate(row) if each is not None}
            if old := [index for index in given if index in sums]:
                more = [given.pop(index) for index in old]
                torch._foreach_add_([sums[index] for index in old], more, alpha=weight)
            first = [each.float() for each in given.values()]
            # A weight of 1 must not change a bit: a probe measures the gradients of the plain sum
            # and then adds them up.
            if first and weight != 1:
                first = list(torch._foreach_mul(first, weight))
            sums.update(zip(given, first, strict=True))
        for index, columns in sums.items():
            self._put(index, columns)
        self._rows, self._shards = [], []

    def apply(self, method: Callable[[Tensor, int, int], Tensor]) -> None:
        """Write `method(rows (K, n), start, total)` into `.grad`, where `rows` are n columns from
        column `start` on, of `total`, of the gradient rows summed over ranks."""

        def stack(vectors: list[Tensor | None], start: int, total: int) -> Tensor:
            width = next(len(vector) for vector in vectors if vector is not None)
            filled = [
                torch.zeros(width, device=self._ranks.device) if vector is None else vector.float()
                for vector in vectors
            ]
            return method(torch.stack(filled), start, total)

        self._each(stack)

    def whole_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each parameter that takes part and its gradient rows, summed over
        ranks: (K, n) fp32, n the parameter's size. The rows are gone afterwards."""
        for index in self._present:
            parameter, block = self._parameters[index], []
            for row in self._rows:
                flat = self._ranks.all_reduce(self._flat(row, [index]).float())
                if index in self._touched:
                    whole = torch.zeros_like(parameter).index_copy_(
                        0, self._touched[index], flat.view(-1, *parameter.shape[1:])
                    )
                    flat = whole.reshape(-1)
                block.append(flat.detach())
                row[index] = None
            yield index, torch.stack(block)
        self._rows, self._shards = [], []

    def _each(self, function: Callable[[list[Tensor | None], int, int], Tensor]) -> None:
        """Write a function of the gradient rows summed over ranks into `.grad`."""
        total = sum(self._size(index) for index in self._present)
        if self._ranks.world_size > 1:
            width = len(self._shards[0])
            start = self._ranks.rank * width
            inside = max(0, min(width, total - start))
            shard = torch.zeros(width, device=self._ranks.device)
            shard[:inside] = function([each[:inside] for each in self._shards], start, total)
            parts = self._ranks.all_gather(shard)[:total].split(
                [self._size(index) for index in self._present]
            )
            for index, part in zip(self._present, parts, strict=True):
                self._put(index, part)
        else:
            start = 0
            for index, block in zip(self._present, self._blocks(), strict=True):
                if any(vector is not None for vector in block):
                    self._put(index, function(block, start, total))
                start += self._size(index)
        self._rows, self._shards = [], []

    def _put(self, index: int, columns: Tensor) -> None:
        parameter = self._parameters[index]
        if index in self._touched:
            whole = torch.zeros_like(parameter)
            parameter.grad = whole.index_copy_(
                0, self._touched[index], columns.view(-1, *parameter.shape[1:])
            )
        else:
            parameter.grad = columns.view_as(parameter)


def _sum(vectors: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """Return sum_t weights[t] * vectors[t] in fp32, in the order of the tasks. No vector is
    missing."""
    first, *others = (vector for vector in vectors if vector is not None)
    out = first.float() * weights[0]
    for vector, weight in zip(others, weights[1:], strict=True):
        out.add_(vector, alpha=weight)
    return out


def without_factors(gram: Tensor, factors: Sequence[float]) -> Tensor:
    """Return the Gram matrix of gradient rows without the factors of their losses. A row whose
    factor is 0 is unknown and counts as 0."""
    found = torch.tensor(factors, dtype=torch.float64)
    inverse = torch.where(found == 0, 0.0, 1 / found)
    return gram * inverse[:, None] * inverse
