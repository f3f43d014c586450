"""Checks of a run whose devices each hold a shard of every parameter (`runner.engine=fsdp`)."""

from __future__ import annotations

from collections.abc import Iterator

from mtlcli.config import Config, weightings
from mtlcli.config.crosscheck.versions import torch_before
from mtlcli.errors import Problem


def shard_problems(config: Config) -> Iterator[Problem]:
    """Check what cannot work where each device holds a shard of every parameter."""
    at, whole = "runner.engine", "type runner.engine=ddp"
    if not weightings.implementation(config.weighting.name).needs_one_gradient():
        yield Problem(
            f"fsdp adds the gradients of all tasks up while they are computed, and "
            f"weighting={config.weighting.name} needs the step's losses or gradients for its "
            "weights",
            at,
            f"{whole}, or a weighting that knows its weights before the step, for example "
            "weighting=static",
        )
    if config.sampling.needs_gradients:
        yield Problem(
            f"fsdp does not keep gradients for the measurements of sampling={config.sampling.name}",
            at,
            f"{whole}, or another sampling",
        )
    if (why := config.sharing.unshardable()) is not None:
        yield Problem(
            f"fsdp cuts parameters into shards, and sharing={config.sharing.name} {why}", at, whole
        )
    if not config.optim.shardable:
        yield Problem(
            f"fsdp cuts parameters into shards, and optim={config.optim.name} needs whole ones",
            at,
            f"{whole}, or optim=adamw",
        )
    for key in ("probe", "affinity"):
        if getattr(config.logger, key) is not None:
            yield Problem(
                "fsdp does not keep the gradients of the tasks apart",
                f"logger.{key}",
                f"leave it out, or {whole}",
            )
    if config.runner.compile == "on":
        yield Problem(
            "fsdp puts the weights of a layer together outside of compiled code",
            "runner.compile",
            f"leave it out, or {whole}",
        )
    if config.runner.packing == "on":
        yield Problem(
            "fsdp takes one task after the other, in padded batches",
            "runner.packing",
            f"leave it out, or {whole}",
        )
    if config.runner.max_tokens == "auto":
        yield Problem(
            "fsdp has no measurement of what fits into memory",
            "runner.max_tokens",
            "type a number, or null",
        )
    if torch_before((2, 13)):
        yield Problem(
            "fsdp needs torch 2.13 or later", at, f"type pip install --upgrade torch, or {whole}"
        )
