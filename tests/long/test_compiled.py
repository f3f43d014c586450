"""Compiled layers train as plain ones do: with every sharing strategy, after a break, and beside
whatever else changes a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtlcli.config import sharings
from mtlcli.errors import UserError
from mtlcli.fast.compiled import compile_layers
from mtlcli.fast.low_weights import cast_together
from tests.families import family_backbone
from tests.small_run import cut_off, differences, resume, start
from tests.unit.fast.test_compiled import (
    ON,
    TWO_LAYERS,
    compiler,  # noqa: F401 (a fixture)
    traced,
)
from tests.unit.fast.test_low_weights import gradients
from tests.unit.training.test_update import assert_close

REFUSED = {
    *("cgc", "mmoe", "polytropon", "hydra_lora", "mtl_lora", "task_embedding"),
    *("cross_stitch", "sluice"),
}
OPTIONS = {
    "hierarchical": ["sharing.tasks={cola: 0}"],
    "progressive": ["sharing.stages=[[cola],[stsb,rte]]"],
}


@pytest.mark.parametrize("sharing", sorted(sharings.configs))
def test_every_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: str) -> None:
    few = [TWO_LAYERS, "model.dropout=0", "runner.eval_every=16", "runner.save_every=16"]
    few += [f"sharing={sharing}", "sampling=all", *OPTIONS.get(sharing, [])]
    found = traced(monkeypatch)
    if sharing in REFUSED:
        with pytest.raises(UserError, match="runner.compile: sharing="):
            start(tmp_path / "refused", *few, ON)
        return
    there = start(tmp_path / "compiled", *few, ON)
    assert found
    assert_close(start(tmp_path / "plain", *few), there)


@pytest.mark.parametrize(
    "options",
    [
        ["runner.packing=on", "runner.accumulation=1", "sampling=all"],
        ["weighting=pcgrad", "sampling=all"],
        ["sharing=none", "model.gradient_checkpointing=true"],
        ["augmentation=freelb"],
        ["sharing=mmoe", "sharing.layers=top"],
    ],
    ids=lambda options: options[0],
)
def test_compiled_layers_are_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    few = (TWO_LAYERS, "model.dropout=0", "runner.eval_every=16", "runner.save_every=16", *options)
    plain = start(tmp_path / "plain", *few)
    found = traced(monkeypatch)
    assert_close(plain, start(tmp_path / "compiled", *few, ON))
    assert found


def test_the_code_that_inductor_generates(tmp_path: Path) -> None:
    few = (TWO_LAYERS, "model.dropout=0", "runner.eval_every=16", "runner.save_every=16")
    plain = start(tmp_path / "plain", *few)
    assert_close(plain, start(tmp_path / "compiled", *few, ON))


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", TWO_LAYERS, "runner.steps=8", ON)
    torch._dynamo.reset()
    assert differences(whole, resume(cut_off(whole, "step_00000004", tmp_path / "cut")), 8) == []


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "llama", "t5", "deberta-v2"])
def test_every_family_with_weights_that_are_cast_at_once(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """As on a GPU in bf16, within its rounding."""
    plain, other = (family_backbone(family, "mean").train() for _ in range(2))
    other.load_state_dict(plain.state_dict())
    cast_together(plain)
    found = traced(monkeypatch)
    compile_layers([other], torch.device("cpu"))
    cast_together(other)
    expected, given = gradients(plain), gradients(other)
    assert found and list(other.state_dict()) == list(plain.state_dict())
    assert given.keys() == expected.keys()
    for name, gradient in expected.items():
        # The gradient of a key's bias is nothing but rounding.
        if not ("key" in name and name.endswith("bias")):
            far = (given[name] - gradient).abs().max() / gradient.abs().max()
            assert far < 0.1, name
