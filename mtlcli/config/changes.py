"""The changes that a resumed run may make: the differences between two configs, and which of them
would change the result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mtlcli.commands import setting
from mtlcli.config import Config
from mtlcli.config.paths import PATHS
from mtlcli.config.section import replaced, values_of
from mtlcli.errors import Problem
from mtlcli.registry import nearest

FREE = (
    *(
        "run_dir",
        "resume",
        "allow",
        "logger.*",
        "runner.timeout",
        "runner.keep",
        "runner.save_every",
    ),
    # Fingerprints of the data guard what these keys make the run read.
    *(
        "data.root",
        "data.source",
        "data.warnings",
        "data.cache_dir",
        "data.rows",
        "tasks.*.source.*",
    ),
    # Read once, at the start, and only if `optim.lr` is null.
    *("model.lr", "model.scratch_lr"),
)
"""Keys that do not affect the result."""
APART = (
    *("run_dir", "resume", "allow", "sweep.*"),
    *("logger.console", "logger.every", "logger.trackers", "logger.project"),
    *("runner.timeout", "runner.keep", "runner.save_every"),
    *("data.warnings", "data.cache_dir", "data.rows"),
)
"""Keys about where and how a run is carried out and shown. All others say what is trained, on which
rows, or what is measured meanwhile."""
NAMES = ("model.name", "tasks.*.source.hub")
"""Keys whose value is a path or a name on the hub."""
ROUNDING = (
    "runner.devices",
    "runner.device",
    "runner.threads",
    "runner.accumulation",
    "runner.eval_batch_size",
    "runner.engine",
    "runner.fast",
    "runner.packing",
    "runner.graphs",
    "runner.compile",
    "model.attention",
)
"""Keys that change the result by no more than rounding: a resumed run may change them, and prints a
note. For runs with dropout, see `MASKS`."""
MASKS = (
    "runner.devices",
    "runner.device",
    "runner.accumulation",
    "runner.engine",
    "runner.fast",
    "runner.packing",
    "runner.graphs",
    "runner.compile",
    "model.attention",
)
"""The keys of `ROUNDING` that change which elements dropout drops.

Each rank draws all masks of a pass from one stream of random numbers, so they depend on the rank
and on the shape of its micro-batches. Masks that depend on the example alone would need a stream
for each example and layer, and so many small draws; the single large one is four times cheaper than
torch's own (`fast/dropout.py`).
"""
FIXED = (
    *(
        "form",
        "init.from",
        "init.heads",
        "init.layers",
        "augmentation.teachers",
        "model.architecture",
        "model.kind",
        "model.name",
        "model.pooling",
        "model.layers",
        "model.hidden",
        "model.heads",
        "model.vocabulary",
    ),
    *(
        "model.initializer_range",
        "sharing.*",
        "weighting.name",
        "optim.name",
        "tasks.*.type",
        "tasks.*.form",
        "tasks.*.head",
    ),
    *("tasks.*.head_layers", "tasks.*.labels", "tasks.*.label_ids"),
)
"""Keys that decide what is learned: another value needs another run."""
EVALUATION = (
    "allow",
    *(
        "data.source",
        "data.root",
        "data.cache_dir",
        "data.max_train_rows",
        "data.shots",
        "data.max_eval_rows",
        "data.rows",
        "data.sample_seed",
        "data.warnings",
    ),
    *(
        "runner.device",
        "runner.devices",
        "runner.threads",
        "runner.timeout",
        "runner.precision",
        "runner.eval_batch_size",
        "runner.fast",
        "runner.packing",
        "logger.console",
    ),
    *(
        "tasks.*.source",
        "tasks.*.splits",
        "tasks.*.max_train_rows",
        "tasks.*.columns",
        "tasks.*.metrics",
        "tasks.*.unlabelled",
        "tasks.*.range",
        "tasks.*.templates",
        "text",
    ),
    *("tasks.*.max_answer_length", "tasks.*.n_best", "tasks.*.no_answer_threshold"),
)
"""Keys and sections that an evaluation may change: where rows come from, and how the model's
outputs become predictions and scores. All other keys either determined the checkpoint or play no
part in an evaluation."""
PREDICTION = (
    "allow",
    *("runner.device", "runner.threads", "runner.precision", "runner.eval_batch_size"),
    *("runner.fast", "runner.packing"),
    *("tasks.*.columns", "tasks.*.templates", "text"),
    *("tasks.*.max_answer_length", "tasks.*.n_best", "tasks.*.no_answer_threshold"),
)
"""Keys and sections of `EVALUATION` that make a difference where rows have no labels and come from
elsewhere than the run's own data."""
IDLE = ("runner.*", "logger.*", "resume")
"""Keys outside `EVALUATION` that did not determine the checkpoint either."""
METHODS = ("sharing.name", "weighting.name", "sampling.name", "augmentation.name", "optim.name")
PRESENT = "in the run"
SETTLED: dict[str, str | None] = {
    **dict.fromkeys(
        (
            *("data.source", "model.kind", "model.pooling"),
            *("runner.engine", "runner.precision", "runner.packing", "runner.max_tokens"),
            "text.templates",
        ),
        "auto",
    ),
    **dict.fromkeys(
        (
            *("optim.lr", "tasks.*.max_length", "tasks.*.labels", "tasks.*.label_ids"),
            *("tasks.*.form", "init.heads"),
        ),
        None,
    ),
}
"""Keys that a run fills in when it starts, each with the value that leaves it open. A resumed run
whose config leaves such a key open keeps the run's value."""


