"""The one function that fills what a configuration leaves open."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mtlcli.config import Config, Resolved
from mtlcli.config.section import replaced
from mtlcli.config.text import settle_templates
from mtlcli.prepare.prepare import Prepared


@dataclass(frozen=True)
class Machine:
    """What the ranks of a run find out on their devices."""

    devices: int
    """The number of ranks."""
    precision: str
    """The number format of matrix products, `fp32` or `bf16`."""
    pooling: str
    """How the backbone's states become one vector: a choice among those its weights allow."""
    packing: str
    """Whether batches are packed, `on` or `off`."""
    max_tokens: int | None
    """The largest number of padded tokens of a task in a step; None: no bound."""


def resolve(config: Config, prepared: Prepared, machine: Machine) -> Resolved:
    """Return the configuration of a run with every value filled: from the rows (labels, lengths,
    the source), the backbone that was found, and the machine. A later verb, or a resumed run,
    finds nothing to choose again, such as a hub that has become reachable since."""
    pretrained = prepared.files.location is not None
    model, lr = config.model, config.optim.lr
    if lr is None:
        lr = (model.lr if pretrained else model.scratch_lr) * config.optim.relative_lr
        lr *= config.optim.lr_factor
    settled = replaced(
        config,
        {
            "tasks": {name: task.config for name, task in prepared.tasks.items()},
            "init.heads": config.init.heads or [],
            "model.kind": "pretrained" if pretrained else "scratch",
            "model.pooling": machine.pooling,
            "text": settle_templates(config.text, pretrained=pretrained),
            "data.source": prepared.source.default or config.data.source,
            "optim.lr": lr,
            "runner.devices": machine.devices,
            "runner.engine": "ddp" if config.runner.engine == "auto" else config.runner.engine,
            "runner.precision": machine.precision,
            "runner.packing": machine.packing,
            "runner.max_tokens": machine.max_tokens,
            "resume": None,
            "allow": [],
        },
    )
    resolved = Resolved(**{each.name: getattr(settled, each.name) for each in fields(settled)})
    resolved.environment.update(config.environment)
    return resolved
