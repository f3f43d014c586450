"""The optimisers of a run: torch's own where torch has one.

Each class decides which parameters its optimiser takes. AdamW takes all others. AdamW always takes
the parameters of the weighting method and those for which the trunk names a learning rate, because
their learning rates are chosen for AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mtlcli.config.optim import AdafactorOptim, AdamW8bitOptim, AdamWOptim, LionOptim, MuonOptim
from mtlcli.models.build import check_tensors
from mtlcli.models.shards import copy_whole

Groups = list[dict[str, Any]]
"""Parameter groups for torch's optimisers, each with `params`, `lr`, `peak` and `weight_decay`."""
States = dict[str, tuple[torch.Size, torch.dtype]]
"""The shape and dtype of each tensor that an optimiser keeps for a parameter."""


class Kind:
    """A kind of optimiser, with the rule for the parameters that it takes. The base class is
    AdamW."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def takes(self, parameter: Parameter, *, hidden: bool, embedding: bool) -> bool:
        """Return whether a parameter without a learning rate of its own goes to this optimiser.
        `hidden`: the parameter lies in the layers of a trunk, not in a head; `embedding`: the
        parameter is a table of embeddings."""
        return True

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """Return the optimiser of the parameter groups."""
        return adamw(groups, self.config.betas, self.config.eps)

    def states(self, parameter: Parameter) -> States:
        """Return the tensors that the optimiser keeps for a parameter after an update."""
        like = parameter.shape, parameter.dtype
        return {"step": (torch.Size(), torch.float32), "exp_avg": like, "exp_avg_sq": like}

    @property
    def rest(self) -> tuple[list[float], float]:
        """AdamW's betas and eps for the parameters that this optimiser does not take."""
        return [0.9, 0.999], 1e-8


