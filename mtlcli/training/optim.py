"""The optimiser and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch.nn import Parameter

from mtlcli.config.optim import AdamWOptim, Optim, optims
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.training.optimizers import AdamW, Groups, Optimizers, adamw
from mtlcli.training.plateau import private_task
from mtlcli.weighting.base import Weighting

Keyed = dict[tuple[float, float, str | None], list[Parameter]]
"""Parameters by learning rate, weight decay and the watched task that they belong to."""


def build_optimizer(
    optim: Optim, model: MultiTaskModel, weighting: Weighting, watched: Collection[str] = ()
) -> Optimizers:
    """Build the run's optimiser over groups that differ in learning rate and weight decay.

    Biases and norms (parameters of one dimension) have no weight decay. Parameters of one task
    alone have the task's lr factor, and each layer has `optim.layer_decay` times the learning rate
    of the layer above it. Two kinds of parameters have learning rates of their own and no decay:
    those of the weighting method, and those to which the sharing strategy gives one. AdamW updates
    these parameters whatever the optimiser is, because their learning rates are chosen for AdamW.
    Each group keeps its peak learning rate in `peak`. The parameters of a task that is `watched`
    (`optim.plateau`), those that no other trained task uses, are in groups of their own, which name
    the task in `task`.
    """
    assert optim.lr is not None, "the learning rate is resolved before the optimiser is built"
    kind = optims.implementation(optim.name)(optim)
    tables = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    taken: Keyed = {}
    others: Keyed = {}
    for name, parameter in model.named_parameters():
        info = model.parameter_infos[name]
        factor = model.tasks[info.users[0]].config.lr_factor if len(info.users) == 1 else 1.0
        factor *= optim.layer_decay**info.depth
        decay = optim.weight_decay if parameter.ndim > 1 else 0.0
        lr, decay = (optim.lr * factor, decay) if info.lr is None else (info.lr, 0.0)
        takes = (
            kind.takes(parameter, hidden=name.startswith("trunk."), embedding=parameter in tables)
            and info.lr is None
        )
        task = private_task(info.users, list(weighting.tasks)) if watched else None
        key = lr, decay, task if task in watched else None
        (taken if takes else others).setdefault(key, []).append(parameter)
    learned = weighting.parameters()
    aside = _groups(others)
    if learned:
        aside.append(
            {
                "params": learned,
                "lr": weighting.config.lr,
                "peak": weighting.config.lr,
                "weight_decay": 0.0,
            }
        )
    groups = _groups(taken)
    if type(kind) is AdamW:
        return Optimizers([(kind, kind.build(groups + aside))])
    rest = AdamW(AdamWOptim())
    parts = [(kind, kind.build(groups))] if groups else []
    return Optimizers(parts + ([(rest, adamw(aside, *kind.rest))] if aside else []))


def _groups(parameters: Keyed) -> Groups:
    return [
        {"params": each, "lr": lr, "peak": lr, "weight_decay": decay, "task": task}
        for (lr, decay, task), each in parameters.items()
    ]


def warmup_steps(optim: Optim, steps: int) -> int:
    """Return the number of warm-up steps in a run, or a stage, of `steps` steps."""
    return math.ceil(optim.warmup * steps) if optim.warmup < 1 else int(optim.warmup)


def decay_steps(optim: Optim, steps: int) -> int:
    """Return the number of steps of wsd's decay in a run, or a stage, of `steps` steps."""
    share = 0.2 if optim.decay is None else optim.decay
    return math.ceil(share * steps) if share < 1 else int(share)


def schedule_lr_factor(optim: Optim, step: int, steps: int) -> float:
    """Return the factor of the peak learning rate at step `step` (from 0) of `steps`: a rise over
    the warm-up, then the schedule.

    With w steps of warm-up and the progress p = (step - w) / (steps - w) after the warm-up:

        linear        1 - p
        cosine        (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017, without restarts)
        constant      1
        inverse_sqrt  sqrt(w / step) (Vaswani et al. 2017); without warm-up
                      sqrt(10000 / (step + 10000))
        wsd           1, and in the last d steps (steps - step) / d (Zhai et al. 2022; Hu et al.
                      2024, whose decay is exponential)

    The formulas are the same as in the transformers library (wsd: with its linear decay): step 0 of
    a warm-up has the factor 0.
    """
    warmup = warmup_steps(optim, steps)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if optim.schedule == "linear":
        return 1 - progress
    if optim.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if optim.schedule == "inverse_sqrt":
        scale = warmup or 10_000
        return math.sqrt(scale / (step - warmup + scale))
    if optim.schedule == "wsd":
        return min(1.0, (steps - step) / decay_steps(optim, steps))
    return 1.0


def set_lr(
    optimizer: Optimizers, factor: float, of_tasks: Mapping[str, float] | None = None
) -> None:
    """Set the learning rate of every group to `factor` times its peak, and that of a task's groups
    to the task's factor times that."""
    rates = []
    for group in optimizer.param_groups:
        own = (of_tasks or {}).get(group.get("task"), 1.0)  # type: ignore[arg-type]
        rates.append(group["peak"] * factor * own)
    optimizer.set_rates(rates)


class Unfreezing:
    """Gradual unfreezing: the trained parameters are a pure function of the step. Parameters that
    the model's config freezes stay frozen."""

    def __init__(self, model: MultiTaskModel, every: int) -> None:
        self._every, self._depth = every, model.depth
        self._parameters = [
            (parameter, model.parameter_infos[name].depth)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]

    def remarks(self, steps: int) -> list[str]:
        """Return a warning about the layers that stay frozen to the end of a run of `steps` steps;
        empty when there are none."""
        reached = (steps - 1) // self._every
        if reached > self._depth:
            return []
        rest = (
            ""
            if reached == self._depth
            else f"{self._depth - reached} of {self._depth} layers and "
        )
        return [
            f"warning: optim.unfreeze_every={self._every}: {rest}the embeddings stay frozen in all "
            f"{steps} steps"
        ]

    def apply(self, step: int) -> None:
        """Set the trained parameters before step `step`, from 0: the heads, and one more layer from
        the top for every period that is over."""
        for parameter, depth in self._parameters:
            parameter.requires_grad = depth <= step // self._every
