"""The optimiser and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtlcli.config.run import Optim
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.weighting.base import Weighting


def build_optimizer(optim: Optim, model: MultiTaskModel, weighting: Weighting) -> torch.optim.AdamW:
    """AdamW over groups that differ in learning rate and weight decay.

    Biases and norms (parameters of one dimension) have no decay. Parameters of one task alone have the task's
    learning-rate factor, and each layer `optim.layer_decay` times the rate of the one above it. What the
    weighting method learns has its own rate and no decay, and so has what the trunk gives one. Each group keeps its peak rate
    in `peak`.
    """
    assert optim.lr is not None, "the learning rate is resolved before the optimiser is built"
    users, heights = model.users(), model.heights()
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    own = {f"trunk.{name}": lr for name, lr in model.trunk.learning_rates().items()}
    for name, parameter in model.named_parameters():
        factor = model.tasks[users[name][0]].config.lr_factor if len(users[name]) == 1 else 1.0
        factor *= optim.layer_decay ** heights[name]
        decay = optim.weight_decay if parameter.ndim > 1 else 0.0
        lr, decay = (own[name], 0.0) if name in own else (optim.lr * factor, decay)
        groups.setdefault((lr, decay), []).append(parameter)
    settings = [{"params": parameters, "lr": lr, "peak": lr, "weight_decay": decay} for (lr, decay), parameters in groups.items()]
    learned = weighting.parameters()
    if learned:
        settings.append({"params": learned, "lr": weighting.config.lr, "peak": weighting.config.lr, "weight_decay": 0.0})
    return torch.optim.AdamW(settings, betas=(optim.betas[0], optim.betas[1]), eps=optim.eps, fused=True)


def warmup_steps(optim: Optim, steps: int) -> int:
    """The steps of the warm-up in a run, or a stage, of `steps` steps."""
    return math.ceil(optim.warmup * steps) if optim.warmup < 1 else int(optim.warmup)


def rate(optim: Optim, step: int, steps: int) -> float:
    """The share of the peak learning rate at step `step` (from 0) of `steps`: a rise over the warm-up, then the schedule's decay to 0.

    The same formula as the schedules of the transformers library: step 0 of a warm-up has rate 0.
    """
    warmup = warmup_steps(optim, steps)
    if step < warmup:
        return step / warmup
    if optim.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    return 1 - progress if optim.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give every group `share` of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


class Unfreezing:
    """Gradual unfreezing: which parameters are trained is a pure function of the step. What the model's config freezes stays frozen."""

    def __init__(self, model: MultiTaskModel, every: int) -> None:
        heights = model.heights()
        self._every, self._depth = every, model.depth
        self._parameters = [(parameter, heights[name]) for name, parameter in model.named_parameters() if parameter.requires_grad]

    def remarks(self, steps: int) -> list[str]:
        """What stays frozen to the end of a run of so many steps, as a warning."""
        reached = (steps - 1) // self._every
        if reached > self._depth:
            return []
        rest = "" if reached == self._depth else f"{self._depth - reached} of {self._depth} layers and "
        return [f"warning: optim.unfreeze_every={self._every}: {rest}the embeddings stay frozen in all {steps} steps"]

    def apply(self, step: int) -> None:
        """Before step `step`, from 0: the heads, and one layer more from the top for every period that is over."""
        for parameter, height in self._parameters:
            parameter.requires_grad = height <= step // self._every


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `<parameter>/<moment>`."""
    return {f"{names[p]}/{key}": value for p, state in optimizer.state.items() for key, value in state.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Any, str], tensors: dict[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` gave. Raises ValueError when it does not belong to these parameters."""
    known = {name: parameter for parameter, name in names.items()}
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        states.setdefault(name, {})[moment] = value
    for name, state in states.items():
        if name not in known:
            raise ValueError(f"it has the state of '{name}', which the run does not have")
        # A parameter whose task has not had its turn yet has no state at all; one that has any has all of it.
        like = known[name].shape, known[name].dtype
        check_tensors(state, {"step": (torch.Size(), torch.float32), "exp_avg": like, "exp_avg_sq": like}, f"{name}/")
        for moment, value in state.items():
            # The count of updates stays where the fused optimiser keeps it: beside the parameter, whatever its type.
            optimizer.state[known[name]][moment] = value.to(known[name].device)


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.Size, torch.dtype]], prefix: str = "") -> None:
    """Raise ValueError unless these are the expected tensors, in shape and type, and all numbers in them are finite."""
    for name in (*expected, *tensors):
        if name not in tensors:
            raise ValueError(f"{prefix}{name} is missing")
        if name not in expected:
            raise ValueError(f"it has {prefix}{name}, which the run does not have")
        found, (shape, kind) = tensors[name], expected[name]
        if found.shape != shape:
            raise ValueError(f"{prefix}{name} has the shape {list(found.shape)} instead of {list(shape)}")
        if found.dtype != kind:
            raise ValueError(f"{prefix}{name} holds {found.dtype} instead of {kind}")
        if not found.isfinite().all():
            raise ValueError(f"{prefix}{name} is not finite")
