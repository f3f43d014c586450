"""Checks of what weighting, sampling and learning rates need from the rest of the run."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from mtlcli.config import Config
from mtlcli.config.weighting import Needs
from mtlcli.errors import Problem
from mtlcli.registry import suggest


def method_problems(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check the methods of a run. `trained`: the tasks that it trains."""
    yield from _weighting(config, trained)
    yield from _measurements(config, trained)
    yield from _sampling(config, trained)
    yield from _plateau(config, trained)


def _weighting(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check what the weighting needs from the rest of the run."""
    weighting, sampling = config.weighting, config.sampling
    needs: Needs = weighting.needs
    at = f"weighting={weighting.name}"
    if needs.several_tasks and len(trained) < 2:
        yield Problem(
            f"{at} compares tasks, but the run trains only one",
            "weighting",
            "type weighting=static, or train several tasks",
        )
    elif needs.several_tasks and not sampling.all_tasks:
        yield Problem(
            f"{at} compares the tasks of a step, and sampling={sampling.name} puts one task into "
            "each",
            "sampling",
            "type sampling=all",
        )
    if needs.shared_parameters and not config.sharing.shares:
        yield Problem(
            f"{at} compares the gradients of shared parameters, and sharing={config.sharing.name} "
            "has none",
            "sharing",
            f"{_sharing(config)}, or weighting=static",
        )
    if needs.shared_parameters and config.optim.unfreeze_every is not None:
        yield Problem(
            f"{at} compares the gradients of shared parameters, and gradual unfreezing begins "
            "without any",
            "optim.unfreeze_every",
            "leave it out, or choose another weighting",
        )
    if needs.validation:
        for name in trained:
            if not config.tasks[name].splits.validation:
                yield Problem(
                    f"{at} learns from validation losses, and the task has no split to validate on",
                    f"tasks.{name}.splits.validation",
                    "name one, or choose another weighting",
                )
    if needs.unit_importance:
        for name in trained:
            if config.tasks[name].weight not in (0, 1):
                yield Problem(
                    f"the value has no effect: {at} does not change when a task's loss is "
                    "multiplied by a number",
                    f"tasks.{name}.weight",
                    "leave it out, choose another weighting, or type 0, which leaves the task out "
                    "of the balance",
                )
    missing = [package for package in needs.packages if find_spec(package) is None]
    if missing:
        yield Problem(
            f"{at} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed",
            "weighting",
            f"type pip install 'mtlcli[{needs.extra}]'",
        )
    yield from weighting.problems(trained)


def _measurements(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check that there is something to measure between tasks."""
    logger = config.logger
    if logger.probe is not None and not (
        config.sampling.all_tasks and config.sharing.shares and len(trained) > 1
    ):
        yield Problem(
            "the probe compares the gradients that the tasks of a step leave in shared parameters, "
            "and this run has none to compare",
            "logger.probe",
            "leave it out, or type sampling=all and a sharing other than none, with several tasks",
        )
    if logger.affinity is not None and not (config.sharing.shares and len(trained) > 1):
        yield Problem(
            "affinity is what a step on one task does to others through shared parameters, and "
            "this run has none",
            "logger.affinity",
            "leave it out, or share parameters between several tasks",
        )


def _sharing(config: Config) -> str:
    """Return what to type so that tasks have parameters in common."""
    ways = [f"give {way}"] if (way := config.sharing.to_share) else []
    return ", or ".join([*ways, "type sharing=hard"])


def _sampling(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check what the sampling needs from the rest of the run."""
    sampling = config.sampling
    yield from sampling.problems(trained)
    learns = sampling.needs_scores or sampling.needs_gradients
    stages = config.sharing.stages_of({name: config.tasks[name].head or name for name in trained})
    if learns and trained and all(len(stage) < 2 for stage in stages):
        yield Problem(
            f"sampling={sampling.name} learns which task to draw, and the run trains only one"
            + (" in each stage" if len(stages) > 1 else ""),
            "sampling",
            "put several tasks into a stage (sharing.stages), or type sampling=proportional"
            if len(stages) > 1
            else "type sampling=proportional, or train several tasks",
        )
    if sampling.needs_scores:
        for name in trained:
            if not config.tasks[name].splits.validation:
                yield Problem(
                    f"sampling={sampling.name} learns from validation scores, and the task has no "
                    "split to validate on",
                    f"tasks.{name}.splits.validation",
                    "name one, or choose another sampling",
                )

    if sampling.needs_gradients and not config.sharing.shares:
        yield Problem(
            f"sampling={sampling.name} learns from the gradients of shared parameters, and "
            f"sharing={config.sharing.name} has none",
            "sharing",
            f"{_sharing(config)}, or choose another sampling",
        )


def _plateau(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check the tasks whose learning rates shall follow their progress."""
    optim = config.optim
    if optim.plateau is None:
        return
    for name in optim.plateau_tasks or []:
        if name not in trained:
            yield Problem(
                f"the run does not train a task '{name}'",
                "optim.plateau_tasks",
                suggest(name, trained),
            )
    for name in trained:
        watched = optim.plateau_tasks is None or name in optim.plateau_tasks
        if watched and not config.tasks[name].splits.validation:
            yield Problem(
                f"{name} has no split to validate on, and optim.plateau follows validation scores",
                "optim.plateau_tasks",
                "name the other tasks, or leave optim.plateau out",
            )
