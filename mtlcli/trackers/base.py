"""What a tracker has to do, and what it is told about the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class About:
    """The run that is followed."""

    folder: Path
    """The run folder, as an absolute path."""
    project: str | None
    """The name under which the tracker files runs; None: the tracker's own setting, else `mtl`."""
    config: str
    """The resolved config as YAML, with `${oc.env:NAME}` instead of values of the environment."""
    values: dict[str, Any]
    """The same as nested values."""

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.folder.name

    @property
    def group(self) -> str:
        """The name of what the run belongs to: the folder around it, which for a job of a sweep is
        the sweep's."""
        return self.folder.parent.name

    def flat_config(self) -> dict[str, Any]:
        """Return dotted key -> value; a list is a value."""
        return dict(_leaves(self.values))


@dataclass(frozen=True)
class Ending:
    """How a process that trained the run has ended."""

    status: str
    """`finished`, `interrupted` or `failed`."""
    results: dict[str, Any]
    """The content of results.json; empty before the first evaluation."""
    files: dict[str, Path]
    """Name -> absolute path of the run folder's files, and of the best checkpoint's folder."""

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of the final table: a row for each task, and one for the average."""
        if not self.results:
            return []
        rows = [
            {
                "task": name,
                "metric": entry["main_metric"],
                "score": entry["main"],
                "majority": entry["majority"],
                "rows": entry["examples"],
            }
            for name, entry in self.results["tasks"].items()
        ]
        average = {"task": "average", "metric": "", "score": self.results["average"]}
        return [*rows, average | {"majority": None, "rows": None}]

    def markdown(self) -> str:
        """Return the final table in Markdown; empty where there are no results."""
        rows = self.table()
        lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"] if rows else []
        lines += [
            "| " + " | ".join("" if cell is None else str(cell) for cell in row.values()) + " |"
            for row in rows
        ]
        return "\n".join(lines)

    def small_files(self) -> list[Path]:
        """Return the files that are small enough to be sent; checkpoints stay where they are."""
        return [path for path in self.files.values() if path.is_file()]


class Tracker(ABC):
    """One place in which a run can be followed.

    All methods are called in one thread, which belongs to this tracker. Whatever they raise ends
    the tracker and never the run. Steps rise from call to call.
    """

    takes_back: ClassVar[bool]
    """Whether `open` removes what was told about later steps than the one it resumes from. If not,
    `Tracking` tells no step twice."""

    @abstractmethod
    def open(self, about: About, identity: str, step: int | None) -> str:
        """Begin to follow the run and return a text by which the tracker finds it again.

        `identity`: that text, where the tracker has followed the run before, else empty. `step`:
        the step from which the run resumes; None for a run that starts.
        """

    @abstractmethod
    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a metrics row."""

    @abstractmethod
    def scores(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of an evaluation."""

    @abstractmethod
    def finish(self, ending: Ending) -> None:
        """Take the results and files, and close; the run may be resumed later."""

    @abstractmethod
    def advice(self) -> str:
        """Return how the user can look at it: a command, or a path."""


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def row_values(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a metrics row by name: `loss/rte`, `weight/rte`, `lr`, ... Norms and
    cosines of the tasks' gradients become `shared_gradient/rte` and `cosine/rte/cola`."""
    values = {key: value for key, value in row.items() if key not in ("step", "tasks", "gradients")}
    numbers = dict(_numbers(values))
    for task, entry in row["tasks"].items():
        numbers |= {f"{key}/{task}": float(value) for key, value in entry.items()}
    if row["gradients"] is not None:
        names = row["gradients"]["tasks"]
        norms, cosines = row["gradients"]["norms"], row["gradients"]["cosines"]
        numbers |= {f"shared_gradient/{name}": norm for name, norm in zip(names, norms)}
        numbers |= {
            f"cosine/{one}/{names[other]}": cosines[place][other]
            for place, one in enumerate(names)
            for other in range(place + 1, len(names))
        }
    return numbers


def score_values(results: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an evaluation by name: `validation/rte/accuracy`,
    `validation/average`."""
    split = results["split"]
    numbers = {
        f"{split}/{task}/{metric}": float(value)
        for task, entry in results["tasks"].items()
        for metric, value in entry["metrics"].items()
        if _is_number(value)
    }
    for key in ("average", "glue_average"):
        if results.get(key) is not None:
            numbers[f"{split}/{key}"] = float(results[key])
    return numbers


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers among nested values, named by the way to them."""
    if _is_number(values):
        yield name, float(values)
    elif isinstance(values, (dict, list)):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _numbers(value, f"{name}/{key}" if name else str(key))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
