"""The runs of a comparison: which there are to be, where they lie, and which have finished."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtlcli.cli.planned import Planned, composed, is_of, other_rows, place_in
from mtlcli.cli.typed import key_in
from mtlcli.config.paths import typed_path
from mtlcli.config.section import replaced
from mtlcli.errors import Problem, UserError

SINGLE = ["sharing=none", "weighting=static"]
"""What makes a baseline of a candidate: a copy of the encoder for each task. With separate
parameters, a weight only scales the gradient of its own task."""
OF_METHODS = ("sharing", "weighting", "logger.probe", "logger.affinity")
"""Keys and sections that are the candidates' alone: a baseline shares nothing that a weighting
could balance or a probe could measure."""

OF_BASELINE = (
    "this makes the baseline: take the section out of the experiment's file, or give finished runs "
    "as --baseline"
)
"""The remedy where an experiment undoes what makes a baseline."""
STAGED = "type mtl train in the place of mtl compare, or leave the experiment out"


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
    axes = _axes(kept, problems)
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
            problems += [
                replace(problem, fix=OF_BASELINE) if problem.where in SINGLE else problem
                for problem in error.problems
            ]
            continue
        if runs[0].config.stages:
            problems.append(Problem("has stages, which mtl train compares", "experiment", STAGED))
            continue
        folder = folder or Path("compare") / suite
        planned += [replace(run, baseline=train_baseline and number == 0) for run in runs]
    problems += other_rows(planned, "--seeds 1")
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


def _axes(texts: Sequence[str], problems: list[Problem]) -> list[list[str]]:
    """Return what each override stands for, without several values that a later override of the
    same key replaces, with a note about these. Problems are added to `problems`."""
    last = {key_in(text): text for text in texts}
    axes = []
    for text in texts:
        values, later = _values(text, problems), last[key_in(text)]
        if len(values) > 1 and later is not text:
            print(f"note: {text} is not used: {later} comes after it", file=sys.stderr)
        elif values:
            axes.append(values)
    return axes


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
