"""Learning rates by progress: when a task's validation score stops rising, the parameters that
belong to this task alone (its head, its adapters) learn more slowly.

The factor of a task starts at 1. After `optim.plateau` evaluations in a row whose main score is not
more than `plateau_gain` above the best one, the factor is multiplied by `plateau_factor`, but never
falls below `plateau_floor`, and the count begins again. The rule is that of
torch.optim.lr_scheduler.ReduceLROnPlateau (mode max, an absolute threshold, no cooldown), for each
task by itself. Parameters that tasks share keep their learning rate. An evaluation counts for the
tasks that the present stage trains.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mtlcli.commands import setting
from mtlcli.config import Config
from mtlcli.config.optim import Optim
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.models.build import without_numbers
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.prepare.prepare import Prepared


def private_task(users: Collection[str], trained: Collection[str]) -> str | None:
    """Return the task that a parameter with these users belongs to among the trained tasks, or None
    if several of them use it. Tasks that are only evaluated do not count."""
    own = [name for name in users if name in trained]
    return own[0] if len(own) == 1 else None


def watched_tasks(optim: Optim, trained: Collection[str]) -> list[str]:
    """Return the tasks whose learning rates follow their progress."""
    if optim.plateau is None:
        return []
    return [name for name in trained if optim.plateau_tasks is None or name in optim.plateau_tasks]


def check_plateau(config: Config, prepared: Prepared) -> None:
    """Raise UserError when the learning rate of a task without parameters of its own shall follow
    its progress."""
    model = without_numbers(config, prepared.tasks, prepared.files)
    problems = list(plateau_problems(config.optim, model, list(prepared.train_features)))
    if problems:
        raise UserError(problems)


def plateau_problems(
    optim: Optim, model: MultiTaskModel, trained: Collection[str]
) -> Iterator[Problem]:
    """Yield a problem for each watched task that has no parameter of its own."""
    owners = {private_task(users, trained) for users in model.users().values()}
    fits = [name for name in watched_tasks(optim, trained) if name in owners]
    for name in watched_tasks(optim, trained):
        if name not in owners:
            yield Problem(
                f"{name} has no parameters of its own, whose learning rate could follow its "
                f"progress: it shares its head",
                "optim.plateau",
                f"type {setting('optim.plateau_tasks', fits)}" if fits else "leave it out",
            )


class Plateau:
    """The factors of the tasks' learning rates, kept in `state` (JSON values, part of the
    TrainState): for each task its best score, the evaluations since then and the factor."""

    def __init__(self, optim: Optim, trained: Collection[str], state: dict[str, Any]) -> None:
        self._optim, self._state = optim, state
        for name in watched_tasks(optim, trained):
            state.setdefault(name, {"best": None, "stale": 0, "factor": 1.0})

    def factors(self) -> dict[str, float]:
        """Return the factor of each watched task."""
        return {name: float(entry["factor"]) for name, entry in self._state.items()}

    def note_results(self, results: Mapping[str, Any], tasks: Collection[str]) -> list[str]:
        """Learn from an evaluation, given as in results.json. Return a line about each factor that
        changes. `tasks`: those that are being trained."""
        lines, patience = [], count_of(self._optim.plateau or 0, "evaluation")
        for name, entry in self._state.items():
            if name in tasks:
                factor = entry["factor"]
                self._note(entry, float(results["tasks"][name]["main"]))
                if entry["factor"] != factor:
                    lines.append(
                        f"{name} has not gained in {patience} (best score {entry['best']:.4g}): "
                        "the learning rate of its own parameters is now "
                        f"{entry['factor']:g} of the schedule's"
                    )
        return lines

    def _note(self, entry: dict[str, Any], score: float) -> None:
        optim = self._optim
        if entry["best"] is None or score > entry["best"] + optim.plateau_gain:
            entry["best"], entry["stale"] = score, 0
            return
        entry["stale"] += 1
        if optim.plateau is not None and entry["stale"] >= optim.plateau:
            entry["stale"] = 0
            entry["factor"] = max(optim.plateau_floor, entry["factor"] * optim.plateau_factor)
