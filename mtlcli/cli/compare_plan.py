"""The runs of a comparison: which there are to be, where they lie, and which have finished."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtlcli.cli.typed import key_in
from mtlcli.config import Config
from mtlcli.config.changes import digest
from mtlcli.config.paths import typed_path
from mtlcli.config.section import replaced
from mtlcli.errors import Problem, UserError
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder

SINGLE = ["sharing=none", "weighting=static"]
"""What makes a baseline of a candidate: a copy of the encoder for each task. With separate
parameters, a weight only scales the gradient of its own task."""
OF_METHODS = ("sharing", "weighting", "logger.probe", "logger.affinity")
"""Keys and sections that are the candidates' alone: a baseline shares nothing that a weighting
could balance or a probe could measure."""


@dataclass
class Planned:
    """A run of a comparison."""

    label: str
    seed: int
    folder: Path
    overrides: list[str]
    """The overrides of the run, without its folder."""
    config: Config
    """What the overrides compose."""
    baseline: bool = False
    """Whether the run is of the baseline."""
    state: str = "trains"
    """`trains`, `goes on` or `has finished`."""


def plan(
    overrides: list[str],
    seeds: int,
    own: list[str],
    *,
    train_baseline: bool,
    candidates_given: bool,
) -> tuple[Path, list[Planned]]:
    """Return the folder of the comparison and its runs, the baseline's first, all checked. Raises
    UserError for every mistake; nothing is started then.

    `candidates_given`: there are finished runs to compare, so that settings that name no method are
    those of the baseline alone.
    """
    place = next((text.partition("=")[2] for text in overrides if is_of(text, ["run_dir"])), None)
    kept = [text for text in overrides if not is_of(text, ["run_dir"])]
    if not kept:
        return Path(place or "compare"), []
    problems: list[Problem] = []
    axes = [values for text in kept if (values := _values(text, problems))]
    candidates = [list(each) for each in itertools.product(*axes)]
    swept = [number for number, values in enumerate(axes) if len(values) > 1]
    named: list[tuple[str, list[str]]] = []
    if train_baseline:
        first = [values[0] for values in axes]
        single = [text for text in first if not is_of(text, OF_METHODS)]
        named.append(("none", [*single, *SINGLE]))
        for number in swept:
            if not is_of(axes[number][0], OF_METHODS):
                print(f"note: the baseline is trained with {axes[number][0]}", file=sys.stderr)
    if candidates_given and not swept and not any(is_of(text, OF_METHODS) for text in kept):
        candidates = []
    for each in candidates:
        parts = [text.partition("=") for text in each]
        short = [
            value if key == "sharing" else f"{key}-{value}"
            for number, (key, _, value) in enumerate(parts)
            if number in swept or key == "sharing"
        ]
        named.append(("_".join(short) or "candidate", each))
    planned: list[Planned] = []
    folder: Path | None = None if place is None else typed_path(place, "run_dir")
    for number, (label, texts) in enumerate(named):
        try:
            runs, suite = seeded(label, texts, seeds, own)
        except UserError as error:
            problems += error.problems
            continue
        folder = folder or Path("compare") / suite
        planned += [replace(run, baseline=train_baseline and number == 0) for run in runs]
    if seeds > 1 and any(run.config.data.max_eval_rows is not None for run in planned):
        problems.append(
            Problem(
                "every seed would be scored on other rows, since they are drawn by the seed",
                "data.max_eval_rows",
                "type data.max_eval_rows=null, or --seeds 1",
            )
        )
    if folder is None:
        raise UserError(problems)
    different: dict[Path, Planned] = {}
    for run in planned:
        place_in(folder, run)
        different.setdefault(run.folder, run)
    if len(different) < len(planned) and all(run.baseline for run in different.values()):
        fix = "give a candidate that is something else, such as sharing=hard"
        problems.append(Problem("the candidate is the baseline itself", "sharing", fix))
    if problems:
        raise UserError(problems)
    return folder, list(different.values())


def seeded(label: str, texts: list[str], seeds: int, own: list[str]) -> tuple[list[Planned], str]:
    """Return the runs of some overrides with the seeds 0 to `seeds` - 1, which `place_in` gives
    their folders, and a name for their tasks. Raises UserError with every mistake in them."""
    config, suite = composed([*texts, "seed=0"], own)
    return [
        Planned(label, seed, Path(), [*texts, f"seed={seed}"], replaced(config, {"seed": seed}))
        for seed in range(seeds)
    ], suite


def is_of(text: str, keys: Sequence[str]) -> bool:
    """Return whether an override is of one of the keys, or of a key below one."""
    key = key_in(text)
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _values(text: str, problems: list[Problem]) -> list[str]:
    """Return the overrides that an override with several values stands for; a problem with them is
    added to `problems`."""
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException, OverrideParseException

    from mtlcli.cli.overrides import parsed

    try:
        override = parsed(text)
    except (OverrideParseException, HydraException, ValueError):
        return [text]  # The check of the whole command line says what cannot be read.
    if not override.is_sweep_override():
        return [text]
    if not isinstance(override.value(), ChoiceSweep):
        fix = "write them out: KEY=A,B"
        problems.append(Problem("only lists of values make candidates", text, fix))
        return []
    key = text.partition("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def composed(overrides: list[str], own: list[str]) -> tuple[Config, str]:
    """Return the config that overrides compose, and a name for its tasks."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight
    from mtlcli.cli.train import suite_of

    plan = preflight(read_arguments([*own, *overrides]))
    assert plan.composed is not None
    config = plan.configs[0]
    return config, suite_of(config, plan.composed.hydra.runtime.choices.get("task"))


def place_in(folder: Path, run: Planned) -> None:
    """Give a run its folder in that of the comparison, and find out what is there. The name has the
    run's label, its seed, and a digest of its configuration. By the digest it is found again,
    whatever the run is called in another comparison."""
    mark = digest(run.config, folder)
    label = "".join(c if c.isalnum() or c in "_.+-" else "-" for c in run.label)[:60]
    there = sorted(folder.glob(f"*_{mark}"))
    run.folder = there[0] if there else folder / f"{label}_seed-{run.seed}_{mark}"
    run.state = state_of(run.folder)


def state_of(folder: Path) -> str:
    """Return whether the run of a folder `has finished`, `goes on`, or `trains` from the start."""
    place = RunFolder(folder)
    status = place.status().get("status")
    if not (folder / "config.yaml").is_file():
        return "trains"
    if status == "finished":
        return "has finished"
    return "goes on" if checkpoint.folders(place.checkpoints) else "trains"
