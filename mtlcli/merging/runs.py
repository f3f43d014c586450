"""The runs that are merged: opened, verified, and compared before anything is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlcli.config import Config, Init, augmentations, samplings, sharings, weightings
from mtlcli.config.changes import FREE
from mtlcli.config.section import hints, replaced
from mtlcli.errors import Problem, UserError
from mtlcli.evaluation import best_checkpoint
from mtlcli.merging.base import State
from mtlcli.models.build import build_model
from mtlcli.models.files import BackboneFiles
from mtlcli.models.start import Start, below, fingerprint, head_prefix, plain_state
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.init import reopened
from mtlcli.seeds import folded
from mtlcli.tasks.base import TaskType

ONE_RUN = "train them with init.from=RUN, one run for all, or the same pretrained model and seed"
"""What a user can do so that runs begin with the same weights."""


@dataclass
class Opened:
    """A run that is merged, with the weights of its best checkpoint; or one backbone of a run that
    keeps several (`sharing=none`), with the tasks that use it."""

    found: best_checkpoint.Found
    """The checkpoint and its tensors."""
    config: Config
    """The resolved config of the run, with the tasks of this backbone alone."""
    files: BackboneFiles
    """Its architecture and tokenizer."""
    environment: dict[str, Any]
    """The content of its environment.json."""

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.found.run

    @property
    def start(self) -> Start:
        """Its weights by what they belong to."""
        return Start(self.config, self.found.tensors, str(self.path))

    @property
    def backbone(self) -> dict[str, Tensor]:
        """All tensors of its backbone."""
        return below(self.found.tensors, self.start.prefix() or "")

    @property
    def weights(self) -> State:
        """The tensors of its backbone that are merged."""
        return {
            name: tensor for name, tensor in self.backbone.items() if tensor.is_floating_point()
        }

    @property
    def initial(self) -> str | None:
        """The fingerprint of its initial weights; None where it was not recorded."""
        return self.environment.get("initial_weights")

    def heads(self) -> dict[str, Tensor]:
        """Return the tensors of its heads, by their names in the model."""
        owners = dict.fromkeys(task.head or name for name, task in self.config.tasks.items())
        return {
            head_prefix(owner) + name: tensor
            for owner in owners
            for name, tensor in below(self.found.tensors, head_prefix(owner)).items()
        }

    def record(self) -> dict[str, Any]:
        """Return what environment.json of the merged run says about this one."""
        return {
            **self.found.record(),
            "tasks": list(self.config.tasks),
            "initial_weights": self.initial,
        }

    def apart(self) -> Iterator[Opened]:
        """Yield the backbones of the run, each with the tasks that use it."""
        owners = list(self.start.backbones())
        if self.start.prefix() is not None or not owners:
            yield self
            return
        for owner in owners:
            tasks = {n: task for n, task in self.config.tasks.items() if (task.head or n) == owner}
            yield replace(self, config=replaced(self.config, {"tasks": tasks}))


def open_runs(paths: Sequence[Path]) -> tuple[list[Opened], list[str]]:
    """Open the runs, and return their backbones with lines about their checkpoints. Raises
    UserError with what keeps any of them from being merged."""
    runs: list[Opened] = []
    lines, problems = [], []
    for path in paths:
        try:
            found = best_checkpoint.find(path)
            lines += found.notices
            config = best_checkpoint.config_of(found, [], lines.append)
            files = BackboneFiles.load(found.run / "backbone")
            environment = RunFolder(found.run).environment()
        except UserError as error:
            problems += error.problems
            continue
        runs += Opened(found, config, files, environment).apart()
    problems += _unlike(runs)
    if problems:
        raise UserError(problems)
    return runs, lines


def _unlike(runs: list[Opened]) -> Iterator[Problem]:
    """Yield what keeps runs from being merged with the first one, or at all."""
    owner_of: dict[str, Opened] = {}
    for run in runs:
        at = str(run.path)
        if run.files.int8:
            what = "the matrices of the run's model are in 8 bits, and merging needs them in full"
            yield Problem(what, at, "merge the run that it was made of")
        if run.start.prefix() is None:
            yield Problem(
                f"sharing={run.config.sharing.name} has no backbone that is plain",
                at,
                "merge runs with sharing=hard or none",
            )
        for name in run.config.tasks:
            if name in owner_of:
                what = f"task {name} is in {owner_of[name].path}, too"
                yield Problem(what, at, "merge runs of different tasks")
            owner_of[name] = run
    for run in runs[1:]:
        first, at = runs[0], str(run.path)
        if why := _other_backbone(first, run):
            yield Problem(
                f"{why} than in {first.path}, so weights have no common meaning", at, ONE_RUN
            )
        keys = [
            f"data.{key}"
            for key in hints(type(run.config.data))
            if getattr(run.config.data, key) != getattr(first.config.data, key)
            and f"data.{key}" not in (*FREE, "data.max_length", "data.source")
        ]
        if run.config.data.source != first.config.data.source:
            keys.append("data.source")
        if run.config.text != first.config.text and "text" in (
            task.form for each in (run, first) for task in each.config.formed_tasks.values()
        ):
            keys.append("text")
        if keys:
            what = f"{', '.join(keys)} differ from those of {first.path}, and a run has one of each"
            yield Problem(what, at, "merge runs with the same data settings")


def _other_backbone(one: Opened, other: Opened) -> str | None:
    """Return what differs between the models of two runs; None where their weights have the same
    meaning."""
    if one.files.tokenizer != other.files.tokenizer:
        return "the run has another tokenizer"
    fields = [
        {key: value for key, value in each.files.architecture.items() if "drop" not in key}
        for each in (one, other)
    ]
    if fields[0] != fields[1]:
        return "the run has another architecture"
    if one.config.model.pooling != other.config.model.pooling:
        return "the run has another model.pooling"
    shapes = [
        {name: tensor.shape for name, tensor in each.backbone.items()} for each in (one, other)
    ]
    return "the run has other parameters" if shapes[0] != shapes[1] else None


def merged_config(runs: list[Opened], to: Path) -> Config:
    """Return the config of the merged run: the tasks of all runs, one backbone, and what the first
    run has for the rest."""
    first = runs[0].config
    tasks = {name: task for run in runs for name, task in run.config.tasks.items()}
    return replaced(
        first,
        {
            "tasks": tasks,
            "init": Init(heads=[]),
            "sharing": sharings.configs["hard"](),
            "weighting": weightings.configs["static"](),
            "sampling": samplings.configs["proportional"](),
            "augmentation": augmentations.configs["none"](),
            "optim.plateau": None,
            "runner.devices": 1,
            "runner.engine": "ddp",
            "runner.max_tokens": None,
            "run_dir": str(to),
        },
    )


def common_start(runs: list[Opened]) -> list[str]:
    """Return a warning where runs are not known to have begun with the same weights."""
    if len({run.initial for run in runs}) == 1 and runs[0].initial is not None:
        return []
    return [
        "warning: the runs are not known to have begun with the same weights; means of weights "
        f"from different beginnings are mostly poor: {ONE_RUN}"
    ]


def initial_weights(runs: list[Opened], tasks: dict[str, TaskType[Any]]) -> State:
    """Return the weights with which all runs have begun: built as a run has built them, and
    verified by the fingerprint that it has recorded then.

    Raises UserError when runs have begun with different weights, or these cannot be had any more.
    """
    marks = {run.initial for run in runs}
    if None in marks:
        (run, *_) = [each for each in runs if each.initial is None]
        what = "the run has not recorded the weights that it began with"
        raise UserError(what, str(run.path), "train it again, or type --method average")
    if len(marks) > 1:
        run = next(each for each in runs if each.initial != runs[0].initial)
        what = (
            f"the run has begun with other weights than {runs[0].path}, and this method merges "
            "what training has changed"
        )
        raise UserError(what, str(run.path), f"{ONE_RUN}; or type --method average")
    refusals: list[Problem] = []
    for run in runs:
        try:
            built = _rebuilt(run, {name: tasks[name] for name in run.config.tasks})
        except UserError as error:  # Another run may know another place of the same weights.
            refusals += error.problems
            continue
        if fingerprint(built) == run.initial:
            return {name: each for name, each in built.items() if each.is_floating_point()}
        what = "the weights that the run began with cannot be built again: the result differs"
        fix = "use the versions in its environment.json, or type --method average"
        refusals.append(Problem(what, str(run.path), fix))
    raise UserError(refusals)


def _rebuilt(run: Opened, tasks: dict[str, TaskType[Any]]) -> dict[str, Tensor]:
    """Return the backbone that a run began with, built by its seed as `runner/rank.py` does."""
    config = replaced(run.config, {"init.heads": []})
    start = reopened(config, RunFolder(run.path))
    torch.manual_seed(folded(config.seed))
    state = plain_state(build_model(config, tasks, run.files, start=start))
    assert state is not None, "the trunk of a run that is merged is plain"
    return {name: tensor.clone() for name, tensor in state.items()}
