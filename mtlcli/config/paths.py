"""Where the YAML files of conf/ are, in every kind of install."""

from __future__ import annotations

from pathlib import Path

import mtlcli


def conf_dir() -> Path:
    """The absolute path of the configuration files: `mtlcli/conf` in an installed wheel, else the checkout's `conf`."""
    package = Path(mtlcli.__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
