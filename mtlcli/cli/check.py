"""The verb `mtl check`, which shows a task and everything that is wrong with its rows; `mtl tasks
NAME` shows the same. This module does not import torch."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli import commands
from mtlcli.cli.groups import GroupFile, read_file, read_group
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config import METHODS
from mtlcli.config.formats import TASK_FILES, split_name
from mtlcli.config.missing import nearest_path
from mtlcli.config.own_code import import_folder
from mtlcli.config.paths import typed_path
from mtlcli.config.task import named_columns
from mtlcli.data.draw import draw
from mtlcli.errors import UserError, count_of
from mtlcli.registry import suggest

ROWS = 3
"""The number of table rows of a task that are shown."""
LONGEST = 160
"""The number of characters of a value, and of an encoded input, that are shown."""
TOKENIZER_ROWS = 2000
"""The number of table rows on which a tokenizer is trained for the preview, when the model has none
on this machine."""
MEASURED_ROWS = 5000
"""The number of table rows of a split whose lengths are measured."""
NO_LIMIT = 100_000
"""The limit of tokens with which lengths are measured."""
BAR = 30
"""The width of the longest bar of a histogram."""

HELP = """\
Look at the rows of a task: sizes, labels, lengths in tokens, repeated rows, mistakes.

usage: mtl check NAME|FILE.yaml [-cd DIR] [KEY=VALUE ...]

  mtl check reviews.yaml                     your own task, from its file
  mtl check reviews.yaml model=minilm        lengths in the tokens of that model
  mtl check rte data=sample                  a built-in task

