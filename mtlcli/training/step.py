"""One training step: the backward passes of its tasks, and their combination over micro-batches,
tasks and ranks.

Every loss is normalised by the number of labelled items in the task's batch over all ranks and
micro-batches, so that gradients and losses are simply added up: N ranks with a share each, or one
rank with the whole batch, give the same update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from mtlcli.data.batches import Batch, InputFormat, collate, rectangles
from mtlcli.data.features import Features
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import NotFinite, RunError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.tasks.base import TaskType
from mtlcli.training.gradient_rows import DTYPES, GradientRows, Projection
from mtlcli.weighting.base import Step, Weighting, When
from mtlcli.weighting.gradients.base import GradientBalancing

FIX = (
    "lower optim.lr, set optim.clip, or look at these rows; runner.skip_nonfinite=N leaves out "
    "up to N such steps"
)
"""Advice for the user about a number that is not finite."""


MAX_NAMED_FEATURES = 32
"""The number of features of a batch that a message names."""

PASS_OVERHEAD_TOKENS = {"cpu": 32, "cuda": 2048}
"""The fixed cost of a pass through the trunk, in tokens that take about as long, by kind of device.
Measured on a CPU: 20 for 6 layers x 384, 120 for 2 layers x 64. On a GPU the cost is the launch of
the kernels."""

MAX_HIDDEN_NUMBERS = {"cpu": 1 << 17, "cuda": 1 << 23}
"""Bound on the numbers in the hidden states of a mixed batch, padded tokens times width, by kind of
device; where the micro-batch of one task is larger, that size is the bound. On a CPU, hidden states
that do not fit into its caches take longer: with 6 layers x 384, a token among 1,700 takes 7%
longer than a token among 400."""


@dataclass
class TaskBatch:
    """The batch of one task in a step."""

    micro: list[Batch]
    """This rank's share, cut into micro-batches, in host memory; empty when this rank has no
    example, because the batch has fewer examples than there are ranks."""
    examples: int
    """The number of features over all ranks."""
    tokens: int
    """The number of tokens over all ranks, without padding."""
    own: int
    """The number of tokens in this rank's share, without padding."""
    rows: NDArray[np.int64]
    """The indices of the features over all ranks, for messages."""


def name_features(batch: TaskBatch) -> str:
    """Return a text that names the features of a batch."""
    shown = ", ".join(str(row) for row in sorted(batch.rows.tolist())[:MAX_NAMED_FEATURES])
    return f"train features {shown}" + (
        f" and {len(batch.rows) - MAX_NAMED_FEATURES} more"
        if len(batch.rows) > MAX_NAMED_FEATURES
        else ""
    )


def build_task_batch(
    task: TaskType[Any],
    features: Features,
    indices: NDArray[np.int64],
    *,
    input_format: InputFormat,
    accumulation: int,
    ranks: Ranks,
    max_tokens: int | None = None,
) -> TaskBatch:
    """Build the batch of a task from its features `indices`: this rank's share, cut into
    micro-batches, and the counts over all ranks. `max_tokens`: see `collate`."""
    items = task.items(features, indices)
    mine = indices[ranks.rank :: ranks.world_size]
    parts = [part for part in np.array_split(mine, accumulation) if len(part)]
    micro = [
        collate(
            features,
            part,
            input_format=input_format,
            denominator=items,
            examples=len(indices),
            max_tokens=max_tokens,
        )
        for part in parts
    ]
    return TaskBatch(
        micro=micro,
        examples=len(indices),
        tokens=_tokens(features, indices),
        own=_tokens(features, mine),
        rows=indices,
    )


def _tokens(features: Features, indices: NDArray[np.int64]) -> int:
    return int((features.offsets[indices + 1] - features.offsets[indices]).sum())


class TaskMicroBatch(NamedTuple):
    """A micro-batch, or a part of one, with the name of its task."""

    task: str
    batch: Batch


Pass = list[TaskMicroBatch]
"""What goes through the trunk at once: one micro-batch of one task, or a mixed batch, which has one
part for each of several tasks."""


