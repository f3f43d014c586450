"""mtl: config-driven multi-task learning on language. This module does not import torch.

From Python: `mtlcli.train` trains, and `mtlcli.load` gives the model of a run folder, which
predicts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlcli.predict.predictor import Predictor

__version__ = "0.1.0"

# The transformers library imports torchao where it is installed, which then warns in every command
# of kernels for GPUs that it cannot load.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def load(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Predictor:
    """Load the model of a run folder (its best checkpoint), or of one checkpoint folder.

    `overrides`: `KEY=VALUE` as for `mtl eval`, for example `runner.device=cpu`. `config_dir`: a
    folder with the run's own methods, as `-cd` of `mtl eval`; not needed for files that were used
    before and have not changed. `say`: function that is called with lines for the user, for example
    about a damaged checkpoint that was skipped. Raises `mtlcli.errors.UserError` when the path is
    no run, or its model cannot be used.
    """
    from mtlcli.predict.load import load

    return load(path, overrides=overrides, config_dir=config_dir, say=say)


@dataclass(frozen=True)
class Trained:
    """A run that has ended."""

    path: Path
    """The run folder."""
    results: dict[str, Any]
    """The content of its results.json."""

    def load(self) -> Predictor:
        """Load the model of the run."""
        return load(self.path)


def train(
    overrides: Sequence[str],
    *,
    run_dir: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> Trained:
    """Train, as `mtl train` does with the same words, and return the results.

    `overrides`: for example `["task=[cola,rte]", "data=sample", "model=tiny"]`. `run_dir`: the run
    folder; by default a new one below `runs/`. `config_dir`: a folder with your own YAML files, as
    `-cd`. Progress is printed as `logger.console` says. Raises `mtlcli.errors.UserError` with every
    mistake in the configuration or the data, before anything is trained.
    """
    from mtlcli.cli.train import train_once

    folder = train_once(list(overrides), run_dir, config_dir)
    import json

    return Trained(folder, json.loads((folder / "results.json").read_bytes()))
