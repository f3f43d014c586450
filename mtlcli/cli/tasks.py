"""The verb `mtl tasks`, which lists everything that can be composed, and `mtl tasks NAME`, which
shows a task's columns, table rows and their encoded form. This module does not import torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mtlcli import commands
from mtlcli.cli.groups import GroupFile, groups, members, read_group
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config import METHODS
from mtlcli.config.own_code import import_folder
from mtlcli.config.paths import typed_path
from mtlcli.config.task import named_columns
from mtlcli.errors import UserError, count_of
from mtlcli.registry import suggest

ROWS = 3
"""The number of table rows of a task that are shown."""
LONGEST = 160
"""The number of characters of a value, and of an encoded input, that are shown."""
TOKENIZER_ROWS = 2000
"""The number of table rows on which a tokenizer is trained for the preview, when the model has none
on this machine."""

HELP = """\
List what can be composed, or show one task.

usage: mtl tasks [NAME] [-cd DIR] [KEY=VALUE ...]

  mtl tasks                                  tasks, suites, and the names of the other groups
  mtl tasks -cd my_conf                      with your own files
  mtl tasks rte                              columns, sizes, labels, and a few rows, encoded
  mtl tasks rte data=local data.root=DIR     the same, from your copy of the data
  mtl tasks mine -cd my_conf model=minilm    your own task, with the tokenizer of a model
"""


def tasks_main(argv: list[str]) -> int:
    """Run `mtl tasks` and return the exit code."""
    parser = Parser(prog="mtl tasks", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    names = [word for word in arguments.rest if "=" not in word]
    overrides = [word for word in arguments.rest if "=" in word]
    own: Path | None = arguments.config_dir
    if own is not None and (problems := config_dir_problems(own)):
        raise UserError(problems)
    for line in import_folder(own) if own is not None else ():
        print(line, file=sys.stderr)
    if len(names) > 1:
        raise UserError(
            f"expected one name, found {len(names)}: {' '.join(names)}",
            fix="mtl tasks shows all of them",
        )
    files = _choices("task", own)
    if not names:
        if overrides:
            raise UserError(
                f"'{overrides[0]}' needs the name of a task",
                fix="mtl tasks NAME KEY=VALUE ...",
            )
        _list(files, own)
        return 0
    if names[0] not in files:
        raise UserError(f"unknown task '{names[0]}'", fix=suggest(names[0], files))
    if (problem := files[names[0]].problem) is not None:
        raise UserError(problem)
    if files[names[0]].suite:
        _list(files, own, only=names[0])
        return 0
    _show(names[0], files[names[0]], overrides, own)
    return 0


# ------------------------------------------------------------------------------------------------
# the list


def _choices(group: str, own: Path | None) -> dict[str, GroupFile]:
    """Return the choices of a group by name: its files, then the methods of other packages and of
    the user's Python files. A file of the user that cannot be chosen has a `problem`."""
    files = read_group(group, own)
    for file in files.values():
        if file.problem is None and file.path.parents[1] == own:
            from mtlcli.cli.own_files import unusable

            file.problem = next(iter(unusable(group, file.path)), None)
    if group in METHODS:
        registry = METHODS[group]
        for name in registry.names_of_others():
            module = sys.modules[registry.configs[name].__module__]
            files.setdefault(name, GroupFile(Path(str(module.__file__)), registry.about(name), {}))
    return files


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
            style=_style(),
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
    for name, file in ((name, files[name]) for name in shown if name in files):
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
        labels = " ".join(map(str, given)) if isinstance(given, list) else ""
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
            style=_style() | {"show_header": False},
        )
        for name, file in _choices(group, own).items():
            if file.problem is None:
                options.add_row(f"{group}={name}", file.about)
            else:
                problems.append(file.problem)
        out.print(options)
    sys.stdout.flush()
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------
# one task


def _show(name: str, file: GroupFile, overrides: list[str], own: Path | None) -> None:
    from mtlcli.data.source import open_source
    from mtlcli.prepare.checks import check_tables
    from mtlcli.screen import screen
    from mtlcli.tasks.base import build_tasks

    config = _compose(name, file, overrides, own)
    tasks = build_tasks(config.formed_tasks, config.text)
    # A file's header can give its task another name.
    name = name if name in tasks else next(iter(tasks))
    task = tasks[name]
    task.config = replace(task.config, max_length=task.config.max_length or config.data.max_length)
    source = open_source(config.data, config.tasks, config.seed)
    if task.head_owner is not None and task.head_owner.config.splits.train:
        task.head_owner.prepare(
            source.read(
                task.head_owner.name, task.head_owner.config.splits.train, task.head_owner.labelled
            )
        )
    splits = task.config.splits
    roles = (
        {splits.train: "train"}
        | dict.fromkeys(splits.validation, "validation")
        | {splits.test: "test"}
    )
    tables, problems, absent = {}, [], {}
    for split, role in roles.items():
        if split is None:
            continue
        try:
            tables[split] = source.read(name, split, task.labelled)
        except UserError as error:
            # Test splits are often not published, so a missing one is no mistake.
            if role == "test":
                absent[split] = error.problems[0].what
            else:
                problems += error.problems
    found, doubts = check_tables({name: task}, {name: tables})

    out = screen()

    def say(text: str, style: str = "") -> None:
        out.print(text, style=style, soft_wrap=True)

    say(f"{name}: {file.about}", "bold")
    labels = task.config.allowed
    facts = {
        "type": task.config.type,
        "file": str(file.path),
        "source": f"{source.choices[name].kind}: {source.choices[name].reason}",
        "columns": ", ".join(
            f"{key}: {column}" for key, column in named_columns(task.config.columns)
        ),
        "labels": ", ".join(map(str, labels))
        if labels
        else f"those of {task.config.head}"
        if task.config.head
        else "",
        "metrics": ", ".join(task.metrics),
        "max_length": f"{task.max_length} tokens",
    }
    for key, value in facts.items():
        if value:
            say(f"  {key:<12}{value}")
    out.print(_sizes(task, roles, tables, absent))
    for line in filter(None, (source.left_out(), source.drawn())):
        say(line)
    for doubt in doubts.get(name, []):
        say(f"warning: {doubt}")
    problems += found
    if problems:
        raise UserError(problems)
    shown = next((table for table in tables.values() if len(table)), None)
    if shown is not None:
        _show_rows(say, task, shown, config)