@dataclass
class Outcome:
    """The result of a step's backward passes; the gradients lie in `.grad`."""

    losses: dict[str, float]
    """The mean loss of each task over all ranks and micro-batches."""
    weights: dict[str, float]
    """The factor of each task's loss, or of its shared gradient, in the update."""
    gram: Tensor | None
    """(K, K) float64: inner products of the gradients of the plain losses; None when they were not
    measured."""
    norm: Tensor
    """The norm of the whole gradient (scalar), including the gradients of the weighting's own
    parameters. The norm is finite."""
    padded: int
    """The number of tokens that went through the trunk on this rank, with padding."""


class Backward:
    """The backward passes of a step. One object serves a stage of the run, because the shared
    parameters depend on the tasks that the stage trains.

    K tasks need K backward passes, unless mixed batches combine them. Each pass ends before the
    next begins, so one set of activations is in memory at a time. Where weights are known before
    the step, autograd adds the gradients up; otherwise shared gradients are kept as gradient rows
    until the weights are known. Gradients of parameters that belong to one task go straight into
    `.grad`.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        weighting: Weighting,
        ranks: Ranks,
        *,
        bf16: bool,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
        together: bool = True,
        max_tokens: int | None = None,
        input_format: InputFormat | None = None,
    ) -> None:
        """Find the shared and private parameters of the tasks.

        `tasks`: the tasks that are trained; None: all tasks that the weighting knows. `together`:
        whether tasks go through the trunk in mixed batches where the trunk and the weighting allow.
        `max_tokens`: bound on the padded tokens of a mixed batch on this rank, if lower than the
        bound that suits the device. `input_format`: how mixed batches are padded; None: to the
        longest example of the batch.
        """
        self.model, self.weighting, self.ranks, self.bf16 = model, weighting, ranks, bf16
        # A method that needs each task's gradient cannot use mixed batches, whose backward pass
        # adds the tasks' gradients up.
        self._together = (
            together
            and model.trunk.joint
            and not isinstance(weighting, GradientBalancing)
            and not weighting.measures_gradients
        )
        suits = MAX_HIDDEN_NUMBERS[ranks.device.type] // model.hidden
        self._input_format = input_format or InputFormat(pad_id=0, uses_segments=False)
        self._most = suits if max_tokens is None else min(max_tokens, suits)
        self._touched: dict[Parameter, Tensor] = {}
        # Keep these dense gradients between steps: on a CPU, new memory at every step would take
        # four times as long as setting the old to zero.
        self._dense: dict[Parameter, Tensor] = {}
        named = dict(model.named_parameters())
        trained = list(weighting.tasks) if tasks is None else tasks
        # A parameter is shared only if several trained tasks use it: tasks that are only evaluated,
        # or not trained in this stage, do not count.
        users = {
            name: [task for task in all_users if task in trained]
            for name, all_users in model.users().items()
        }
        shared = [name for name in named if len(users[name]) > 1]
        self.parameters = list(named.values())
        self._users = users
        self.shared = [named[name] for name in shared]
        self.private: dict[str, list[Parameter]] = {name: [] for name in trained}
        for name, parameter in named.items():
            if len(users[name]) == 1:
                self.private[users[name][0]].append(parameter)
        self._balances = isinstance(weighting, GradientBalancing)
        config = weighting.config
        self._dtype = DTYPES[config.rows] if self._balances else torch.float32
        self._last_layers = None
        self._projection = None
        if self._balances and config.last_layers is not None:
            self._last_layers = model.last_layers(shared, config.last_layers)
        if self._balances and config.projection is not None:
            self._projection = Projection(config.projection, seed)

    def __call__(
        self, batches: dict[str, TaskBatch], step: Step, *, probe: bool = False
    ) -> Outcome:
        """Fill `.grad` of the model's and the weighting's parameters. `probe`: measure the inner
        products of the gradients in any case, which does not change the update."""
        weighting = self.weighting
        known = weighting.known(step)
        measured = probe or weighting.measures_gradients or known == "gradients"
        weights = self._usable(weighting.weights(step), step) if known == "before" else {}
        importance = {name: weighting.tasks[name].weight for name in batches}
        # The factor of each loss before its backward pass. Gradient balancing weights the shared
        # gradients only, so private parameters get the gradient of their own loss times its
        # importance.
        scales = importance if self._balances else weights or dict.fromkeys(batches, 1.0)
        # Losses whose weights are not known yet must be kept apart as well.
        together = self._together and bool(weights) and len(batches) > 1
        rows = (
            GradientRows(self.shared, self.ranks, self._dtype)
            if not together and (measured or self._balances or not weights)
            else None
        )
        if together and probe:
            step.gram = self._probed(batches)

        passes_by_task = self._plan_passes(batches, together=together)
        with self.model.training_passes():
            losses = self._run_passes(batches, passes_by_task, scales, rows)
        step.losses = dict(zip(batches, losses.tolist(), strict=True))
        bad = [
            f"the loss of {name} is {loss} ({name_features(batches[name])})"
            for name, loss in step.losses.items()
            if not math.isfinite(loss)
        ]
        if bad:
            raise NotFinite("; ".join(bad), where=f"step {step.number}", fix=FIX)
        self._require_finite(step.gram, batches, step)
        reduced = False
        if rows is not None:
            rows.agree_on_columns()
            if measured or known == "rows":
                factors = torch.tensor([scales[name] for name in batches], dtype=torch.float64)
                step.gram = _divided(self._gram(rows, exact=known != "gradients"), factors)
                self._require_finite(step.gram, batches, step)
            if not weights:
                weights = self._usable(self.ranks.broadcast_json(weighting.weights(step)), step)
            reduced = self._combine(rows, known, weights, step)
            if known == "losses":
                for name in batches:
                    for parameter in self.private[name]:
                        if parameter.grad is not None:
                            parameter.grad *= weights[name]
        done = set(self.shared) if reduced else set()
        self.ranks.reduce_gradients(
            [parameter for parameter in self.parameters if parameter not in done], self._touched
        )
        weights = self._shortened(weights, known)
        penalty = self.model.penalty()
        # Skip a penalty all of whose parameters are frozen.
        if penalty is not None and penalty.requires_grad:
            # The penalty depends on the parameters alone, so it has the same gradient on every rank
            # and needs no reduction.
            penalty.backward()
        if weighting.parameters():
            # Every rank has the same losses, so this gradient is the same on every rank and needs
            # no reduction.
            weighting.objective(
                {name: loss.cpu() for name, loss in zip(batches, losses, strict=True)}
            ).backward()
        norm = self._norm(batches, step)
        weighting.observe(step)
        used = {
            name: weights[name] * (importance[name] if self._balances else 1.0) for name in batches
        }
        padded = sum(
            part.batch.input_ids.numel()
            for passes in passes_by_task
            for one_pass in passes
            for part in one_pass
        )
        return Outcome(step.losses, used, step.gram, norm, padded)

    def _usable(self, weights: dict[str, float], step: Step) -> dict[str, float]:
        """Return the weights unchanged. Raises RunError when one of them is not finite, because no
        later step could mend that."""
        for name, weight in weights.items():
            if not math.isfinite(weight):
                learned = self.weighting.named_parameters().items()
                because = [
                    f", as {key} is {value.item():g}"
                    for key, value in learned
                    if key.endswith(f".{name}")
                ]
                raise RunError(
                    f"the weight of {name} is {weight}{''.join(because)} "
                    f"(weighting={self.weighting.config.name})",
                    where=f"step {step.number}",
                    fix="lower weighting.lr, or choose another weighting"
                    if because
                    else "choose another weighting",
                )
        return weights

    def _require_finite(
        self, gram: Tensor | None, batches: dict[str, TaskBatch], step: Step
    ) -> None:
        """Raise NotFinite, which names the tasks, when gradients that were measured are not
        finite."""
        if gram is not None and not bool(gram.isfinite().all()):
            bad = [
                name
                for name, square in zip(batches, gram.diagonal().tolist(), strict=True)
                if not math.isfinite(square)
            ]
            what = [
                f"the shared gradient of {name} is not finite ({name_features(batches[name])})"
                for name in bad or batches
            ]
            raise NotFinite("; ".join(what), where=f"step {step.number}", fix=FIX)

    def _shortened(self, weights: dict[str, float], known: When) -> dict[str, float]:
        """Scale the shared gradients down to the length that gradient balancing promises, if its
        weights could not ensure that length, and return the weights scaled by the same factor."""
        limit = (
            self.weighting.left_to_shorten(known)
            if isinstance(self.weighting, GradientBalancing)
            else None
        )
        gradients = [parameter.grad for parameter in self.shared if parameter.grad is not None]
        if limit is None or not gradients:
            return weights
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not norm > limit:  # The check of the whole gradient reports a NaN.
            return weights
        torch._foreach_mul_(gradients, limit / norm)
        return {name: weight * (limit / norm) for name, weight in weights.items()}

    def _norm(self, batches: dict[str, TaskBatch], step: Step) -> Tensor:
        """Return the norm of the whole gradient (scalar), including the gradients of the
        weighting's parameters. Raises NotFinite when the norm is not finite."""
        gradients = [
            each.grad
            for each in (*self.parameters, *self.weighting.parameters())
            if each.grad is not None
        ]
        # The norm is infinite also where fp32 cannot hold the squares, of which optimisers keep a
        # mean.
        norm = torch.nn.utils.get_total_norm(gradients)
        if bool(norm.isfinite()):
            return norm
        named = self.model.named_parameters()
        bad = {
            name: each
            for name, each in named
            if each.grad is not None and not bool(each.grad.isfinite().all())
        }
        learned = self.weighting.named_parameters()
        bad_learned = [
            name
            for name, each in learned.items()
            if each.grad is not None and not bool(each.grad.isfinite().all())
        ]
        names = [*bad, *bad_learned]
        what = f"the gradient norm is {norm.item()}" + (
            f", as the gradient of {names[0]} is not finite" if names else ""
        )
        # A fault in the head of one task comes from this task's features, so the message names only
        # those.
        owners = {self._users[name][0] for name in bad if len(self._users[name]) == 1}
        where = "; ".join(
            f"{name}: {name_features(batch)}"
            for name, batch in batches.items()
            if not owners or name in owners
        )
        raise NotFinite(f"{what} ({where})", where=f"step {step.number}", fix=FIX)

    def losses_again(self, batches: dict[str, TaskBatch]) -> dict[str, float]:
        """Return the mean losses of the same batches with the present parameters. Dropout is drawn
        as in the backward passes."""
        with torch.no_grad():
            return dict(
                zip(
                    batches,
                    self._run_passes(batches, self._plan_passes(batches), {}, None).tolist(),
                    strict=True,
                )
            )

    def shared_gradient(self, task: str, batch: TaskBatch) -> list[Tensor]:
        """Return the gradient of one task's mean loss with respect to each shared parameter, over
        all ranks. `.grad` is empty afterwards."""
        for parameter in self.parameters:
            parameter.grad = None
        self._run_passes({task: batch}, self._plan_passes({task: batch}), {}, None)
        gradient = []
        for parameter in self.shared:
            part = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            gradient.append(self.ranks.all_reduce(part))
        for parameter in self.parameters:
            parameter.grad = None
        return gradient

    def _run_passes(
        self,
        batches: dict[str, TaskBatch],
        passes_by_task: list[list[Pass]],
        scales: dict[str, float],
        rows: GradientRows | None,
    ) -> Tensor:
        """Run the passes one after the other: forward and, where gradients are recorded, backward.
        Return the mean losses (K,). `passes_by_task`: see `_plan_passes`; every inner list makes
        one gradient row in `rows`. `scales`: factors of the losses; a missing task has factor 1.

        The sparse gradients of word embeddings are added up task by task, in the same order as
        gradient rows would be.
        """
        losses = torch.zeros(len(batches), device=self.ranks.device)
        dense: dict[Parameter, Tensor] = {}
        touched: dict[Parameter, list[Tensor]] = {}
        places = {name: index for index, name in enumerate(batches)}
        for passes in passes_by_task:
            for one_pass in passes:
                parts = [(name, batch.to(self.ranks.device)) for name, batch in one_pass]
                with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16):
                    outputs = (
                        [self.model(*parts[0])] if len(parts) == 1 else self.model.together(parts)
                    )
                    total = torch.stack(
                        [
                            scales.get(name, 1.0) * output.loss
                            for (name, _), output in zip(parts, outputs, strict=True)
                        ]
                    ).sum()
                if total.requires_grad:
                    total.backward()
                for (name, _), output in zip(parts, outputs, strict=True):
                    losses[places[name]] += output.loss.detach()
            if rows is not None:
                rows.append_from_grad()
            for parameter in self.parameters:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    sparse = parameter.grad.coalesce()
                    if parameter not in dense:
                        if parameter not in self._dense:
                            self._dense[parameter] = torch.empty_like(
                                parameter, requires_grad=False
                            )
                        dense[parameter] = self._dense[parameter].zero_()
                    dense[parameter].index_add_(0, sparse.indices()[0], sparse.values())
                    touched.setdefault(parameter, []).append(sparse.indices()[0])
                    parameter.grad = None
        for parameter, gradient in dense.items():
            parameter.grad = gradient
        self._touched = {parameter: torch.cat(ids) for parameter, ids in touched.items()}
        return self.ranks.all_reduce(losses)

    def _plan_passes(
        self, batches: dict[str, TaskBatch], *, together: bool = False
    ) -> list[list[Pass]]:
        """Return a list of passes for each task, with one pass for each micro-batch; or, if
        `together`, one list of passes for all tasks, with mixed batches that are cut anew by
        length."""
        if not together:
            return [
                [[TaskMicroBatch(name, micro)] for micro in batch.micro]
                for name, batch in batches.items()
            ]
        micros = [(name, micro) for name, batch in batches.items() for micro in batch.micro]
        if not micros:
            return []
        most = max(self._most, *(micro.input_ids.numel() for _, micro in micros))
        widest = max(micro.input_ids.shape[1] for _, micro in micros)
        lengths = self._input_format.rounded(
            np.concatenate([micro.lengths for _, micro in micros]), widest
        )
        ends = np.cumsum([len(micro) for _, micro in micros])
        passes: list[Pass] = []
        for places in rectangles(
            lengths, overhead=PASS_OVERHEAD_TOKENS[self.ranks.device.type], most=most
        ):
            owners = np.searchsorted(ends, places, side="right")
            one_pass: Pass = []
            for owner in np.unique(owners):
                name, micro = micros[owner]
                rows = places[owners == owner] - (ends[owner] - len(micro))
                picked = micro.pick(np.sort(rows), int(lengths[places].max()))
                one_pass.append(TaskMicroBatch(name, picked))
            passes.append(one_pass)
        return [passes]

    def _probed(self, batches: dict[str, TaskBatch]) -> Tensor:
        """Return the inner products of the plain losses' shared gradients: (K, K) float64. They
        come from separate passes, which leave `.grad` empty and the random state as it was."""
        rows = GradientRows(self.shared, self.ranks, self._dtype)
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self._run_passes(batches, self._plan_passes(batches), {}, rows)
        for parameter in self.parameters:
            parameter.grad = None
        rows.agree_on_columns()
        return rows.gram()

    def _gram(self, rows: GradientRows, *, exact: bool) -> Tensor:
        if not exact and self._last_layers is not None:
            return rows.gram_of_some(self._last_layers)
        if not exact and self._projection is not None:
            return rows.gram_of_projection(self._projection)
        return rows.gram()

    def _combine(
        self, rows: GradientRows, known: When, weights: dict[str, float], step: Step
    ) -> bool:
        """Combine the gradient rows into the shared parameters' `.grad`; return whether the result
        is already summed over ranks."""
        if isinstance(self.weighting, GradientBalancing) and known == "rows":
            method = self.weighting
            rows.apply(lambda vectors, start, total: method.combine(step, vectors, start, total))
            return True
        # Weights that come from the exact Gram matrix were measured on rows that `gram` has summed
        # over ranks; in all other cases combine this rank's rows.
        reduced = (
            self._balances
            and known == "gradients"
            and self._last_layers is None
            and self._projection is None
        )
        # For a loss weighting whose weights were known before the step, the rows are weighted
        # already.
        ones = not self._balances and known == "before"
        rows.combine([1.0 if ones else weights[name] for name in step.tasks], reduced=reduced)
        return reduced


def _divided(gram: Tensor, factors: Tensor) -> Tensor:
    """Return the Gram matrix of the gradient rows without their factors. A row whose factor is 0 is
    unknown and counts as 0."""
    inverse = torch.where(factors == 0, 0.0, 1 / factors)
    return gram * inverse[:, None] * inverse
