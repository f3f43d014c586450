"""Keys of Hydra itself on the command line: which of them have an effect here, and what launchers
and sweepers need."""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase

from hydra.core.override_parser.types import Override

from mtlcli.errors import Problem

IGNORED = {
    "hydra.run.*": "type run_dir=FOLDER: a run has one folder",
    "hydra.output_subdir": "leave it out: the run folder holds the configuration",
    "hydra.job.chdir": "leave it out: paths start from the folder where mtl is typed",
    "hydra.job.name": "leave it out, or type run_dir=FOLDER",
    "hydra.job.override_dirname": "leave it out",
    "hydra.job.num": "leave it out",
    "hydra.job.id": "leave it out",
    "hydra.runtime.*": "leave it out",
    "hydra.overrides.*": "leave it out",
    "hydra/output": "leave it out",
}
"""Keys of Hydra that have no effect here, with the advice to the user."""
OF_SWEEPS = (
    "hydra.sweep.*",
    "hydra.sweeper*",
    "hydra.launcher*",
    "hydra/sweeper",
    "hydra/launcher",
    "hydra.hydra_logging*",
    "hydra/hydra_logging",
    "hydra.callbacks*",
    "hydra/callbacks",
    "hydra.job.env_copy",
    "hydra.job.config.*",
)
"""Keys of Hydra that have an effect in a sweep only."""
PLUGINS = {
    "hydra/launcher": {
        "submitit_*": "submitit-launcher",
        "joblib": "joblib-launcher",
        "ray*": "ray-launcher",
        "rq": "rq-launcher",
    },
    "hydra/sweeper": {
        "optuna": "optuna-sweeper",
        "ax": "ax-sweeper",
        "nevergrad": "nevergrad-sweeper",
    },
}
"""The packages `hydra-...` that contain launchers and sweepers."""
PROGRAMS = {"submitit_slurm": ("srun", "sbatch")}
"""The programs with which launchers start jobs."""


def idle_key(override: Override, *, sweep: bool, resumed: bool) -> Problem | None:
    """Return a problem if a key of Hydra would have no effect, or could not work."""
    key = override.key_or_group
    if not key.startswith(("hydra.", "hydra/")):
        return None
    if resumed:
        return Problem(
            "has no effect on a resumed run, which has its own configuration", key, "leave it out"
        )
    for pattern, fix in IGNORED.items():
        if fnmatchcase(key, pattern):
            return Problem("has no effect here", key, fix)
    if not sweep and any(fnmatchcase(key, pattern) for pattern in OF_SWEEPS):
        return Problem("has an effect only in a sweep", key, "add -m, or leave it out")
    if key == "hydra.sweep.dir" and "${" in str(override.value()):
        return Problem(
            "must be a plain path here, without ${...}",
            key,
            "write the path, or type run_dir=FOLDER",
        )
    return None


def missing_plugin(key: str, name: str, options: list[str]) -> Problem | None:
    """Return a problem if the chosen launcher or sweeper lacks a package or a program on this
    machine."""
    if key not in PLUGINS:
        return None
    where = f"{key}={name}"
    if name not in options:
        package = next(
            (package for pattern, package in PLUGINS[key].items() if fnmatchcase(name, pattern)),
            None,
        )
        fix = (
            f"type pip install hydra-{package}, or choose one of: {', '.join(options)}"
            if package
            else f"choices: {', '.join(options)}"
        )
        return Problem(
            "its plugin is not installed" if package else f"there is no '{name}'", where, fix
        )
    missing = [program for program in PROGRAMS.get(name, ()) if shutil.which(program) is None]
    if missing:
        what = f"this machine has no {' and no '.join(missing)}: it is not part of a SLURM cluster"
        return Problem(
            what,
            where,
            "type the command on a machine of the cluster, or choose another launcher: basic, "
            "submitit_local",
        )
    return None
