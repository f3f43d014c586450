"""A run that begins with the weights of another run (`init.from`): what it takes, to the bit; that
it needs the other run no more; and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config.snapshot import load_config
from mtlcli.errors import UserError
from tests.ranks import begin
from tests.small_run import cut_off, differences, resume, start

STILL = ("runner.steps=1", "runner.eval_every=1", "optim.lr=1e-50", "optim.warmup=0")
"""One step that leaves every number as it is."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cola, stsb and rte."""
    place = tmp_path_factory.mktemp("init") / "source"
    return start(place, "runner.steps=4", "runner.eval_every=4")


def weights(run: Path, step: int = 1) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def unlike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    return sorted(key for key in found if not torch.equal(found[key], expected[key]))


def test_what_is_taken(source: Path, tmp_path: Path) -> None:
    run = start(tmp_path / "run", *STILL, "task=[rte,sst2]", f"init.from={source}", "seed=5")
    before, after = weights(source, 4), weights(run)
    new = {key for key in after if key.startswith("heads.sst2.")}
    assert new == after.keys() - before.keys()
    assert unlike({key: after[key] for key in after.keys() - new}, before) == []
    config = load_config(run / "config.yaml")
    assert (config.init.from_, config.init.heads) == (str(source), ["rte"])
    shown = (run / "log.txt").read_text()
    assert "taken     the shared part, head of rte" in shown
    assert "new heads sst2 (the run has no task of this name)" in shown
    assert "left      the task cola, the task stsb" in shown
    record = json.loads((run / "environment.json").read_text())["init"]
    assert (record["run"], record["checkpoint"]) == (str(source), "step_00000004")
    # The optimiser and the step begin anew.
    assert json.loads((run / "results.json").read_text())["step"] == 1

    fresh = start(
        tmp_path / "fresh", *STILL, "task=rte", f"init.from={source}", "init.heads=[]", "seed=5"
    )
    assert unlike(weights(fresh), before) == [
        key for key in sorted(weights(fresh)) if key.startswith("heads.") and "weight" in key
    ]


def test_it_goes_on_to_the_bit_without_the_source(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "source")
    options = ("task=[rte,sst2]", f"init.from={tmp_path / 'source'}", "sharing=adapters")
    whole = start(tmp_path / "whole", *options, "runner.steps=8")
    shutil.rmtree(tmp_path / "source")
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert differences(whole, again, 8) == []
    with pytest.raises(UserError, match="init.from: .* cannot be changed in a run that has begun"):
        resume(whole, f"init.from={source}")


def test_two_ranks_with_shards(source: Path, tmp_path: Path) -> None:
    more = ("task=[cola,rte]", "runner.engine=fsdp", "model.dropout=0", *STILL)
    process = begin(tmp_path / "run", *more, f"init.from={source}")
    assert process.wait(100) == 0, process.stderr
    assert unlike(weights(tmp_path / "run"), weights(source, 4)) == []


def test_another_model_is_refused_before_anything_is_made(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run", f"init.from={source}", "model.hidden=32", "model.layers=2")
    assert [problem.what for problem in caught.value.problems] == [
        "the run asks for 2, and the run of init.from has 1",
        "the run asks for 32, and the run of init.from has 16",
    ]
    shutil.copytree(source, tmp_path / "damaged")
    with (tmp_path / "damaged/checkpoints/step_00000004/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(UserError, match="model.safetensors does not match its SHA-256"):
        start(tmp_path / "run", f"init.from={tmp_path / 'damaged/checkpoints/step_00000004'}")
    with pytest.raises(UserError, match="there is no folder"):
        preflight(read_arguments(["-m", "task=cola,rte", f"init.from={tmp_path / 'none'}"]))
    assert not (tmp_path / "run").exists()
