"""What a resumed run may change: the differences between two configs, and which of them would
change the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from mtlcli.config import Config
from mtlcli.config.section import replaced
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
    # What is read is guarded by the fingerprints of the data.
    *("data.root", "data.source", "data.warnings", "data.cache_dir", "tasks.*.source.*"),
    # Only a run without a learning rate of its own reads them, when it starts.
    *("model.lr", "model.scratch_lr"),
)
"""Keys that do not touch the result."""
ROUNDING = (
    "runner.devices",
    "runner.device",
    "runner.threads",
    "runner.accumulation",
    "runner.eval_batch_size",
    "model.attention",
)
"""Keys that change the result by rounding only: said, not refused. With dropout, see `MASKS`."""
MASKS = ("runner.devices", "runner.device", "runner.accumulation", "model.attention")
"""Those of them that change which elements dropout drops.

One stream of random numbers serves a rank's whole pass, so the masks depend on the rank and on the
shape of its micro-batches. Masks that depend on the example alone would need a stream for each
example and layer: many small draws where one is four times cheaper than torch's own
(`models/dropout.py`).
"""
FIXED = (
    *(
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
        "tasks.*.head",
    ),
    *("tasks.*.head_layers", "tasks.*.labels", "tasks.*.label_ids"),
)
"""Keys that decide what there is to learn: another value needs another run."""
EVALUATION = (
    "allow",
    *(
        "data.source",
        "data.root",
        "data.cache_dir",
        "data.max_train_rows",
        "data.max_eval_rows",
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
        "logger.console",
    ),
    *(
        "tasks.*.source",
        "tasks.*.splits",
        "tasks.*.columns",
        "tasks.*.metrics",
        "tasks.*.unlabelled",
        "tasks.*.range",
    ),
    *("tasks.*.max_answer_length", "tasks.*.n_best", "tasks.*.no_answer_threshold"),
)
"""Keys, with all below them, that an evaluation may change: where rows come from and what is made
of the model's outputs. Whatever is not named here has made the checkpoint, or plays no part in an
evaluation."""
IDLE = ("runner.*", "logger.*", "resume")
"""Keys that have not made the checkpoint either."""
METHODS = ("sharing.name", "weighting.name", "sampling.name", "optim.name")
PRESENT = "in the run"
SETTLED: dict[str, str | None] = {
    **dict.fromkeys(
        ("data.source", "model.kind", "model.pooling", "runner.precision", "runner.max_tokens"),
        "auto",
    ),
    **dict.fromkeys(
        ("optim.lr", "tasks.*.max_length", "tasks.*.labels", "tasks.*.label_ids"), None
    ),
}
"""Keys that a run settles when it starts, and the values that leave them open; a config that does
so again asks for no change."""


@dataclass(frozen=True)
class Change:
    """A value that differs from the run's."""

    key: str
    """Key path."""
    old: Any
    """The run's value."""
    new: Any
    """What is asked for."""

    @property
    def free(self) -> bool:
        """Whether it does not touch the result."""
        return _is(self.key, FREE)

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def changes(old: Config, new: Config) -> list[Change]:
    """Every value of `new` that differs from the run's config `old`."""
    before, after = dict(_leaves("", asdict(old))), dict(_leaves("", asdict(new)))
    keys = dict.fromkeys([*before, *after])
    found = [
        Change(key, before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key)
    ]
    # Another method has other keys, and a task that comes or goes has all of its own: one change
    # says it.
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
    """Whether a key touches results by no more than rounding."""
    return _is(key, (*FREE, *ROUNDING))


def filled(old: Config, new: Config) -> Config:
    """Return `new` with the values of the run's config `old` where `new` leaves them open."""
    before, after = dict(_leaves("", asdict(old))), dict(_leaves("", asdict(new)))
    return replaced(
        new,
        {
            key: before[key]
            for key, value in after.items()
            if _is_open(key, value) and key in before
        },
    )


def has_dropout(config: Config, architecture: dict[str, Any]) -> bool:
    """Whether the model drops anything in training. `architecture`: the backbone's transformers
    configuration."""

    def drops(value: Any, key: str = "") -> bool:
        if isinstance(value, dict):
            return any(drops(inner, name) for name, inner in value.items())
        return "drop" in key and isinstance(value, int | float) and value > 0

    heads = [task.dropout for task in config.tasks.values()]
    return any([config.model.dropout, *heads, drops(architecture)])


def judge(
    found: list[Change], allowed: list[str], *, dropout: bool
) -> tuple[list[Problem], list[str]]:
    """Why changes are refused, and what to say of those that are not.

    `allowed`: keys whose change is meant. `dropout`: whether the model has dropout.
    """
    problems, notices = [], []
    for change in found:
        if change.free:
            continue
        what = f"{change.old} -> {change.new}"
        if _is(change.key, FIXED) or PRESENT in (change.old, change.new):
            problems.append(
                Problem(
                    f"{what} cannot be changed in a run that has begun",
                    change.key,
                    "take it out, or start another run",
                )
            )
        elif _is(change.key, ROUNDING) and not (dropout and _is(change.key, MASKS)):
            notices.append(f"{change}: the same result within rounding, not to the bit")
        elif change.key in allowed:
            notices.append(f"{change}: changed, as allowed")
        else:
            if _is(change.key, MASKS):
                what += ": dropout drops other elements, which"
            problems.append(
                Problem(
                    f"{what} changes the result",
                    change.key,
                    f"take it out, or type allow=[{change.key}] if it is meant",
                )
            )
    return problems, notices


def judge_unchanged(allowed: list[str], config: Config) -> tuple[list[Problem], list[str]]:
    """Why keys of `allow` that change nothing are refused, and what to say of those that are not.

    A key that the run has is no mistake: a supervisor that restarts the run types the same command
    again after the change has been made.
    """
    known = [key for key, _ in _leaves("", asdict(config))]
    problems = []
    for key in allowed:
        if key not in known:
            close = nearest(key, known)
            fix = (
                f"did you mean '{close}'?"
                if close
                else "name a key of the run's config.yaml, such as optim.lr"
            )
            problems.append(Problem(f"the run has no key '{key}'", "allow", fix))
    return problems, [
        f"allow: {key} does not differ from the run's value" for key in allowed if key in known
    ]


def refuse_at_evaluation(key: str) -> Problem | None:
    """Why an evaluation cannot change a key, or None."""
    if any(_is(path, EVALUATION) for path in _prefixes(key)):
        return None
    if any(pattern.startswith(f"{key}.") for pattern in EVALUATION):
        return Problem(
            "the key is a section, not a single value",
            key,
            f"give its keys one by one, for example {_example(key)}",
        )
    what = "plays no part in an evaluation" if _is(key, IDLE) else "is fixed by the checkpoint"
    fix = (
        "take it out; an evaluation may change data, the device, and a task's source, splits, "
        "columns and metrics: mtl eval --help"
    )
    return Problem(what, key, fix)


def _prefixes(key: str) -> list[str]:
    """A key path and all that it lies in."""
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
    """Key paths and values; a task is also a leaf of its own, so that one that comes or goes is one
    change."""
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{path}.{key}" if path else str(key)
            if path == "tasks":
                yield where, PRESENT
            yield from _leaves(where, inner)
    else:
        yield path, value
