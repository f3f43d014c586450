"""The runs of a comparison: which there are to be, where they lie, and which have finished."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from mtlcli.cli.planned import Planned, composed, is_of, name_of, other_rows, state_of
from mtlcli.config.paths import typed_path
from mtlcli.config.section import replaced
from mtlcli.errors import Problem, UserError

SINGLE = ["sharing=none", "weighting=static"]
"""What makes a baseline of a candidate: a copy of the encoder for each task. With separate
parameters, a weight only scales the gradient of its own task."""
OF_METHODS = ("sharing", "weighting", "logger.probe", "logger.affinity")
"""Keys and sections that are the candidates' alone: a baseline shares nothing that a weighting
could balance or a probe could measure."""

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
    axes = [_values(text) for text in kept]
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
        if config.stages:
            problems.append(Problem("has stages, which mtl train compares", "experiment", STAGED))
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
    if problems := [*problems, *other_rows(planned, "--seeds 1")]:
        raise UserError(problems)
    return folder, planned


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
