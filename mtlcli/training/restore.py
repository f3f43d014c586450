"""Restoring a checkpoint: its content is put back into the parts of a run, once all of it is known
to fit.

A manifest that verifies only proves that the files are as they were written, not who wrote them, so
the content is checked as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from mtlcli.errors import UserError
from mtlcli.models.build import OTHER_CHECKPOINT, restore_weights
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.rundir.checkpoint import Checkpoint
from mtlcli.training.optimizers import Optimizers
from mtlcli.training.stages import Stages
from mtlcli.training.state import TrainState
from mtlcli.weighting.base import Weighting

WEIGHTING_TENSORS = "kept by the weighting/"
"""The beginning of the names of the weighting's tensors in optimizer.safetensors."""


def restore(
    found: Checkpoint,
    *,
    model: MultiTaskModel,
    optimizer: Optimizers,
    names: Mapping[Any, str],
    weighting: Weighting,
    tasks: Collection[str],
    steps: int,
    stages: Stages,
) -> TrainState:
    """Restore a run of `steps` steps, which trains `tasks`, from a checkpoint.

    `names`: the names of the optimiser's parameters. Raises UserError when the checkpoint belongs
    to another run.
    """
    restore_weights(model, found.tensors("model.safetensors"), found.folder)
    file = "state.json"
    try:
        state = TrainState.from_json(found.state)
        _check(state, tasks, steps, len(stages))
        stages.load_state_dict(state.stage, state.sampling)
        weighting.load_state_dict(state.weighting)
        file = "optimizer.safetensors"
        tensors = found.tensors(file)
        kept = {name for name in tensors if name.startswith(WEIGHTING_TENSORS)}
        _restore_kept(weighting, model, {name: tensors.pop(name) for name in sorted(kept)})
        optimizer.load(names, tensors)
    # Methods raise different exceptions for a state that is not theirs.
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{file} does not fit the run: {reason}", where=str(found.folder), fix=OTHER_CHECKPOINT
        ) from error
    return state


def _restore_kept(weighting: Weighting, model: MultiTaskModel, saved: dict[str, Tensor]) -> None:
    """Give the weighting the tensors that it has kept for the model's parameters, on the device of
    each. Raises ValueError when they do not fit."""
    parameters = dict(model.named_parameters())
    kept = {}
    for key, tensor in saved.items():
        name = key.removeprefix(WEIGHTING_TENSORS)
        parameter = parameters.get(name.split("/", 2)[-1])
        if parameter is None or tensor.shape != (parameter.numel(),):
            raise ValueError(f"it has '{key}', which fits no parameter of the model")
        kept[name] = tensor.to(parameter.device)
    weighting.load_tensors(kept)


def _check(state: TrainState, tasks: Collection[str], steps: int, stages: int) -> None:
    """Raise ValueError when counters contradict each other or the run, because training would then
    never end."""
    if state.step > steps:
        raise ValueError(f"it is of step {state.step}, and the run ends at step {steps}")
    if state.stage.number >= stages or state.stage.begin > state.step:
        raise ValueError(
            f"it is in stage {state.stage.number} since step {state.stage.begin}, the run has "
            f"{stages}"
        )
    if state.positions.keys() != set(tasks):
        raise ValueError(
            f"positions are of {', '.join(state.positions) or 'no task'}, the run trains "
            f"{', '.join(tasks)}"
        )
    for name, position in state.positions.items():
        if position > state.step:
            raise ValueError(f"positions.{name} is {position}, beyond the step {state.step}")
    if not state.window.tasks.keys() <= set(tasks):
        raise ValueError(
            f"window.tasks are {', '.join(state.window.tasks)}, the run trains {', '.join(tasks)}"
        )
    if state.best_step is not None and not {"tasks", "average"} <= state.best.keys():
        raise ValueError("best does not hold the results of the best step")
