"""Checks of values that are each valid but do not fit together."""

from __future__ import annotations

from typing import Any

from mtlcli.config import Config
from mtlcli.config.crosscheck.runs import run_problems
from mtlcli.config.crosscheck.tasks import task_problems
from mtlcli.errors import Problem


def crosscheck(config: Config, values: dict[str, Any]) -> list[Problem]:
    """Return the problems of a config whose single values are all valid.

    `values`: the plain values, including tasks that were refused.
    """
    named = values.get("tasks")
    names = list(named) if isinstance(named, dict) else list(config.tasks)
    problems = [
        problem
        for name, task in config.formed_tasks.items()
        for problem in task_problems(name, task, config, names, values)
    ]
    return problems + list(run_problems(config, names))
