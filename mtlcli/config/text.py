"""Checks of runs with tasks in the form of text (`form=text`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from string import Formatter

from mtlcli.config import Config, Task
from mtlcli.config.run import Text
from mtlcli.errors import Problem
from mtlcli.registry import suggest

DRAWING = ("temperature", "top_p", "seed")
"""Keys of `text` that say how tokens are drawn."""
SAMPLE = "text.sample=true"


def text_tasks(config: Config) -> dict[str, Task]:
    """Return the tasks of a run that are in the form of text."""
    return {name: task for name, task in config.formed_tasks.items() if task.form == "text"}


def text_problems(config: Config) -> Iterator[Problem]:
    """Yield the problems of a run's tasks in the form of text."""
    tasks = text_tasks(config)
    for name, task in tasks.items():
        yield from _task(name, task, config)
    for name, task in config.tasks.items():
        if task.head in config.tasks and (name in tasks) != (task.head in tasks):
            yield Problem(
                f"the task and '{task.head}', whose head it uses, are not in the same form",
                f"tasks.{name}.form",
                "give both the same form",
            )
    if tasks:
        yield from _run(config, tasks)


def settle_templates(text: Text, *, pretrained: bool) -> Text:
    """Return how a model answers, with its choice of templates made. `pretrained`: whether the
    model has pretrained weights."""
    if text.templates != "auto":
        return text
    return replace(text, templates="all" if pretrained else "none")


def _task(name: str, task: Task, config: Config) -> Iterator[Problem]:
    at = f"tasks.{name}"
    if task.no_text_form is not None:
        yield Problem(
            f"a {task.type} task cannot be put as prompt and answer: {task.no_text_form}",
            f"{at}.form",
            f"type {at}.form=head, or leave the task out",
        )
        return
    for number, template in enumerate(task.templates):
        where = f"{at}.templates[{number}].prompt"
        try:
            named = template_columns(template.prompt)
        except ValueError as error:
            yield Problem(str(error), where, "write {{ and }} for braces that are text")
            continue
        unknown = [column for column in named if column not in task.text_columns]
        if unknown:
            yield Problem(
                f"'{unknown[0]}' is no column of text of the task",
                where,
                suggest(unknown[0], task.text_columns),
            )
        if not named:
            yield Problem(
                "the prompt holds no text of a row",
                where,
                f"name a column in braces: {{{task.text_columns[0]}}}",
            )
    yield from task.text_problems(at)


def template_columns(template: str) -> list[str]:
    """Return the columns that a template names. Raises ValueError when it cannot be read."""
    return [column for _, column in template_pieces(template) if column is not None]


def template_pieces(template: str) -> list[tuple[str, str | None]]:
    """Return the pieces of text of a template, each with the column whose text follows it, or None.
    Raises ValueError when braces are not in pairs, or hold more than a name."""
    pieces = []
    for text, column, form, conversion in Formatter().parse(template.rstrip()):
        if form or conversion:
            raise ValueError(f"'{column}' is followed by a format, which prompts do not have")
        if column is not None and not column.strip():
            raise ValueError("there are braces without the name of a column")
        pieces.append((text, column))
    return pieces


def _run(config: Config, tasks: dict[str, Task]) -> Iterator[Problem]:
    sharing = config.sharing
    if (why := sharing.no_text()) is not None:
        yield Problem(
            f"form=text needs a language model, and sharing={sharing.name} {why}",
            "sharing",
            "type sharing=hard, or form=head",
        )
    if config.text.sample and config.text.beams > 1:
        yield Problem(
            "an answer is drawn token by token, which several beams do not do",
            "text.beams",
            "type text.beams=1, or text.sample=false",
        )
    own = next((name for name, task in tasks.items() if task.own_answers), None)
    if own is not None and config.text.predict == "generated":
        yield Problem(
            f"'{own}' has answers of its own in each row, which are scored and not generated",
            "text.predict",
            "type text.predict=likelihood, normalised or calibrated",
        )
    if config.runner.engine == "fsdp":
        yield Problem(
            "form=text has no shards: the language head reads whole word embeddings",
            "runner.engine",
            "type runner.engine=ddp",
        )


def text_idle(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield every key that has no effect because tasks are, or are not, in the form of text."""
    tasks = text_tasks(config)
    out = "leave it out"
    if not tasks:
        for key in ("templates", "predict", "max_answer", "beams", "sample", *DRAWING):
            yield f"text.{key}", "no task is in the form of text", f"{out}, or type form=text"
    elif all(map(tasks.__contains__, config.tasks)):
        yield "model.pooling", "no task reads a pooled vector (form=text)", out
    if tasks and not any(task.templates for task in tasks.values()):
        yield "text.templates", "no task in the form of text has templates", out
    free = any(task.generated for task in tasks.values())
    if tasks and not free:
        yield "text.max_answer", "all answers are texts of labels or options", out
        if config.text.predict != "generated":
            for key in ("beams", "sample"):
                what = f"no answer is generated (text.predict={config.text.predict})"
                yield f"text.{key}", what, out
    if tasks and not config.text.sample:
        for key in DRAWING:
            yield f"text.{key}", "the most likely tokens are taken", f"{out}, or type {SAMPLE}"
    if tasks and all(task.generated for task in tasks.values()):
        yield "text.predict", "the answers of all tasks are texts that are always generated", out
    for name in config.tasks:
        if name in tasks:
            for key in ("head_layers", "dropout"):
                yield f"tasks.{name}.{key}", "the task has no head of its own (form=text)", out
        else:
            fix = f"{out}, or type tasks.{name}.form=text"
            yield f"tasks.{name}.templates", "the task is not in the form of text", fix
