"""The record of the splits that a run has read, and its comparison with a later one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtlcli.errors import Problem


@dataclass(frozen=True)
class ReadSplit:
    """The record of a split that a run has read. Two splits are the same data if their content is
    the same, wherever the files are."""

    origin: str
    """File, or a name such as `hub:nyu-mll/glue/cola/train`."""
    fingerprint: str
    """SHA-256 of the file's bytes, or of the rows of a hub or sample table."""
    rows: int
    """Number of rows that take part."""
    total: int
    """Number of rows of the split, before `data.max_train_rows` or `data.max_eval_rows`."""
    unlabelled: int = 0
    """Number of rows that are left out because they have no label."""
    kept: int = 0
    """Number of rows without a label that take part all the same, because a prediction is wanted
    for each."""
    duplicates: int = 0
    """Number of train rows that `data.deduplicate` has removed."""
    contaminated: int = 0
    """Number of train rows that `data.decontaminate` has removed."""
    removed: str | None = None
    """SHA-256 of the numbers of the rows that these two have removed, which depend on other splits
    as well; None where neither is on."""
    other_folds: int = 0
    """Number of rows of train that are in the other split, with `data.folds`."""

    @property
    def remaining(self) -> int:
        """The number of rows from which those that take part are drawn."""
        return self.total - self.unlabelled - self.duplicates - self.contaminated

    def counts(self) -> dict[str, int]:
        """Return the numbers for results.json: `used`, the rows that are trained on or scored;
        `of`, all rows; and, if there are any, the rows without a label (`unlabelled`) and those
        that were removed (`duplicates`, `contaminated`)."""
        without = {
            "unlabelled": self.unlabelled + self.kept,
            "duplicates": self.duplicates,
            "contaminated": self.contaminated,
        }
        return {"used": self.rows - self.kept, "of": self.total} | {
            key: count for key, count in without.items() if count
        }


def changed_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    """Return the differences between the data of two records (`DataSource.record`): other kinds of
    source, other content of splits, and other rows that are removed from train.

    Another place of a file is no difference. Tasks and splits that `now` does not have are not
    compared.
    """
    problems = []
    for name, task in now.items():
        known = before.get(name)
        if known is not None and known["source"] != task["source"]:
            what = f"the run's rows came from '{known['source']}', now from '{task['source']}'"
            problems.append(
                Problem(
                    what,
                    f"tasks.{name}.source",
                    f"type tasks.{name}.source.kind={known['source']}, or data.source",
                )
            )
            continue
        for split, read in task["splits"].items():
            was = read if known is None else known["splits"].get(split, read)
            if was["fingerprint"] != read["fingerprint"]:
                what = f"the rows are not the {split} split that the run has read"
                problems.append(
                    Problem(
                        what, read["origin"], "bring the data back as it was, or start another run"
                    ).of_task(name)
                )
            elif read["removed"] and was.get("removed") not in (None, read["removed"]):
                what = "the rows that are removed from train are not those that the run removed"
                fix = "bring the validation and test splits back as they were, or start another run"
                problems.append(Problem(what, read["origin"], fix).of_task(name))
    return problems
