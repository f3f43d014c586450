"""Elastic weight consolidation: parameters that earlier tasks depend on stay near their values.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", equation 3. With
theta* the weights that the run begins with, the loss of a step gets

    strength / 2  sum_i F_i (theta_i - theta*_i)^2
    F_i = sum over earlier tasks of the mean over rows of (d L(row) / d theta_i)^2

where L(row) is the loss of a row with its label (the empirical Fisher information), at theta* and
without dropout. i counts the parameters that the new task shares with an earlier one.

Differences from the paper:
- There, each earlier task has a penalty around the weights that it has ended with. Here all have
  one, around the weights that the run begins with, where their information is computed anew: the
  penalties of several tasks together would pull to older weights than those (Huszar 2018, "Note on
  the quadratic penalties in elastic weight consolidation"). This needs the rows of earlier tasks.
- Labels are those of the rows, not drawn from the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.augmentation.base import Earlier, Keeper
from mtlcli.config.augmentation import Keeping, augmentations
from mtlcli.config.section import section

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mtlcli.models.multitask import MultiTaskModel


@augmentations.register("ewc", "EWC")
@section
class EWCAugmentation(Keeping):
    """Parameters that earlier tasks depend on are held near the values that the run begins with
    (Kirkpatrick et al. 2017, EWC).

    When it helps: a new task is learned from a run that has learned others, which must not be
    forgotten, and their rows shall not be trained on again.

    Cost: a backward pass for each of `rows` before the first step, then a sum over parameters in
    each step, and twice the memory of the parameters.
    """

    name: Literal["ewc"] = "ewc"
    """Augmentation."""
    strength: Annotated[float, Gt(0), Le(1e12)] = 1000.0
    """Factor of the penalty; the paper's lambda. Squared gradients are small, so it is large."""
    rows: Annotated[int, Gt(0), Le(1_000_000)] = 256
    """Most train rows of each earlier task from which the information is computed."""


class EWC(Keeper):
    """A penalty on the way from the weights that the run begins with."""

    _held: dict[str, tuple[Tensor, Tensor]]
    """Name of a parameter -> its value at the beginning, and its information."""

    def look(self, model: MultiTaskModel, earlier: Earlier) -> dict[str, Tensor]:
        from mtlcli.models.information import mean_squared_gradients

        named = dict(model.named_parameters())
        users = model.users()
        held = {
            name: parameter
            for name, parameter in named.items()
            if parameter.requires_grad
            and earlier.new in users[name]
            and set(users[name]) & set(earlier.names)
        }

        def losses(task: str) -> Iterator[Tensor]:
            for batch in earlier.rows(task, self.config.rows):
                yield model(task, batch).loss

        # Copies, because the parameters are about to change.
        kept = {f"value.{name}": each.detach().cpu().clone() for name, each in held.items()}
        for task in earlier.names:
            for name, found in mean_squared_gradients(held, losses(task)).items():
                key = f"information.{name}"
                kept[key] = found.cpu() + kept.get(key, 0)
        return kept

    def keep(self, kept: dict[str, Tensor], earlier: Earlier, device: torch.device) -> None:
        names = [key.removeprefix("value.") for key in kept if key.startswith("value.")]
        self._held = {
            name: (kept[f"value.{name}"].to(device), kept[f"information.{name}"].to(device))
            for name in names
        }

    def penalty(self, model: MultiTaskModel) -> Tensor | None:
        named = dict(model.named_parameters())
        parts = [
            (information * (named[name] - value).square()).sum()
            for name, (value, information) in self._held.items()
        ]
        return self.config.strength / 2 * sum(parts[1:], parts[0])
