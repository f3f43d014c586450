"""Compiled layers train as the plain ones do, within rounding; evaluation takes the plain ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor
from torch._inductor.exc import CppCompileError

from mtlcli.errors import RunError, UserError
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.fast import compiled
from tests.small_run import start
from tests.unit.training.test_update import assert_close

ON = "runner.compile=on"
TWO_LAYERS = "model.layers=2"

NONE = {"cpp.cxx": ("no-such-compiler",)}
"""The settings of torch's compiler where there is no other."""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """torch's own settings afterwards, and no code of other tests before."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield


def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let torch trace layers, forward and backward, but generate no code, which takes longer.
    Returns a list that will hold what has been traced."""
    found = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(compiled, "BACKEND", backend)
    return found


def test_compiled_layers_are_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run whose batches have many shapes. Its model can then be evaluated where there is no
    compiler, with the same scores."""
    options = (TWO_LAYERS, "model.dropout=0", "sampling=proportional", "runner.eval_every=16")
    plain = start(tmp_path / "plain", *options, "runner.save_every=16")
    found = traced(monkeypatch)
    run = start(tmp_path / "compiled", *options, "runner.save_every=16", ON)
    assert_close(plain, run)
    assert found
    results = json.loads((run / "results.json").read_text())
    with inductor.patch(NONE):
        assert evaluate_path(run)["tasks"] == results["tasks"]


def test_layers_of_one_kind_share_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("task=rte", "runner.steps=2", "model.pooling=mean", ON)
    counts = []
    for layers in (1, 3):
        torch._dynamo.reset()
        found = traced(monkeypatch)
        start(tmp_path / str(layers), *few, f"model.layers={layers}")
        counts.append(len(found))
    assert counts[0] == counts[1] > 0


def test_what_cannot_be_compiled_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, what in (
        (["sharing=mmoe"], "puts modules into the layers"),
        (["sharing=cross_stitch"], "copies of a layer at once"),
        (["runner.fast=off"], "the plain path has no compiled layers"),
        (["runner.engine=fsdp"], "outside of compiled code"),
    ):
        with pytest.raises(UserError) as caught:
            start(tmp_path / options[0], *options, ON)
        assert what in str(caught.value)
    with inductor.patch(NONE), pytest.raises(UserError, match="there is no C"):
        start(tmp_path / "none", ON)

    def fails(graph: Any, inputs: Any) -> Any:
        raise CppCompileError(["g++"], "what.h: No such file\nx.cpp:1:10: fatal error: what.h")

    monkeypatch.setattr(compiled, "BACKEND", fails)
    with pytest.raises(RunError, match="cannot compile a layer .BertLayer.*fatal error: what.h"):
        start(tmp_path / "fails", TWO_LAYERS, ON)
