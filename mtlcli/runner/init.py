"""The beginning of a run with the weights of another run (`init.from`).

The other run is opened, verified and compared before anything is made. The new run does not need it
any more once it has begun.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtlcli.commands import setting
from mtlcli.config import Config
from mtlcli.config.augmentation import earlier_tasks
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

CUTTABLE = ("bert", "roberta", "xlm-roberta", "electra")
"""The kinds of models some of whose layers can be taken: all layers are built alike, and none
refers to another."""


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
    layers: list[int] | None = None
    """The layers of its model that are taken; None: all."""

    @property
    def start(self) -> Start:
        """The weights, for the model."""
        from mtlcli.models.start import Start

        where = str(self.found.checkpoint.folder)
        return Start(self.config, self.found.tensors, where, self.layers)


def open_source(config: Config) -> Source | None:
    """Open the run of `init.from`; None where a run has none. Raises UserError when it cannot be
    used."""
    if config.init.from_ is None:
        return None
    source = opened(Path(config.init.from_), "init.from")
    if source.files.int8:
        what = "the matrices of the run's model are in 8 bits, and training needs them in full"
        fix = "begin with the run that it was made of"
        made_of = RunFolder(source.found.run).environment().get("compressed", {}).get("run")
        raise UserError(
            what, "init.from", f"{fix}: {setting('init.from', made_of)}" if made_of else fix
        )
    source.files = source.files.with_dropout(config.model.dropout)
    return source if config.init.layers is None else _cut(source, config.init.layers)


def opened(path: Path, at: str) -> Source:
    """Open a run, or a checkpoint of it, that the key `at` names. Raises UserError when it cannot
    be used."""
    try:
        run = checkpoint.run_of(path)
        own = imported_folder()
        lines = import_for_run(run, RunFolder(run).methods(), own, f"mtl train {at}=...")
        found = best_checkpoint.find(path)
        lines += found.notices
        theirs = best_checkpoint.config_of(found, [], lines.append)
        files = BackboneFiles.load(run / "backbone")
    except UserError as error:
        raise UserError(
            [
                replace(each, where=f"{at}, {each.where}" if each.where else at)
                for each in error.problems
            ]
        ) from error
    return Source(found, theirs, files, lines)


def _cut(source: Source, layers: list[int]) -> Source:
    """Return the source with some of its layers. Raises UserError when its model does not have
    them, or is of a family whose layers depend on their place."""
    kind, at = source.files.architecture["model_type"], "init.layers"
    if kind not in CUTTABLE:
        what = f"the model of init.from is of the kind {kind}, whose layers cannot be chosen"
        raise UserError(what, at, f"leave it out; it takes {', '.join(CUTTABLE)}")
    if source.start.prefix() is None:
        what = f"sharing={source.config.sharing.name} has added to the layers of that run"
        raise UserError(what, at, "leave it out, or begin with a run with sharing=hard")
    count = source.files.architecture["num_hidden_layers"]
    if layers != sorted(set(layers)) or layers[-1] >= count:
        what = f"found {layers}, and the run of init.from has the layers 0 to {count - 1}"
        raise UserError(what, at, "name each once, in ascending order")
    config = source.config
    if config.model.kind == "scratch":
        config = replaced(config, {"model.layers": len(layers)})
    files = source.files.with_layers(layers)
    return replace(source, config=config, files=files, layers=layers)


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
    part = "the shared part"
    if source.layers is not None:
        part += f" with the layers {', '.join(map(str, source.layers))}"
    lines = [
        f"weights   {folder}",
        "taken     " + ", ".join([part, *(f"head of {name}" for name in heads)]),
    ]
    if new := [
        f"{name} ({unfit[name] or 'not in init.heads'})" for name in unfit if name not in heads
    ]:
        lines.append(f"new heads {'; '.join(new)}")
    if left := start.left(model):
        lines.append(f"left      {', '.join(left)}")
    config = replaced(config, {"init.heads": heads})
    if config.augmentation.keeps:
        _check_kept(config)
    return config, lines


def _check_kept(config: Config) -> None:
    """Raise UserError where the head of an earlier task would begin as new, before the run has a
    folder. `config`: with the heads that are taken."""
    heads = config.init.heads or []
    new = [
        name
        for name in earlier_tasks(config)[0]
        if name not in heads and config.tasks[name].head not in heads
    ]
    if new:
        what = (
            f"there is nothing to keep of {', '.join(new)}: the run of init.from has not learned it"
        )
        fix = "put the tasks that it has learned first, and one new task last: 'task=[OLD,NEW]'"
        raise UserError(what, f"augmentation={config.augmentation.name}", fix)


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
    return Start(theirs, found.tensors("model.safetensors"), str(place), config.init.layers)
