"""The engine of a stage: how the gradients of its steps are summed over ranks.

Every loss is normalised by counts over all ranks, so gradients are summed, never averaged. Which
parameters get a gradient in a step depends on the step's tasks alone; a rank whose share of a batch
is empty has no gradient where other ranks have one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import count_of
from mtlcli.models.shards import is_shard
from mtlcli.training.trained_parameters import TrainedParameters

Forward = Callable[[], Tensor]
"""A forward pass. It returns the loss: a scalar, without a graph where nothing is trained."""


class Engine(ABC):
    """How gradients are summed over ranks. In each step, `Passes` calls `begin`, then `backward`
    for each pass, then `sum_rest`."""

    @abstractmethod
    def begin(self, *, summed: bool) -> None:
        """Make ready for passes; `.grad` of all parameters is empty. `summed`: the last of them may
        form the sums over ranks, because the gradients of all passes are added up."""

    @abstractmethod
    def backward(self, forward: Forward, *, last: bool) -> None:
        """Run a forward and a backward pass, which adds to `.grad`. `last`: this is the last pass
        of this rank, after `begin(summed=True)`; a rank without a pass makes an empty one."""

    @abstractmethod
    def sum_rest(
        self, way: Hashable, touched: Mapping[Parameter, Tensor], done: Collection[Parameter]
    ) -> None:
        """Sum over ranks all gradients in `.grad` that no `backward` has summed.

        `way`: what decides which parameters have a gradient on some rank; it is the same on all
        ranks. Parameters without any keep `grad = None`, and their optimiser state. `touched`: for
        word embeddings, the indices of the embeddings whose gradient is not 0 on this rank.
        `done`: parameters whose gradients are summed already.
        """


def choose_engine(parameters: TrainedParameters, ranks: Ranks) -> Engine:
    """Return the engine that sums the gradients of these parameters over these ranks."""
    if ranks.world_size == 1 or any(map(is_shard, parameters.all)):
        return NothingLeft()
    return DataParallel(parameters, ranks)


class NothingLeft(Engine):
    """The engine where nothing is left to be summed: on one device, and for shards, whose gradients
    torch sums in every backward pass (see `sharded.shard`)."""

    def begin(self, *, summed: bool) -> None:
        pass

    def backward(self, forward: Forward, *, last: bool) -> None:
        _backward(forward())

    def sum_rest(
        self, way: Hashable, touched: Mapping[Parameter, Tensor], done: Collection[Parameter]
    ) -> None:
        pass


class Place(NamedTuple):
    """A parameter that has a gradient on some rank."""

    parameter: Parameter
    by_index: bool
    """Whether only the embeddings that some rank has touched are transferred."""


class DataParallel(Engine):
    """torch's DistributedDataParallel for the parameters that all trained tasks use; all others are
    summed after the last pass.

    The last pass of a step is the one that torch sums in, while it goes backwards. Two things need
    care. Ranks may differ in the number of their passes, and in the parameters that the last one
    reaches: `_Tied` makes every parameter take part in it exactly once. And there is one such
    module, not one for each task: the transfers of two might come in another order on another
    rank. Parameters of some tasks alone (heads, task copies) are not given to torch, which would
    transfer all of them in each step, and neither are word embeddings with sparse gradients.
    """

    def __init__(self, parameters: TrainedParameters, ranks: Ranks) -> None:
        self._all, self._ranks = parameters.all, ranks
        self._of_all_tasks = parameters.of_all_tasks
        self._owned: list[Parameter] = []
        self._wrapped: DistributedDataParallel | None = None
        self._sums = _Sums()
        self._trained: list[bool] = []
        self._places: dict[Hashable, list[Place]] = {}

    def begin(self, *, summed: bool) -> None:
        self._sums.clear()
        trained = [parameter.requires_grad for parameter in self._all]
        if trained != self._trained:
            self._trained, self._places, self._wrapped = trained, {}, None
            self._owned = [each for each in self._of_all_tasks if each.requires_grad]
        if summed and self._wrapped is None and self._owned:
            self._wrapped = self._wrap()

    def _wrap(self) -> DistributedDataParallel:
        wrapped = DistributedDataParallel(_Tied(self._owned), gradient_as_bucket_view=True)
        wrapped.register_comm_hook(self._sums, lambda sums, bucket: sums.add(bucket))
        # torch arranges its buckets anew after the first pass, in the order of that pass. Sums over
        # three ranks or more are rounded by the place in a bucket, so a resumed run must not have
        # another first pass than the run had.
        wrapped(lambda: torch.zeros((), device=self._ranks.device)).backward()
        for parameter in self._owned:
            parameter.grad = None
        self._sums.clear()
        return wrapped

    def backward(self, forward: Forward, *, last: bool) -> None:
        if not last or self._wrapped is None:
            _backward(forward())
            return
        self._wrapped(forward).backward()
        if not self._sums.complete:
            raise RuntimeError("torch has not summed all gradients over the ranks")

    def sum_rest(
        self, way: Hashable, touched: Mapping[Parameter, Tensor], done: Collection[Parameter]
    ) -> None:
        if way not in self._places:
            self._places[way] = self._agree(touched)
        places = self._places[way]
        left_out = set(self._all).difference(place.parameter for place in places)
        if stray := left_out.intersection(self._with_gradient()):
            raise RuntimeError(
                f"{count_of(len(stray), 'parameter')} with a gradient that no rank has had in an "
                f"earlier step of these tasks"
            )
        for parameter in left_out:
            parameter.grad = None
        summed = {*done, *(self._owned if self._sums.complete else ())}
        self._sum([place for place in places if place.parameter not in summed], touched)

    def _with_gradient(self) -> set[Parameter]:
        """Return the parameters that have got a gradient from passes of this rank."""
        if not self._sums.complete:
            return {parameter for parameter in self._all if parameter.grad is not None}
        others = set(self._all).difference(self._owned)
        return self._sums.reached.union(each for each in others if each.grad is not None)

    def _agree(self, touched: Mapping[Parameter, Tensor]) -> list[Place]:
        """Return the parameters that have a gradient on some rank."""
        here = self._with_gradient()
        has = [parameter in here for parameter in self._all]
        known = [parameter not in here or parameter in touched for parameter in self._all]
        counts = self._ranks.all_reduce(
            torch.tensor([has, known], dtype=torch.float32, device=self._ranks.device)
        )
        return [
            Place(parameter, knowing == self._ranks.world_size)
            for parameter, having, knowing in zip(self._all, *counts.tolist(), strict=True)
            if having
        ]

    def _sum(self, places: Sequence[Place], touched: Mapping[Parameter, Tensor]) -> None:
        """Sum the gradients of some parameters in one flat transfer. The sums are valid until the
        next call."""
        if not places:
            return
        none = torch.empty(0, dtype=torch.int64, device=self._ranks.device)
        rows: dict[Parameter, Tensor] = {}
        parts: list[Tensor] = []
        for parameter, by_index in places:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if by_index:
                rows[parameter] = self._ranks.all_gather_unique(touched.get(parameter, none))
            parts.append(parameter.grad[rows[parameter]] if by_index else parameter.grad)
        flat = self._ranks.all_reduce(torch.cat([part.reshape(-1) for part in parts]))
        sums = flat.split([part.numel() for part in parts])
        for (parameter, by_index), part, total in zip(places, parts, sums, strict=True):
            if by_index:
                assert parameter.grad is not None
                parameter.grad.index_copy_(0, rows[parameter], total.view_as(part))
            else:
                parameter.grad = total.view_as(parameter)


class _Tied(nn.Module):
    """The module that is given to torch: a forward pass whose loss depends on all parameters."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        super().__init__()
        self.tied = nn.ParameterList(parameters)

    def forward(self, forward: Forward) -> Tensor:
        loss: Tensor = _Tie.apply(forward(), *reversed(self.tied))
        return loss


class _Tie(torch.autograd.Function):
    """The identity, with parameters as more inputs that get no gradient.

    Autograd comes to a parameter once in a backward pass, when all that depends on it is through.
    A parameter that the pass does not reach otherwise thereby keeps what earlier passes have added
    up in `.grad`, and torch transfers that.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Parameter) -> Tensor:
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return (gradients[0], *[None] * (len(ctx.needs_input_grad) - 1))


class _Sums:
    """torch's hook for the transfer of a bucket of gradients, without the division that makes a
    mean of the sum. It does not know the wrapped module, which could not be freed otherwise."""

    def __init__(self) -> None:
        self.reached: set[Parameter] = set()
        """The parameters that have got a gradient on this rank."""
        self.complete = False
        """Whether all buckets are on their way."""

    def clear(self) -> None:
        """Forget the pass before."""
        self.reached, self.complete = set(), False

    def add(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Begin to sum a bucket of gradients (`dist.GradBucket`) over all ranks."""
        self.reached.update(each for each in bucket.parameters() if each.grad is not None)
        self.complete = bucket.is_last()
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward()
