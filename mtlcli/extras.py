"""What this package needs, and what its extras (`pip install 'mtlcli[NAME]'`) are for. This module
imports nothing but Python's own library, so that it can tell what is missing."""

from __future__ import annotations

import configparser
import re
from importlib import metadata
from pathlib import Path

ABOUT = {
    "adamw_8bit": "the optimiser `optim=adamw_8bit`",
    "bench": "the benchmarks in `scripts/`",
    "cagrad": "the weighting `weighting=cagrad`",
    "dev": "tests and checks of the code",
    "docs": "the documentation as a site (`make docs`)",
    "generation": "the metrics `bleu`, `chrf` and `rouge`",
    "int8": "matrices in 8 bits: `mtl compress --method int8`",
    "lora": "the sharing strategy `sharing=lora`",
    "mlflow": "the tracker `logger.trackers=[mlflow]`",
    "onnx": "ONNX graphs (`mtl export --format onnx`)",
    "ray": "sweeps whose jobs Ray runs: `hydra/launcher=ray`",
    "report": "the page of `mtl report` and `mtl compare`",
    "search": "searches: `sweep=optuna` and `sweep=random`",
    "serve": "the server `mtl serve`",
    "slurm": "sweeps whose jobs SLURM runs: `hydra/launcher=submitit_slurm`",
    "tensorboard": "the tracker `logger.trackers=[tensorboard]`",
    "wandb": "the tracker `logger.trackers=[wandb]` (Weights & Biases)",
}
"""Extra -> what it is for."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"""\bextra\s*==\s*['"]([^'"]+)['"]""")


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the packages that are always needed, as in `hydra-core>=1.3,<1.4`, and those of each
    extra: from setup.cfg in a checkout, else from what pip has recorded.

    Raises PackageNotFoundError when neither is there.
    """
    setup = Path(__file__).parents[1] / "setup.cfg"
    if setup.is_file():
        parser = configparser.ConfigParser()
        parser.read(setup, encoding="utf-8")
        extras = parser["options.extras_require"]
        return _lines(parser["options"]["install_requires"]), {
            name: _lines(text) for name, text in extras.items()
        }
    needed: list[str] = []
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires("mtlcli") or []:
        text, _, marker = requirement.partition(";")
        extra = _EXTRA.search(marker)
        # pip writes an extra's name with dashes.
        name = extra.group(1).replace("-", "_") if extra else ""
        (found.setdefault(name, []) if extra else needed).append(text.strip())
    return needed, found


def name_of(requirement: str) -> str:
    """Return the package that a requirement names."""
    found = _NAME.match(requirement)
    assert found is not None, requirement
    return found.group()


def installed(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]
