"""A configuration as a file of the group `experiment`, from which the same run can be composed."""

from __future__ import annotations

import textwrap
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mtlcli.config import METHODS, Config
from mtlcli.config.snapshot import config_text
from mtlcli.disk import write_whole

OF_A_RUN = ("run_dir", "resume", "allow")
"""Keys that belong to one run, not to its configuration."""


def write_experiment(config: Config, path: Path, about: str) -> None:
    """Write a config as an experiment, with every value. `about`: what the file says of itself.

    Raises OSError; an existing file is intact then.
    """
    values = OmegaConf.create(config_text(config))
    assert isinstance(values, DictConfig)
    for key in OF_A_RUN:
        values.pop(key)
    lines = ["# @package _global_"]
    lines += textwrap.wrap(about, 98, initial_indent="# ", subsequent_indent="# ")
    # The values below are those of all tasks and methods, so no other file adds to them.
    lines += ["defaults:", "  - override /task: null"]
    lines += [f"  - override /{group}: {values[group]['name']}" for group in METHODS]
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "\n".join(lines) + "\n" + OmegaConf.to_yaml(values))