The exit code is 2 if the task cannot be trained; every reason is told with its row.
"""


def task_arguments(verb: str, argv: list[str]) -> tuple[list[str], list[str], Path | None] | None:
    """Return what was typed after `mtl check` or `mtl tasks`: the names, the overrides and the
    folder of `-cd`, whose methods are imported; None if help is asked for."""
    parser = Parser(prog=verb, add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        return None
    names = [word for word in arguments.rest if "=" not in word]
    overrides = [word for word in arguments.rest if "=" in word]
    own: Path | None = arguments.config_dir
    if own is not None and (problems := config_dir_problems(own)):
        raise UserError(problems)
    for line in import_folder(own) if own is not None else ():
        print(line, file=sys.stderr)
    return names, overrides, own


def check_main(argv: list[str]) -> int:
    """Run `mtl check` and return the exit code."""
    read = task_arguments("mtl check", argv)
    if read is None:
        print(HELP, end="")
        return 0
    names, overrides, own = read
    if len(names) != 1:
        found = f"found {len(names)}: {' '.join(names)}" if names else "none is given"
        raise UserError(f"one task is checked, and {found}", fix="mtl check NAME or FILE.yaml")
    if names[0].endswith(TASK_FILES):
        show_path(names[0], overrides, own)
        return 0
    files = choices("task", own)
    file = chosen(names[0], files)
    if file.suite:
        raise UserError(f"'{names[0]}' is a suite", fix=suggest("", file.suite))
    show_task(names[0], file, overrides, own)
    return 0


def chosen(name: str, files: dict[str, GroupFile]) -> GroupFile:
    """Return the file of a task or suite. Raises UserError when there is none of this name, or it
    cannot be used."""
    if name not in files:
        if split_name(Path(name)) is not None:
            raise UserError(
                f"'{name}' is a file of rows, and a task file is needed, which names its columns",
                fix=f"this writes one: mtl new task {shlex.quote(name)}",
            )
        raise UserError(f"unknown task '{name}'", fix=suggest(name, files))
    if (problem := files[name].problem) is not None:
        raise UserError(problem)
    return files[name]


def choices(group: str, own: Path | None) -> dict[str, GroupFile]:
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


def show_path(path: str, overrides: list[str], own: Path | None) -> None:
    """Show the task of a file that is given by its path. Raises UserError as `show_task` does."""
    from mtlcli.cli.task_files import task_path, unusable_file

    file = task_path(path)
    if not file.is_file():
        raise UserError("there is no such file", path, nearest_path(file))
    found = read_file(file)
    if problems := [*([found.problem] if found.problem else []), *unusable_file(file)]:
        raise UserError(problems)
    if found.suite:
        fix = "name one of them: mtl check NAME"
        raise UserError(f"the file is a suite of {len(found.suite)} tasks", path, fix)
    show_task(path, found, overrides, own)


def show_task(name: str, file: GroupFile, overrides: list[str], own: Path | None) -> None:
    """Show a task: sizes, labels, lengths in tokens, doubtful rows and a few encoded rows. Raises
    UserError with every reason for which it cannot be trained. `name`: its name, or the path of its
    file."""
    from mtlcli.config.text import settle_templates
    from mtlcli.data.source import open_source
    from mtlcli.prepare.checks import check_tables
    from mtlcli.screen import screen
    from mtlcli.tasks.base import build_tasks

    config = _compose(name, file, overrides, own)
    # The rows below are shown in the templates of the file, which a pretrained model would read.
    tasks = build_tasks(config.formed_tasks, settle_templates(config.text, pretrained=True))
    # A file's header can give its task another name.
    typed, name = name, name if name in tasks else next(iter(tasks))
    task = tasks[name]
    task.config = replace(task.config, max_length=task.config.max_length or config.data.max_length)
    source = open_source(config.data, config.tasks, config.seed)
    if task.head_owner is not None and task.head_owner.config.splits.train:
        task.head_owner.prepare(
            source.read(
                task.head_owner.name,
                task.head_owner.config.splits.train,
                task.head_owner.labelled,
                inputs=task.head_owner.compared_columns,
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
            tables[split] = source.read(name, split, task.labelled, inputs=task.compared_columns)
        except UserError as error:
            # Test splits are often not published, so a missing one is no mistake.
            if role == "test":
                absent[split] = error.problems[0].what
            else:
                problems += [problem for problem in error.problems if problem not in problems]
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
    for line in filter(None, (source.left_out(), *source.removed(), source.drawn())):
        say(line)
    for doubt in doubts.get(name, []):
        say(f"warning: {doubt}")
    problems += found
    if problems:
        raise UserError(problems)
    filled = {split: table for split, table in tables.items() if len(table)}
    if filled:
        tokens = _Tokens(task, next(iter(filled.values())), config)
        for problem in task.use(tokens.encoder, has_decoder=True):
            say(f"warning: {problem}")
        _show_classes(say, task, filled.get(splits.train or ""))
        _show_lengths(say, task, filled, tokens)
        _show_rows(say, task, next(iter(filled.values())), tokens)
    say(f"nothing stands in its way: mtl train {commands.setting('task', typed)}")


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
        style=style(),
    )
    for split, role in roles.items():
        if split in tables:
            made.add_row(split, role, f"{len(tables[split]):,}", _label_counts(task, tables[split]))
        elif split in absent:
            made.add_row(split, role, "-", absent[split])
    return made


def style() -> dict[str, Any]:
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


class _Tokens:
    """The tokenizer with which a task is looked at. `table`: rows to train one on, where the model
    has none on this machine."""

    def __init__(self, task: Any, table: Any, config: Any) -> None:
        from tokenizers import Tokenizer

        from mtlcli.data.encoder import TextEncoder
        from mtlcli.data.vocabulary import build_tokenizer

        text, self.kind, settings = _tokenizer(config.model)
        if text is None:
            texts = task.texts(table.head(TOKENIZER_ROWS))
            text = build_tokenizer(texts, config.model.vocabulary)
        self.tokenizer = Tokenizer.from_str(text)
        self.encoder = TextEncoder(text, **settings)


def _show_classes(say: Callable[..., None], task: Any, train: Any) -> None:
    """Say what share the most frequent class of train has."""
    targets = None if train is None else task.targets(train)
    if targets is None or not task.classes or targets.ndim != 1:
        return
    counts = np.bincount(targets[targets >= 0], minlength=len(task.classes))
    most = int(counts.argmax())
    share = counts[most] / max(counts.sum(), 1)
    say(f"balance: {100 * share:.0f}% of the labels in train are {task.classes[most]}")


def _show_lengths(
    say: Callable[..., None], task: Any, tables: dict[str, Any], tokens: _Tokens
) -> None:
    """Show how long inputs are, how many are longer than the task allows, and a histogram of the
    first split."""
    say(f"lengths in tokens, by {tokens.kind}", "bold")
    limit = task.max_length
    # Measured without the limit, so that what is cut is counted too.
    task.config = replace(task.config, max_length=NO_LIMIT)
    try:
        for number, (split, table) in enumerate(tables.items()):
            some = table
            if len(table) > MEASURED_ROWS:
                some = table.select(draw(len(table), MEASURED_ROWS, key="lengths"))
            lengths = np.diff(task.encode(some, tokens.encoder).offsets)
            long = int(np.count_nonzero(lengths > limit))
            half, most = np.quantile(lengths, [0.5, 0.95], method="higher")
            of = f" (of {len(some):,} rows drawn)" if some is not table else ""
            say(
                f"  {split}: {lengths.min()} to {lengths.max()}, half of them up to {half}, 95% up "
                f"to {most}; {long:,} of {len(lengths):,} ({100 * long / len(lengths):.1f}%) are "
                f"longer than max_length={limit}{of}"
            )
            if number == 0:
                for line in _histogram(lengths):
                    say(f"    {line}")
    finally:
        task.config = replace(task.config, max_length=limit)


def _histogram(lengths: Any) -> list[str]:
    """Return a line with a bar for each range of lengths, whose ends double."""
    ends = 2 ** np.arange(3, 18)
    places = np.searchsorted(ends, lengths)
    counts = np.bincount(places)
    return [
        f"up to {ends[place]:>6,}  {'#' * round(BAR * counts[place] / counts.max()):<{BAR}}  "
        f"{counts[place]:,}"
        for place in range(places.min(), places.max() + 1)
    ]


def _show_rows(say: Callable[..., None], task: Any, table: Any, tokens: _Tokens) -> None:
    head = table.head(ROWS)
    features = task.encode(head, tokens.encoder)
    say(f"the first rows of {table.split}, encoded by {tokens.kind}", "bold")
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
            words = " ".join(str(tokens.tokenizer.id_to_token(int(token))) for token in ids)
            say(f"    -> {len(ids)} tokens: {_cut(words)}")
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
    from mtlcli.models.find import locate

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