@dataclass(frozen=True)
class Change:
    """A value that differs from the run's."""

    key: str
    """Key path."""
    old: Any
    """The run's value."""
    new: Any
    """The value in the new config."""

    @property
    def free(self) -> bool:
        """Whether the change leaves the result as it is."""
        return _is(self.key, FREE)

    @property
    def values(self) -> str:
        """The two values in words."""
        return f"{self.old} -> {self.new}"

    def __str__(self) -> str:
        return f"{self.key}: {self.values}"


@dataclass(frozen=True)
class Refusal:
    """A change that is refused."""

    change: Change
    """The change."""
    fixed: bool
    """Whether `allow` cannot permit it either, because another value needs another run."""

    def typed(self) -> Problem:
        """Return the problem of a change that was typed on the command line."""
        change, values = self.change, self.change.values
        if self.fixed:
            return Problem(
                f"{values} cannot be changed in a run that has begun",
                change.key,
                "take it out, or start another run",
            )
        masks = ": dropout drops other elements, which" if _is(change.key, MASKS) else ""
        return Problem(
            f"{values}{masks} changes the result",
            change.key,
            f"take it out, or type {setting('allow', [change.key])} to change it anyway",
        )


def changes(old: Config, new: Config) -> list[Change]:
    """Every value of `new` that differs from the run's config `old`."""
    before, after = dict(_leaves("", values_of(old))), dict(_leaves("", values_of(new)))
    keys = dict.fromkeys([*before, *after])
    found = [
        Change(key, before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key)
    ]
    # Report a swapped method, or a task that was added or removed, once instead of key by key.
    whole = [
        change.key.removesuffix(".name")
        for change in found
        if change.key in METHODS or (before | after).get(change.key) == PRESENT
    ]
    return [
        change
        for change in found
        if change.key in METHODS or not any(change.key.startswith(f"{part}.") for part in whole)
    ]


def harmless(key: str) -> bool:
    """Return whether a key affects results by no more than rounding."""
    return _is(key, (*FREE, *ROUNDING))


def settings(config: Config) -> dict[str, Any]:
    """Return the values that make the method of a run, by key: without the seed, and without keys
    that affect results by no more than rounding."""
    return {
        key: value
        for key, value in _leaves("", values_of(config))
        if key != "seed" and not harmless(key)
    }