def adamw(groups: Groups, betas: Iterable[float], eps: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) for the parameter groups."""
    first, second = betas
    return torch.optim.AdamW(groups, betas=(first, second), eps=eps, fused=True)


class AdamW(Kind):
    """AdamW for all parameters, including those with learning rates of their own."""

    config: AdamWOptim


class AdamW8bit(Kind):
    """AdamW of the package bitsandbytes (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
    Quantization").

    As the paper advises, embeddings keep moments of 32 bits, here in torch's AdamW. The package
    itself keeps 32 bits for parameters of fewer than 4,096 numbers. This class has run on a CPU
    only so far, with version 0.50.
    """

    config: AdamW8bitOptim

    def takes(self, parameter: Parameter, *, hidden: bool, embedding: bool) -> bool:
        return not embedding

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        from bitsandbytes.optim import AdamW8bit as Implementation

        first, second = self.config.betas
        made: torch.optim.Optimizer = Implementation(
            groups, betas=(first, second), eps=self.config.eps
        )
        return made

    def states(self, parameter: Parameter) -> States:
        count, shape = parameter.numel(), parameter.shape
        step = {"step": (torch.Size(), torch.int64)}
        if count < 4096:
            return step | dict.fromkeys(("state1", "state2"), (shape, torch.float32))
        table, blocks = (
            (torch.Size([256]), torch.float32),
            (torch.Size([math.ceil(count / 256)]), torch.float32),
        )
        moments = dict.fromkeys(("state1", "state2"), (shape, torch.uint8))
        return (
            step | moments | {"qmap1": table, "qmap2": table, "absmax1": blocks, "absmax2": blocks}
        )

    @property
    def rest(self) -> tuple[list[float], float]:
        return self.config.betas, self.config.eps


class Adafactor(Kind):
    """torch.optim.Adafactor (Shazeer & Stern 2018, "Adafactor: Adaptive Learning Rates with
    Sublinear Memory Cost")."""

    config: AdafactorOptim

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.Adafactor(
            groups, beta2_decay=config.beta2_decay, eps=(None, config.eps), d=config.threshold
        )

    def states(self, parameter: Parameter) -> States:
        kind, shape = parameter.dtype, parameter.shape
        step = {"step": (torch.Size(), torch.float32)}
        if parameter.ndim < 2:
            return step | {"variance": (shape, kind)}
        rows, columns = torch.Size([*shape[:-1], 1]), torch.Size([*shape[:-2], 1, shape[-1]])
        return step | {"row_var": (rows, kind), "col_var": (columns, kind)}


class Lion(Kind):
    """Lion; see `LionOptimizer`."""

    config: LionOptim

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        return LionOptimizer(groups, self.config.betas)

    def states(self, parameter: Parameter) -> States:
        return {"exp_avg": (parameter.shape, parameter.dtype)}


class Muon(Kind):
    """torch.optim.Muon (Jordan et al. 2024) for the matrices of the trunk.

    Its updates are scaled so that AdamW's learning rate and weight decay suit them (Liu et al.
    2025, "Muon is Scalable for LLM Training"). AdamW updates embeddings, heads, biases, norms and
    parameters of more than two dimensions.
    """

    config: MuonOptim

    def takes(self, parameter: Parameter, *, hidden: bool, embedding: bool) -> bool:
        return parameter.ndim == 2 and hidden and not embedding

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.Muon(
            groups,
            momentum=config.momentum,
            nesterov=config.nesterov,
            ns_steps=config.ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )

    def states(self, parameter: Parameter) -> States:
        return {"momentum_buffer": (parameter.shape, parameter.dtype)}

    @property
    def rest(self) -> tuple[list[float], float]:
        return self.config.betas, self.config.eps


class LionOptimizer(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", program 1). With
    gradient g, momentum m and weight decay d,

        w <- w - lr (sign(b1 m + (1 - b1) g) + d w)        m <- b2 m + (1 - b2) g

    The code is our own: torch has no Lion, and three lines need no package.
    """

    def __init__(self, groups: Groups, betas: Iterable[float]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self._betas = tuple(betas)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        toward, keep = self._betas
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["exp_avg"] for parameter in parameters]
            signs = torch._foreach_sign(torch._foreach_lerp(gradients, momenta, toward))
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, signs, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - keep)


class Optimizers:
    """Several optimisers, each of different parameters, used as one."""

    def __init__(self, parts: list[tuple[Kind, torch.optim.Optimizer]]) -> None:
        self.parts = parts
        self._on_device: Tensor | None = None

    def keep_rates_on(self, device: torch.device) -> None:
        """Keep the learning rates in tensors on a device, so that recorded kernels read those of
        the step. Only torch's fused AdamW can."""
        groups = self.param_groups
        self._on_device = torch.zeros(len(groups), device=device)
        for group, rate in zip(groups, self._on_device, strict=True):
            group["lr"], group["capturable"] = rate, True
        for _, part in self.parts:
            # torch warns of steps that are made without being recorded.
            part._warned_capturable_if_run_uncaptured = True

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of each parameter group."""
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["rate"] = rate
            if self._on_device is None:
                group["lr"] = rate
        if self._on_device is not None:
            pinned = torch.tensor(rates, pin_memory=self._on_device.is_cuda)
            self._on_device.copy_(pinned, non_blocking=True)

    @property
    def param_groups(self) -> Groups:
        """The parameter groups of all optimisers."""
        return [group for _, part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for _, part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update the parameters of all optimisers."""
        for _, part in self.parts:
            part.step()

    def tensors(self, names: Mapping[Any, str]) -> dict[str, Tensor]:
        """Return the tensors that all optimisers keep, by name: `<parameter>/<name>`. `names`: the
        names of the parameters."""
        return {
            f"{names[parameter]}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for _, part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load(self, names: Mapping[Any, str], tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors that the method `tensors` returned. Raises ValueError when they do
        not belong to these parameters."""
        known = {
            names[parameter]: (kind, part, parameter)
            for kind, part in self.parts
            for parameter in parameters_of(part)
        }
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, kept = key.rpartition("/")
            states.setdefault(name, {})[kept] = value
        for name, state in states.items():
            if name not in known:
                raise ValueError(f"it has the state of '{name}', which the run does not have")
            kind, part, parameter = known[name]
            # A parameter whose task has not been drawn yet has no state; any other parameter has
            # all of its state.
            check_tensors(state, kind.states(parameter), f"{name}/")
            for key, value in state.items():
                # An int64 tensor is a count that the optimiser keeps as a Python int. The fused
                # optimiser's count of updates is a floating-point tensor, which stays on the device
                # of the parameter.
                whole = value.dtype == torch.int64
                part.state[parameter][key] = int(value) if whole else _placed(value, parameter)


def _placed(value: Tensor, parameter: Parameter) -> Tensor:
    """Return a tensor of the optimiser on the device of its parameter, cut into shards as the
    parameter is if it has the same shape."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    placed = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    copy_whole(placed, value)
    return placed


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    """Return the parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
