"""The rule for numbers that are not finite: nothing is learned from them, no update is made with
them, and no checkpoint holds them.

A loss or gradient that is not finite raises NotFinite before the update, and the trainer may leave
the step out (`runner.skip_nonfinite`). A weight, or a number that an update has made, raises
RunError and ends the run, because no later step could mend it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mtlcli.errors import NotFinite, RunError
from mtlcli.models.shards import is_shard, whole
from mtlcli.training.task_batch import Batches, name_features
from mtlcli.training.trained_parameters import TrainedParameters
from mtlcli.weighting.base import Step, Weighting

FIX = (
    "lower optim.lr, set optim.clip, or look at these rows; runner.skip_nonfinite=N leaves out "
    "up to N such steps"
)
"""Advice for the user about a loss or gradient that is not finite."""


def require_finite_losses(step: Step, batches: Batches) -> None:
    """Raise NotFinite, which names the tasks, when a loss of the step is not finite."""
    bad = [
        f"the loss of {name} is {loss} ({name_features(batches[name])})"
        for name, loss in (step.losses or {}).items()
        if not math.isfinite(loss)
    ]
    if bad:
        raise NotFinite("; ".join(bad), where=f"step {step.number}", fix=FIX)


def require_finite_gram(step: Step, batches: Batches) -> None:
    """Raise NotFinite, which names the tasks, when gradients that were measured are not finite."""
    if step.gram is not None and not bool(step.gram.isfinite().all()):
        bad = [
            name
            for name, square in zip(batches, step.gram.diagonal().tolist(), strict=True)
            if not math.isfinite(square)
        ]
        what = [
            f"the shared gradient of {name} is not finite ({name_features(batches[name])})"
            for name in bad or batches
        ]
        raise NotFinite("; ".join(what), where=f"step {step.number}", fix=FIX)


def require_finite_weights(weights: Mapping[str, float], weighting: Weighting, step: Step) -> None:
    """Raise RunError when a weight is not finite."""
    for name, weight in weights.items():
        if not math.isfinite(weight):
            learned = weighting.named_parameters().items()
            because = [
                f", as {key} is {value.item():g}"
                for key, value in learned
                if key.endswith(f".{name}")
            ]
            raise RunError(
                f"the weight of {name} is {weight}{''.join(because)} "
                f"(weighting={weighting.config.name})",
                where=f"step {step.number}",
                fix="lower weighting.lr, or choose another weighting"
                if because
                else "choose another weighting",
            )


def finite_gradient_norm(
    parameters: TrainedParameters, weighting: Weighting, step: Step, batches: Batches
) -> Tensor:
    """Return the norm of the whole gradient (scalar), including the gradients of the weighting's
    own parameters. Raises NotFinite when the norm is not finite."""
    gradients = [
        each.grad for each in (*parameters.all, *weighting.parameters()) if each.grad is not None
    ]
    shards = [gradient for gradient in gradients if is_shard(gradient)]
    if shards:
        others = [gradient for gradient in gradients if not is_shard(gradient)]
        gradients = [whole(torch.nn.utils.get_total_norm(shards)), *others]
    # The norm is infinite also where fp32 cannot hold the squares, of which optimisers keep a mean.
    norm = torch.nn.utils.get_total_norm(gradients)
    if bool(norm.isfinite()):
        return norm
    bad, bad_learned = (
        [
            name
            for name, each in named.items()
            if each.grad is not None and not bool(whole(each.grad).isfinite().all())
        ]
        for named in (parameters.named, weighting.named_parameters())
    )
    names = [*bad, *bad_learned]
    because = f", as the gradient of {names[0]} is not finite" if names else ""
    raise _norm_error(f"{norm.item()}{because}", names, parameters, step, batches)


def norm_error(
    norm: float,
    norms: Mapping[str, float],
    parameters: TrainedParameters,
    step: Step,
    batches: Batches,
) -> NotFinite:
    """Return the error about a gradient whose norm is not finite, when only the norms of its parts
    are known: `norms`, by the parameters' names."""
    names = [name for name, each in norms.items() if not math.isfinite(each)]
    because = f", as that of {names[0]} is {norms[names[0]]}" if names else ""
    return _norm_error(f"{norm}{because}", names, parameters, step, batches)


def _norm_error(
    what: str, names: list[str], parameters: TrainedParameters, step: Step, batches: Batches
) -> NotFinite:
    """Return the error about the gradient of a step, where the gradients of the parameters `names`
    are not finite."""
    # A fault in the head of one task comes from this task's features, so the message names only
    # those.
    users = [parameters.users[name] for name in names if name in parameters.users]
    owners = {tasks[0] for tasks in users if len(tasks) == 1}
    where = "; ".join(
        f"{name}: {name_features(batch)}"
        for name, batch in batches.items()
        if not owners or name in owners
    )
    return NotFinite(f"the gradient norm is {what} ({where})", f"step {step.number}", FIX)


def require_finite(tensors: Mapping[str, Tensor], where: str, fix: str) -> None:
    """Raise RunError unless all tensors are finite. The error names the first bad tensor and the
    place `where` it was found."""
    for name, tensor in tensors.items():
        # A sum is many times faster than looking at each number, but the sum of large finite
        # numbers may be infinite.
        if not bool(whole(tensor.detach().sum()).isfinite()) and not bool(
            whole(tensor.detach()).isfinite().all()
        ):
            value = f"is {tensor.item()}" if tensor.ndim == 0 else "is not finite"
            raise RunError(f"{name} {value} after the update", where=where, fix=fix)