def digest(config: Config, place: Path) -> str:
    """Return eight hexadecimal digits that two configs have in common where they ask for the same
    run, in whatever words they were typed: the order of overrides and defaults that are written out
    make no difference. The order of tasks does, since batches follow from it. `place`: the folder
    from which paths count, so that it may be moved together with them."""
    values = {
        key: _seen_from(place, key, value)
        for key, value in _leaves("", values_of(config))
        if not _is(key, APART)
    }
    text = json.dumps([list(config.tasks), values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _seen_from(place: Path, key: str, value: Any) -> Any:
    """Return the value of a key with paths as seen from a folder."""
    if isinstance(value, list | tuple):
        return [_seen_from(place, key, each) for each in value]
    if not isinstance(value, str) or not _is(key, PATHS) or "://" in value:
        return value
    named = _is(key, NAMES) and not Path(value).exists()
    return value if named else os.path.relpath(value, place)


def filled(old: Config, new: Config) -> Config:
    """Return `new` with the values of the run's config `old` where `new` leaves them open."""
    before, after = dict(_leaves("", values_of(old))), dict(_leaves("", values_of(new)))
    return replaced(
        new,
        {
            key: before[key]
            for key, value in after.items()
            if _is_open(key, value) and key in before
        },
    )


def draws_masks(config: Config, architecture: dict[str, Any]) -> bool:
    """Return whether training draws random numbers that depend on how a batch is cut: those of
    dropout, or of an augmentation.

    `architecture`: the backbone's transformers configuration.
    """
    return config.augmentation.draws or has_dropout(config, architecture)


def has_dropout(config: Config, architecture: dict[str, Any]) -> bool:
    """Return whether the model has dropout in training.

    `architecture`: the backbone's transformers configuration.
    """

    def drops(value: Any, key: str = "") -> bool:
        if isinstance(value, dict):
            return any(drops(inner, name) for name, inner in value.items())
        return "drop" in key and isinstance(value, int | float) and value > 0

    heads = [task.dropout for task in config.tasks.values()]
    return any([config.model.dropout, *heads, drops(architecture)])


def judge(
    found: list[Change], allowed: list[str], *, dropout: bool
) -> tuple[list[Refusal], list[str]]:
    """Return the changes that are refused, and a notice for each of the others.

    `allowed`: keys that the user permits to change. `dropout`: whether the model has dropout.
    """
    refusals, notices = [], []
    for change in found:
        if change.free:
            continue
        if _is(change.key, FIXED) or PRESENT in (change.old, change.new):
            refusals.append(Refusal(change, fixed=True))
        elif _is(change.key, ROUNDING) and not (dropout and _is(change.key, MASKS)):
            notices.append(f"{change}: the same result within rounding, not to the bit")
        elif change.key in allowed:
            notices.append(f"{change}: changed, as allowed")
        else:
            refusals.append(Refusal(change, fixed=False))
    return refusals, notices


def judge_unchanged(allowed: list[str], config: Config) -> tuple[list[Problem], list[str]]:
    """Return a problem for each unknown key of `allow`, and a notice for each that does not differ.

    A known key whose value does not differ is not a mistake: a supervisor that restarts a run
    repeats its command after the change has been made.
    """
    known = [key for key, _ in _leaves("", values_of(config))]
    problems = []
    for key in allowed:
        if key not in known:
            close = nearest(key, known)
            fix = (
                f"did you mean '{close}'?"
                if close
                else "type a key of the run's config.yaml, for example optim.lr"
            )
            problems.append(Problem(f"the run has no key '{key}'", "allow", fix))
    return problems, [
        f"allow: {key} does not differ from the run's value" for key in allowed if key in known
    ]


def refuse_at_evaluation(key: str) -> Problem | None:
    """Return why an evaluation cannot change a key, or None if it can."""
    if any(_is(path, EVALUATION) for path in _prefixes(key)):
        return None
    if any(pattern.startswith(f"{key}.") for pattern in EVALUATION):
        return Problem(
            "the key is a section, not a single value",
            key,
            f"type its keys one by one, for example {_example(key)}",
        )
    what = "plays no part in an evaluation" if _is(key, IDLE) else "is fixed by the checkpoint"
    fix = (
        "take it out; an evaluation may change the data, the device, and a task's source, splits, "
        "columns and metrics: mtl eval --help"
    )
    return Problem(what, key, fix)


def refuse_at_prediction(key: str) -> Problem | None:
    """Return why a prediction of new rows cannot change a key, or None if it can."""
    if any(_is(path, PREDICTION) for path in _prefixes(key)):
        return None
    if any(_is(path, EVALUATION) for path in _prefixes(key)):
        return Problem(
            "the key plays no part in a prediction: rows come from the input, and have no labels",
            key,
            "take it out: mtl predict --help",
        )
    return refuse_at_evaluation(key)


def _prefixes(key: str) -> list[str]:
    """Return a key path and the paths of all sections around it."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _example(section: str) -> str:
    return (
        next(pattern for pattern in EVALUATION if pattern.startswith(f"{section}.")).replace(
            "*", "NAME"
        )
        + "=..."
    )


def _is_open(key: str, value: Any) -> bool:
    return any(fnmatchcase(key, pattern) and value == left for pattern, left in SETTLED.items())


def _is(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield key paths and values. Each task also gets an entry of its own, so that an added or
    removed task is one change."""
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{path}.{key}" if path else str(key)
            if path == "tasks":
                yield where, PRESENT
            yield from _leaves(where, inner)
    else:
        yield path, value
