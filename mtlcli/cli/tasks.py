"""The verb `mtl tasks`, which lists everything that can be composed, and `mtl tasks NAME`, which
shows a task's columns, table rows and their encoded form. This module does not import torch."""

from __future__ import annotations

import sys
from pathlib import Path

from mtlcli.cli.check import choices, chosen, show_path, show_task, style, task_arguments
from mtlcli.cli.groups import GroupFile, groups, members
from mtlcli.config.formats import TASK_FILES
from mtlcli.errors import UserError

LABELS = 9
"""The number of labels of a task that the list shows."""

HELP = """\
List what can be composed, or show one task.

usage: mtl tasks [NAME] [-cd DIR] [KEY=VALUE ...]

  mtl tasks                                  tasks, suites, and the names of the other groups
  mtl tasks -cd my_conf                      with your own files
  mtl tasks rte                              columns, sizes, labels, and a few rows, encoded
  mtl tasks rte data=local data.root=DIR     the same, from your copy of the data
  mtl tasks my.yaml                          your own task, from its file; as mtl check does
  mtl tasks mine -cd my_conf model=minilm    your own task, with the tokenizer of a model
"""


def tasks_main(argv: list[str]) -> int:
    """Run `mtl tasks` and return the exit code."""
    read = task_arguments("mtl tasks", argv)
    if read is None:
        print(HELP, end="")
        return 0
    names, overrides, own = read
    if len(names) > 1:
        raise UserError(
            f"expected one name, found {len(names)}: {' '.join(names)}",
            fix="mtl tasks shows all of them",
        )
    if names and names[0].endswith(TASK_FILES):
        show_path(names[0], overrides, own)
        return 0
    files = choices("task", own)
    if not names:
        if overrides:
            raise UserError(
                f"'{overrides[0]}' needs the name of a task",
                fix="mtl tasks NAME KEY=VALUE ...",
            )
        _list(files, own)
        return 0
    file = chosen(names[0], files)
    if file.suite:
        _list(files, own, only=names[0])
    else:
        show_task(names[0], file, overrides, own)
    return 0


# ------------------------------------------------------------------------------------------------
# the list


def _list(files: dict[str, GroupFile], own: Path | None, only: str | None = None) -> None:
    """Print the tasks and suites, then the other groups; for the suite `only`, only its tasks."""
    from mtlcli.screen import Column, FittingTable, screen

    out = screen()

    def table(title: str, **columns: tuple[int, int | None]) -> FittingTable:
        """Return a table. `columns`: for each column, the order in which it is left out, and the
        width beyond which it is folded."""
        return FittingTable(
            [Column(name, goes=goes, fold=fold) for name, (goes, fold) in columns.items()],
            title=title,
            style=style(),
        )

    whole: tuple[int, int | None] = (0, None)
    tasks = table(
        "tasks",
        task=whole,
        type=whole,
        columns=(3, 12),
        labels=(2, 12),
        metric=(1, None),
        hub=(4, None),
    )
    tasks.whole = "mtl tasks NAME"
    suites = table("suites", suite=whole, tasks=(0, 12))
    shown = [only, *members(only, files)] if only else list(files)
    problems = []
    known = [(name, files[name]) for name in shown if name in files]
    # Sorting is stable: within a type, tasks stand in the order of the suite or of their names.
    for name, file in sorted(known, key=lambda item: str(item[1].values.get("type", ""))):
        if file.problem is not None:
            problems.append(file.problem)
            continue
        if file.suite:
            suites.add_row(name, " ".join(members(name, files)))
            continue
        values = file.values
        source = file.section("source")
        hub = "/".join(str(part) for part in (source.get("hub"), source.get("hub_config")) if part)
        if source.get("files"):
            hub = "own files"
        given = values.get("labels") or values.get("range")
        labels = " ".join(map(str, given[:LABELS])) if isinstance(given, list) else ""
        if isinstance(given, list) and len(given) > LABELS:
            labels += f" ... ({len(given)})"
        if values.get("head"):
            labels = labels or f"those of {values['head']}"
        columns = " ".join(
            " ".join(map(str, column)) if isinstance(column, list) else str(column)
            for column in file.section("columns").values()
            if column
        )
        metrics = values.get("metrics")
        main = str(metrics[0]) if isinstance(metrics, list) and metrics else "default"
        tasks.add_row(name, str(values.get("type", "?")), columns, labels, main, hub)
    out.print(tasks)
    if suites.rows:
        out.print(suites)
    for group in [] if only else groups(own)[1:]:
        options = FittingTable(
            [Column("name"), Column("what it is", fold=12)],
            title=group,
            style=style() | {"show_header": False},
        )
        for name, file in choices(group, own).items():
            if file.problem is None:
                options.add_row(f"{group}={name}", file.about)
            else:
                problems.append(file.problem)
        out.print(options)
    sys.stdout.flush()
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
