"""The runs of a comparison: which there are to be, where they lie, and which have finished."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli.cli.typed import key_in
from mtlcli.config import Config
from mtlcli.config.changes import changes, filled, judge
from mtlcli.config.paths import typed_path
from mtlcli.config.section import replaced
from mtlcli.config.snapshot import load_config
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
    axes = _axes(kept)
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
    planned, problems = [], []
    folder: Path | None = None if place is None else typed_path(place, "run_dir")
    for number, (label, texts) in enumerate(named):
        try:
            config, suite = composed([*texts, "seed=0"], own)
        except UserError as error:
            problems += error.problems
            continue
        folder = folder or Path("compare") / suite
        for seed in range(seeds):
            words, asked = [*texts, f"seed={seed}"], replaced(config, {"seed": seed})
            of_baseline = train_baseline and number == 0
            planned.append(Planned(label, seed, Path(), words, asked, baseline=of_baseline))
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    assert folder is not None
    for run in planned:
        run.folder = folder / name_of(run)
    problems = [problem for run in planned for problem in state_of(run)]
    if seeds > 1 and any(run.config.data.max_eval_rows is not None for run in planned):
        problems.append(
            Problem(
                "every seed would be scored on other rows, since they are drawn by the seed",
                "data.max_eval_rows",
                "type data.max_eval_rows=null, or --seeds 1",
            )
        )
    if problems:
        raise UserError(problems)
    return folder, planned


def is_of(text: str, keys: Sequence[str]) -> bool:
    """Return whether an override is of one of the keys, or of a key below one."""
    key = key_in(text)
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _axes(texts: Sequence[str]) -> list[list[str]]:
    """Return what each override stands for, without several values that a later override of the
    same key replaces, with a note about these."""
    last = {key_in(text): text for text in texts}
    axes = []
    for text in texts:
        values, later = _values(text), last[key_in(text)]
        if len(values) > 1 and later is not text:
            print(f"note: {text} is not used: {later} comes after it", file=sys.stderr)
        else:
            axes.append(values)
    return axes


def _values(text: str) -> list[str]:
    """Return the overrides that an override with several values stands for."""
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
        raise UserError(
            "only lists of values make candidates",
            text,
            "write them out: KEY=A,B",
        )
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


def name_of(run: Planned) -> str:
    """Return the name of a run's folder: its label, its seed, and a digest of its settings, so that
    a folder is found again by the same settings alone."""
    digest = hashlib.sha256("\n".join(sorted(run.overrides)).encode()).hexdigest()[:8]
    label = "".join(c if c.isalnum() or c in "_.-" else "-" for c in run.label)[:60]
    return f"{label}_seed-{run.seed}_{digest}"


def state_of(run: Planned) -> list[Problem]:
    """Find out whether a run has finished or goes on. Return a problem where its folder holds a run
    with other settings."""
    place = RunFolder(run.folder)
    saved = run.folder / "config.yaml"
    status = place.status().get("status")
    if not saved.is_file() or not (status == "finished" or checkpoint.folders(place.checkpoints)):
        return []
    before = load_config(saved)
    refused, _ = judge(changes(before, filled(before, run.config)), [], dropout=False)
    if refused:
        what = "; ".join(str(each.change) for each in refused[:3])
        return [
            Problem(
                f"the run there was trained with other settings: {what}",
                str(run.folder),
                "move the folder away, or give another run_dir=",
            )
        ]
    run.state = "has finished" if status == "finished" else "goes on"
    return []
