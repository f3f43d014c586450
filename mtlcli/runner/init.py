"""The beginning of a run with the weights of another run (`init.from`).

The other run is opened, verified and compared before anything is made. The new run does not need it
any more once it has begun.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli.config import Config
from mtlcli.config.init import other_model, with_model_of
from mtlcli.config.own_code import import_for_run, imported_folder
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
from mtlcli.disk import sha256
from mtlcli.errors import UserError
from mtlcli.evaluation import best_checkpoint
from mtlcli.models.files import BackboneFiles
from mtlcli.prepare.prepare import Prepared
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder

if TYPE_CHECKING:
    from mtlcli.models.start import Start


@dataclass
class Source:
    """A checkpoint of another run, which has verified, with its weights in memory."""

    found: best_checkpoint.Found
    """The checkpoint and its tensors."""
    config: Config
    """The resolved config of its run."""
    files: BackboneFiles
    """The architecture and tokenizer of its run."""
    lines: list[str]
    """Lines for the user about it."""

    @property
    def start(self) -> Start:
        """The weights, for the model."""
        from mtlcli.models.start import Start

        return Start(self.config, self.found.tensors, str(self.found.checkpoint.folder))

    def record(self) -> dict[str, Any]:
        """Return what environment.json says about the weights that a run has begun with."""
        folder = self.found.checkpoint.folder
        return {
            "run": str(self.found.run.absolute()),
            "checkpoint": folder.name,
            "manifest": sha256(folder / "manifest.json"),
        }


def open_source(config: Config) -> Source | None:
    """Open the run of `init.from`; None where a run has none. Raises UserError when it cannot be
    used."""
    if config.init.from_ is None:
        return None
    path = Path(config.init.from_)
    try:
        run = checkpoint.run_of(path)
        own = imported_folder()
        lines = import_for_run(run, RunFolder(run).methods(), own, "mtl train init.from=...")
        found = best_checkpoint.find(path)
        lines += found.notices
        theirs = best_checkpoint.config_of(found, [], lines.append)
        files = BackboneFiles.load(run / "backbone")
    except UserError as error:
        at = "init.from"
        raise UserError(
            [
                replace(each, where=f"{at}, {each.where}" if each.where else at)
                for each in error.problems
            ]
        ) from error
    return Source(found, theirs, files.with_dropout(config.model.dropout), lines)


def begun_with(config: Config, source: Source) -> Config:
    """Return the config of a run with the model of its source. Raises UserError when the run asks
    for another model."""
    if problems := list(other_model(config, source.config)):
        raise UserError(problems)
    return with_model_of(config, source.config)


def settle_heads(config: Config, source: Source, prepared: Prepared) -> tuple[Config, list[str]]:
    """Return the config with the heads that are taken in `init.heads`, and lines about what is
    taken and what begins as new. Raises UserError when the weights do not fit the run."""
    from mtlcli.models.build import without_numbers

    start = source.start
    model = without_numbers(config, prepared.tasks, prepared.files, start)
    unfit = {name: start.unfit(model, name) for name in model.heads}
    heads = config.init.heads
    if heads is None:
        heads = [name for name, why in unfit.items() if why is None]
    folder = source.found.checkpoint.folder
    lines = [
        f"weights   {folder}",
        "taken     " + ", ".join(["the shared part", *(f"head of {name}" for name in heads)]),
    ]
    if new := [
        f"{name} ({unfit[name] or 'not in init.heads'})" for name in unfit if name not in heads
    ]:
        lines.append(f"new heads {'; '.join(new)}")
    if left := start.left(model):
        lines.append(f"left      {', '.join(left)}")
    return replaced(config, {"init.heads": heads}), lines


def reopened(config: Config, folder: RunFolder) -> Start | None:
    """Return the weights that a run begins with, or has begun with, as its folder records them;
    None where a run has none. Raises UserError when they have changed or gone since."""
    if config.init.from_ is None:
        return None
    record = folder.environment()["init"]
    there = Path(record["run"])
    run = checkpoint.run_of(there if there.is_dir() else Path(config.init.from_))
    place = run / "checkpoints" / record["checkpoint"]
    found = checkpoint.read(place)
    if sha256(place / "manifest.json") != record["manifest"]:
        what = "the checkpoint has changed since the run began"
        raise UserError(what, f"init.from ({place})", "start the run again")
    from mtlcli.models.start import Start

    theirs = load_config(run / "config.yaml")
    return Start(theirs, found.tensors("model.safetensors"), str(place))
