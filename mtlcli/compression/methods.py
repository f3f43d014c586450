"""The methods of `mtl compress` and their options. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from mtlcli.merging.methods import Option


@dataclass(frozen=True)
class Method:
    """What the command has to know about a method."""

    about: str
    """What it does, in one line."""
    options: dict[str, float]
    """Its options, each with its default."""


METHODS = {
    "heads": Method(
        "attention heads that matter least are removed (Michel et al. 2019)",
        {"remove": 0.5, "rows": 256, "seed": 0},
    ),
    "int8": Method("the matrices of the layers in 8 bits, by torchao", {}),
}

OPTIONS = {
    "remove": Option("share of all attention heads that is removed", 0.001, 0.999),
    "rows": Option("rows of each task's train split that heads are judged by", 1, 1e7, whole=True),
    "seed": Option("seed of what is drawn", 0, 2**31, whole=True),
}
