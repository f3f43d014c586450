"""Checks of what tasks and sharing strategies need from the family of the model."""

from __future__ import annotations

from collections.abc import Iterator

from mtlcli.config import Config
from mtlcli.config.run import Family, Model
from mtlcli.config.text import text_tasks
from mtlcli.errors import Problem


def known_family(model: Model) -> Family | None:
    """Return the family of a model that is built from scratch; None for one that may be pretrained,
    whose files say it."""
    return model.architecture if model.kind == "scratch" else None


def family_problems(config: Config, family: Family, key: str) -> Iterator[Problem]:
    """Yield the reasons why a run cannot have a model of a family. `key`: what chooses the
    model."""
    texts = text_tasks(config)
    if texts and family == "encoder":
        yield Problem(
            "an encoder cannot answer in text, as form=text needs it",
            key,
            "type model=tiny_decoder or model=tiny_t5, or model=gpt2 or model=t5, or form=head",
        )
    if family != "decoder":
        return
    for name, task in config.tasks.items():
        if task.needs_both_sides:
            yield Problem(
                f"tasks.{name} hides tokens (type: {task.type}), and the model reads from left to "
                "right: it does not see what follows them",
                key,
                "choose an encoder (model=bert, roberta, deberta, modernbert), or leave the task "
                "out",
            )
    # An encoder-decoder reads the prompt once: what a strategy adds is no part of its decoder.
    if texts and not config.sharing.generates:
        at = "text.predict" if config.text.predict == "generated" else None
        at = at or next((f"tasks.{name}" for name, task in texts.items() if task.generated), None)
        if at is not None:
            yield Problem(
                f"answers are generated there, token by token, and sharing={config.sharing.name} "
                "has no states of earlier tokens to go on from",
                at,
                "type sharing=hard or sharing=lora, choose an encoder-decoder (model=t5, tiny_t5), "
                "or leave the task out"
                if at.startswith("tasks")
                else "type text.predict=likelihood, or sharing=hard",
            )
