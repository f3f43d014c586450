"""The stages of `mtl train`: runs that follow one another, such as joint training and then
fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.task import Task
from mtlcli.errors import Problem
from mtlcli.registry import suggest

OF_THE_WHOLE = ("stages", "run_dir", "resume", "allow", "sweep", "seed")
"""Keys and sections that belong to all stages together."""


@section
class Stage:
    """A stage: one run, or one for each of several tasks."""

    from_: str | None = None
    """An earlier stage, whose run this one begins with (`init.from`); if that stage has a run for
    each task, there is one run for each of them, and if its runs are in order, the last counts.
    Null: the runs begin as `mtl train` does."""
    tasks: Literal["all", "first", "rest"] | list[str] = "all"
    """The tasks of the stage: all of the command line, the first of them, the others, or those that
    are named. Tasks that use the head of another go with it."""
    runs: Literal["together", "each", "in_order"] = "together"
    """`together`: one run trains the tasks. `each`: a run for each task. `in_order`: a run for each
    task, in the order of the tasks. It begins with the run before it, the first with `from`, and
    has the tasks of that run, too; a sampling policy and an augmentation say what becomes of
    them."""
    length: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Length of the runs as a share of `runner.steps` of the command line, or of `runner.epochs`.
    It has no effect where `set` has one of them."""
    lr: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Factor of the learning rate of the command line, or of the one that suits the model. It has
    no effect where `set` has `optim.lr` or `optim.lr_factor`."""
    compared: bool = True
    """Whether its runs are compared with those of the first stage."""
    set: dict[str, Any] = field(default_factory=dict)
    """Keys and choices of this stage's runs, as those of `mtl train`; they take the place of the
    same on the command line."""


def subset(tasks: Mapping[str, Task], names: list[str]) -> list[str]:
    """Return the tasks with these names and those that use their heads, in the order of `tasks`."""
    return [name for name, task in tasks.items() if name in names or task.head in names]


def tasks_of(stage: Stage, tasks: Mapping[str, Task]) -> list[str]:
    """Return the tasks with heads of their own that a stage is about."""
    own = [name for name, task in tasks.items() if task.head is None]
    if isinstance(stage.tasks, list):
        return stage.tasks
    return {"all": own, "first": own[:1], "rest": own[1:]}[stage.tasks]


def _choices(name: str, before: list[str]) -> str:
    return suggest(name, before) if before else "leave it out in the first stage"


def stage_problems(stages: Mapping[str, Stage], tasks: Mapping[str, Task]) -> Iterator[Problem]:
    """Yield what is wrong with stages in a command line with these tasks."""
    before: dict[str, bool] = {}
    """Earlier stage -> whether it has several runs of one kind."""
    for name, stage in stages.items():
        at = f"stages.{name}"
        if stage.from_ is not None and stage.from_ not in before:
            what = f"there is no earlier stage '{stage.from_}'"
            yield Problem(what, f"{at}.from", _choices(stage.from_, list(before)))
        elif stage.from_ is not None and before[stage.from_] and stage.runs != "together":
            what = f"{stage.from_} has several runs, from each of which one run can begin"
            yield Problem(what, f"{at}.runs", "type together")
        if not before and not stage.compared:
            what = "the first stage is what the others are compared with"
            yield Problem(what, f"{at}.compared", "leave it out")
        before[name] = stage.runs == "each" or before.get(stage.from_ or "", False)
        own = tasks_of(stage, tasks)
        known = [each for each, task in tasks.items() if task.head is None]
        for each in own:
            if each not in known:
                what = f"there is no task '{each}' with a head of its own"
                yield Problem(what, f"{at}.tasks", suggest(each, known))
        if stage.runs == "each" and len(known) == 1:
            what = "there is one task, and a run for each task is made of several"
            yield Problem(what, f"{at}.runs", "name several in task=[A,B]")
        if not own:
            yield Problem("there is no task for it", f"{at}.tasks", "name several in task=[A,B]")
        if stage.runs == "in_order" and own != [each for each in known if each in own]:
            what = f"the order of the tasks is that of the command line: {', '.join(known)}"
            yield Problem(what, f"{at}.tasks", "name the tasks in this order, in both places")
        for key in stage.set:
            if key in (*OF_THE_WHOLE, "experiment", "task"):
                fix = f"type {at}.tasks" if key == "task" else "take it out"
                yield Problem("cannot be set in a single stage", f"{at}.set.{key}", fix)
        if stage.from_ is not None and (stage.set.get("init") or {}).get("from"):
            what = f"the stage begins with {stage.from_}"
            yield Problem(what, f"{at}.set.init.from", f"take it out, or type {at}.from=null")
