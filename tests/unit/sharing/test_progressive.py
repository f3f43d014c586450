"""Progressive networks: what earlier stages learned stays, lateral connections, and the order of
the stages, also with distillation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mtlcli.rundir import checkpoint
from mtlcli.sharing.hard import HardSharing
from mtlcli.sharing.parts.layers import layer_list
from mtlcli.sharing.progressive import ProgressiveSharing
from mtlcli.sharing.progressive.trunk import Lateral
from mtlcli.sharing.progressive_distill import ProgressiveDistillSharing
from mtlcli.training.trained_parameters import TrainedParameters
from tests.families import family_batch, family_trunk
from tests.small import small_model
from tests.small_run import differences, resume, start

ORDER = {"a": "a", "b": "b", "c": "c"}


def shaken(module: torch.nn.Module, seed: int = 1) -> None:
    """Move every weight."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


# ------------------------------------------------------------------------------------------------
# columns


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "gpt2", "llama"])
def test_every_column_begins_as_the_backbone(family: str) -> None:
    hard, trunk = (
        family_trunk(family, HardSharing(), ORDER),
        family_trunk(family, ProgressiveSharing(), ORDER),
    )
    for task in ORDER:
        assert torch.equal(trunk(task, family_batch()).hidden, hard(task, family_batch()).hidden)


def test_a_column_goes_on_from_the_one_before_it() -> None:
    trunk = family_trunk("bert", ProgressiveSharing(), ORDER)
    shaken(trunk.columns["stage0"])  # type: ignore[index, union-attr, arg-type]
    assert not torch.allclose(trunk("b", family_batch()).hidden, trunk("a", family_batch()).hidden)
    third = trunk("c", family_batch()).hidden
    trunk.enter(1, anew=True)
    assert torch.equal(trunk("b", family_batch()).hidden, trunk("a", family_batch()).hidden)
    assert torch.equal(trunk("c", family_batch()).hidden, third)
    shaken(trunk.columns["stage1"])  # type: ignore[index, union-attr, arg-type]
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.enter(1, anew=False)
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())