def _compose(name: str, file: GroupFile, overrides: list[str], own: Path | None) -> Any:
    """Return the config of a run of this task and, if it uses another task's head, of that head
    owner."""
    from mtlcli.cli.arguments import read_arguments
    from mtlcli.cli.preflight import preflight

    run = [name, file.values["head"]] if file.values.get("head") else [name]
    arguments = read_arguments(
        [
            f"task=[{','.join(map(commands.hydra_value, run))}]",
            *overrides,
            *(["-cd", str(own)] if own is not None else []),
        ]
    )
    return preflight(arguments).configs[0]


def _sizes(task: Any, roles: dict[Any, str], tables: dict[str, Any], absent: dict[str, str]) -> Any:
    from mtlcli.screen import Column, FittingTable

    made = FittingTable(
        [
            Column("split"),
            Column("used for", goes=1),
            Column("rows", right=True),
            Column("labels", fold=12),
        ],
        style=_style(),
    )
    for split, role in roles.items():
        if split in tables:
            made.add_row(split, role, f"{len(tables[split]):,}", _label_counts(task, tables[split]))
        elif split in absent:
            made.add_row(split, role, "-", absent[split])
    return made


def _style() -> dict[str, Any]:
    """Return the style of the tables, which have only one line, below the titles."""
    from rich import box

    return {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}


def _label_counts(task: Any, table: Any) -> str:
    """Return a description of the labels of a table, and the number of table rows without a sound
    one."""
    if not set(task.required_columns(labelled=True)) <= set(table.rows.column_names):
        return ""
    try:
        gold = task.gold(table)
    except ValueError:  # The train split cannot be used; the problems below give the reason.
        return "the classes are not known"
    known = [label for label in gold if label is not None]
    if not known:
        return "no valid label" if task.check(table, labelled=False) else "no labels"
    return str(task.describe(known)) + (
        f"; {count_of(len(gold) - len(known), 'row')} without a valid label"
        if len(known) < len(gold)
        else ""
    )


def _show_rows(say: Callable[..., None], task: Any, table: Any, config: Any) -> None:
    from tokenizers import Tokenizer

    from mtlcli.data.encoder import TextEncoder, build_tokenizer

    text, kind, settings = _tokenizer(config.model)
    if text is None:
        text = build_tokenizer(task.texts(table.head(TOKENIZER_ROWS)), config.model.vocabulary)
    tokenizer = Tokenizer.from_str(text)
    head = table.head(ROWS)
    encoder = TextEncoder(text, **settings)
    for problem in task.use(encoder, has_decoder=True):
        say(f"warning: {problem}")
    features = task.encode(head, encoder)
    say(f"the first rows of {table.split}, encoded by {kind}", "bold")
    for row in range(len(head)):
        say(f"  {table.where(row)}")
        for column in head.rows.column_names:
            value = head.column(column)[row]
            say(
                f"    {column}: "
                f"{_cut(value if isinstance(value, str) else json.dumps(value, default=str))}"
            )
        for number in [
            index for index, of_row in enumerate(features.columns["row"]) if of_row == row
        ]:
            ids = features.ids[features.offsets[number] : features.offsets[number + 1]]
            tokens = " ".join(str(tokenizer.id_to_token(int(token))) for token in ids)
            say(f"    -> {len(ids)} tokens: {_cut(tokens)}")
            extra = {
                key: " ".join(f"{each:g}" for each in value[number].ravel())
                for key, value in features.columns.items()
                if key != "row"
            }
            say("       " + ", ".join(f"{key} {value}" for key, value in extra.items()))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _tokenizer(model: Any) -> tuple[str | None, str, dict[str, Any]]:
    """Return the content of the model's tokenizer.json, None if it is not on this machine; a
    description of the tokenizer; and the settings of its encoder."""
    from mtlcli.models.files import locate

    folder = Path(locate(model.name)) if model.kind != "scratch" and model.name else None
    if folder is None or not (folder / "tokenizer.json").is_file():
        return (
            None,
            "a tokenizer trained on these rows, as model=tiny does",
            {"uses_segments": True},
        )
    special = (
        json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    end = special.get("sep_token") or special.get("eos_token")
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = {
        "uses_segments": architecture.get("type_vocab_size", 0) > 1,
        "end_token": end["content"] if isinstance(end, dict) else end,
    }
    return (
        (folder / "tokenizer.json").read_text(encoding="utf-8"),
        f"the tokenizer of {model.name}",
        settings,
    )