def outputs_of_layers(
    column: Any, laterals: list[Any] | None, beside: list[list[Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """A plain BERT's layers one by one: what each gives, and what goes up from the last.

    `beside`: for each earlier column what its layers gave.
    """
    network, batch = column.network, family_batch()
    mask = torch.zeros(3, 1, 1, 7).masked_fill(
        ~batch.attention_mask[:, None, None, :], torch.finfo(torch.float32).min
    )
    states = network.embeddings(input_ids=batch.input_ids)
    given = []
    for number, placed in enumerate(layer_list(network)):
        states = placed.layer(states, mask)  # type: ignore[operator, union-attr]
        states = states[0] if isinstance(states, tuple) else states
        given.append(states)
        if laterals is not None:
            lateral = laterals[number]
            read = torch.cat(
                [scale * each[number] for scale, each in zip(lateral.scales, beside, strict=True)],
                -1,
            )
            inner = (read @ lateral.down.weight.T + lateral.down.bias).clamp(min=0)
            states = states + inner @ lateral.up.weight.T + lateral.up.bias
    return given, states


def test_lateral_connections_are_those_of_the_formula() -> None:
    trunk = family_trunk("bert", ProgressiveSharing(size=5), ORDER)
    shaken(trunk)
    with torch.no_grad():
        beside: list[list[Tensor]] = []
        for number, task in enumerate(ORDER):
            column = trunk.columns[f"stage{number}"]  # type: ignore[index, union-attr, operator]
            laterals = [module for module in column.modules() if isinstance(module, Lateral)]
            assert len(laterals) == (2 if number else 0)
            given, top = outputs_of_layers(column, laterals or None, beside)
            beside.append(given)
            assert torch.allclose(trunk(task, family_batch()).hidden, top, atol=1e-5)
    assert not torch.allclose(trunk("b", family_batch()).hidden, trunk("c", family_batch()).hidden)


def test_tasks_of_a_stage_share_its_column() -> None:
    model, _ = small_model(ProgressiveSharing(stages=[["cola", "squad"], ["stsb"]]))
    users = model.users()
    columns = {
        name.split(".")[2]: tasks for name, tasks in users.items() if name.startswith("trunk")
    }
    assert columns == {"stage0": ("cola", "squad"), "stage1": ("stsb",)}
    assert model.trunk.measures() == {"stage": 0, "laterals": {"1": [1.0]}}


def test_earlier_columns_get_no_gradient_and_are_read_without_dropout() -> None:
    trunk = family_trunk("bert", ProgressiveSharing(), ORDER)
    shaken(trunk)
    for module in trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    trunk.train()
    seen: list[Tensor] = []
    lowest = layer_list(trunk.columns["stage0"].network)[0]  # type: ignore[index, union-attr, operator, arg-type]
    lowest.layer.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr, operator]
    for _ in range(2):
        trunk("b", family_batch()).pooled.sum().backward()
    assert torch.equal(*[each[0] if isinstance(each, tuple) else each for each in seen])
    assert all(module.training for module in trunk.modules())
    reached = {
        name.split(".")[1]
        for name, parameter in trunk.named_parameters()
        if parameter.grad is not None
    }
    assert reached == {"stage1"}


# ------------------------------------------------------------------------------------------------
# the run

RUN = [
    "sharing.stages=[[cola],[stsb,rte]]",
    "sharing.lengths=[6]",
    "logger.every=1",
]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> dict[str, Tensor]:
    return load_file(folder / f"checkpoints/step_{step:08d}/model.safetensors")


@pytest.mark.parametrize(
    ("sharing", "kept"),
    [
        ("progressive", ["trunk.columns.stage0.", "heads.cola."]),
        ("progressive_distill", ["heads.cola."]),
    ],
)
def test_a_run_changes_stages_as_configured_and_resumes_in_each(
    tmp_path: Path, sharing: str, kept: list[str]
) -> None:
    options = [*RUN, f"sharing={sharing}", "sampling=all"]
    whole = start(tmp_path / "whole", *options)
    found = rows(whole)
    assert [sorted(row["tasks"]) for row in found] == [["cola"]] * 6 + [["rte", "stsb"]] * 10
    assert [row["sharing"]["stage"] for row in found] == [0] * 6 + [1] * 10
    # The rate rises anew and falls to nothing in each stage.
    assert (
        found[0]["lr"] == found[6]["lr"] == 0
        and found[5]["lr"] < found[2]["lr"]
        and found[15]["lr"] < found[9]["lr"]
    )
    # Neither weight decay nor momentum moves what is done with; the rest moved on.
    earlier, later = weights(whole, 6), weights(whole, 16)
    names = [name for name in earlier if name.startswith(tuple(kept))]
    assert names and all(torch.equal(earlier[name], later[name]) for name in names)
    moved = [name for name in earlier if not torch.equal(earlier[name], later[name])]
    assert any(name.startswith("trunk.") for name in moved) and any(
        name.startswith("heads.stsb") for name in moved
    )
    # Before the first switch nothing else has moved.
    first = weights(whole, 2)
    assert all(
        torch.equal(first[name], earlier[name])
        for name in first
        if name.startswith(("trunk.columns.stage1.", "heads.rte."))
    )
    # What is held to are the weights with which the stage began, to its end.
    taught = {
        name.removeprefix("trunk.then/").replace("/", "."): value
        for name, value in later.items()
        if name.startswith("trunk.then/")
    }
    assert bool(taught) == (sharing == "progressive_distill")
    for name, value in taught.items():
        place = f"trunk.backbone.{name}"
        assert torch.equal(value, earlier[place]) and (
            value.ndim == 1 or not torch.equal(value, later[place])
        ), name
    # From inside each stage, and from the very step of the switch. tests/runs/resume does so with
    # columns.
    for step in (4, 6, 10) if sharing == "progressive_distill" else ():
        broken = tmp_path / f"from_{step}"
        shutil.copytree(whole, broken)
        for folder in checkpoint.folders(broken / "checkpoints"):
            if int(folder.name[-8:]) > step:
                shutil.rmtree(folder)
        resume(broken)
        assert differences(whole, broken) == [], step


def test_a_plateau_ends_a_stage(tmp_path: Path) -> None:
    """Without a learning rate to speak of no evaluation is better than the first: one more, and the
    stage is over."""
    options = [
        "sharing=progressive",
        "sharing.patience=1",
        "runner.eval_every=2",
        "optim.lr=1e-12",
        "logger.every=1",
    ]
    whole = start(tmp_path / "whole", *options)
    found = rows(whole)
    assert [(next(iter(row["tasks"])), row["sharing"]["stage"]) for row in found] == [
        *[("cola", 0)] * 4,
        *[("stsb", 1)] * 4,
        *[("rte", 2)] * 4,
    ], "the last stage ends the run"
    assert "stopped: 1 evaluation without a better average" in (whole / "log.txt").read_text()


@pytest.mark.parametrize("kind", [ProgressiveSharing, ProgressiveDistillSharing])
def test_shared_parameters_are_those_of_the_stages_tasks(kind: type) -> None:
    model, _ = small_model(kind(stages=[["cola", "squad"], ["stsb"]]))
    first, second = (TrainedParameters(model, tasks) for tasks in (["cola", "squad"], ["stsb"]))
    names = {parameter: name for name, parameter in model.named_parameters()}
    shared = {names[parameter] for parameter in first.shared}
    trunk = "trunk.columns.stage0." if kind is ProgressiveSharing else "trunk.backbone."
    assert shared == {name for name in names.values() if name.startswith(trunk)}
    # A stage with one task shares nothing, even where all tasks have the same backbone.
    assert second.shared == [] and list(second.private) == ["stsb"]
    trunk = trunk.replace("stage0", "stage1")
    assert {names[parameter] for parameter in second.private["stsb"]} == {
        name for name in names.values() if name.startswith((trunk, "heads.stsb."))
    }


def test_balancing_leaves_earlier_columns_alone(tmp_path: Path) -> None:
    options = [
        "sharing=progressive",
        "weighting.last_layers=1",
        "sharing.stages=[[cola,stsb],[rte,sst2]]",
        "task=[cola,stsb,rte,sst2]",
        "weighting=mgda",
        "sampling=all",
    ]
    whole = start(tmp_path / "whole", *RUN, *options)
    earlier, later = weights(whole, 6), weights(whole, 16)
    assert all(
        torch.equal(earlier[name], later[name])
        for name in earlier
        if name.startswith("trunk.columns.stage0.")
    )
    assert rows(whole)[-1]["gradients"]["tasks"] == ["rte", "sst2"]
