"""Cross-stitch: its limits, the formula against plain loops (also for sluice), what is mixed with
whom, and copies that run at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mtlcli.config.optim import AdamWOptim
from mtlcli.errors import UserError
from mtlcli.models.multitask import MultiTaskModel, Trunk
from mtlcli.sharing.cross_stitch import CrossStitchSharing
from mtlcli.sharing.parts.layers import layer_list
from mtlcli.sharing.sluice import SluiceSharing
from mtlcli.sharing.soft import SoftSharing
from mtlcli.training.optim import build_optimizer
from tests.families import TASKS, family_trunk
from tests.small import small_model
from tests.unit.sharing.training import batch_of

FAMILIES = ["bert", "deberta-v2", "modernbert", "t5", "bart", "gpt2", "llama"]


@cache
def baseline(name: str) -> list[float]:
    """The losses of a strategy without mixing."""
    return trained(name)[1]


def trained(
    sharing: Any, *, trunk_lr: float = 0.002, steps: int = 3
) -> tuple[MultiTaskModel, list[float]]:
    """Plain gradient descent with frozen embeddings, which are one for all tasks here, and with the
    mixing as it is at the start."""
    model, _ = small_model(sharing, frozen_layers=0)
    weights = {
        id(p): p
        for name, p in model.trunk.named_parameters()
        if not name.endswith(("unit", "beta"))
    }
    groups = [
        {"params": list(weights.values()), "lr": trunk_lr},
        {"params": list(model.heads.parameters()), "lr": 0.002},
    ]
    optimizer = torch.optim.SGD(groups)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        for task in model.tasks:
            loss = model(task, batch_of(task, 8 * (step % 4))).loss
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
    return model, losses


@pytest.mark.parametrize(
    "identity",
    [
        CrossStitchSharing(own=1.0),
        CrossStitchSharing(own=1.0, layers=[0]),
        SluiceSharing(own=1.0, last=1.0),
    ],
    ids=str,
)
def test_with_the_identity_it_is_no_sharing(identity: Any) -> None:
    assert trained(identity)[1] == pytest.approx(baseline("none"), abs=2e-6)


def test_the_identity_with_trained_embeddings_is_soft_sharing_without_a_penalty() -> None:
    batches = {task: batch_of(task) for task in TASKS}
    stitched, soft = (
        small_model(CrossStitchSharing(own=1.0))[0],
        small_model(SoftSharing(layers=[0, 1], strength=0.0))[0],
    )
    for task in TASKS:
        one, other = stitched(task, batches[task]).loss, soft(task, batches[task]).loss
        assert one.item() == pytest.approx(other.item(), abs=1e-6)
        one.backward()
        other.backward()
    theirs = dict(soft.named_parameters())
    compared = 0
    for name, parameter in stitched.named_parameters():
        assert parameter.grad is not None
        if name in theirs:
            torch.testing.assert_close(
                parameter.grad.to_dense(), theirs[name].grad.to_dense(), atol=1e-6, rtol=1e-4
            )  # type: ignore[union-attr]
        elif ".stacked." in name:
            before, after = name.split(".stacked.weights.")
            for k, task in enumerate(TASKS):
                gradient = theirs[f"{before}.copies.{task}.{after.replace('/', '.')}"].grad
                assert gradient is not None
                # Copies of a linear map are stored turned round.
                turned = (
                    gradient.mT
                    if parameter.ndim == 3 and parameter.shape[1:] == gradient.mT.shape
                    else gradient
                )
                torch.testing.assert_close(
                    parameter.grad.view(3, -1)[k], turned.flatten(), atol=1e-6, rtol=1e-4
                )
            compared += 1
    assert compared > 20


def test_with_equal_weights_all_streams_are_the_same_and_it_is_hard_sharing() -> None:
    """Each of K copies has a K-th of the gradient: K times the step makes it hard sharing's."""
    model, losses = trained(CrossStitchSharing(own=1 / 3), trunk_lr=0.006)
    assert losses == pytest.approx(baseline("hard"), abs=1e-5)
    shaken(model.trunk, "unit")
    streams = [model.trunk(task, batch_of("cola")).hidden for task in TASKS]
    torch.testing.assert_close(streams[0], streams[1])
    torch.testing.assert_close(streams[0], streams[2])


def shaken(trunk: Trunk, *fixed: str) -> Trunk:
    """The trunk with copies and weights of its own everywhere, but for parameters whose name ends
    in one of `fixed`."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            placed = any(part in name for part in (".stacked.", ".task_copies.", ".unit", ".beta"))
            if placed and not name.endswith(fixed or ("-",)):
                parameter += 0.1 * torch.randn_like(parameter)
    return trunk


def plain(trunk: Any, task: str, batch: Any, family: str, *, subspaces: int) -> Tensor:
    """One stream after the other through single layers of the library, mixed by sums of Python."""
    reference: Any = family_trunk(family, "hard")
    network = reference.backbone.network
    places = [trunk.placed[number] for number in sorted(trunk.placed)]
    layers = layer_list(network)
    units = [place.unit for place in places]
    last = max(number for number, unit in enumerate(units) if unit is not None)
    seen: dict[str, list[Tensor]] = {}

    class Copy(nn.Module):
        """A layer whose input is replaced."""

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer, self.given = layer, None

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("layer"), name)

        def forward(self, hidden: Tensor, *inputs: Any, **more: Any) -> Any:
            output = self.layer(hidden if self.given is None else self.given, *inputs, **more)
            self.out = output[0] if isinstance(output, tuple) else output
            return output

    for number in range(len(layers)):
        layers[number] = Copy(layers[number])
    given: dict[str, Tensor | None] = dict.fromkeys(TASKS)
    for number, place in enumerate(places):
        outputs = {}
        for k, each in enumerate(TASKS):
            for name, parameter in layers[number].layer.named_parameters():
                value = (
                    place.stacked.of(name)[k]
                    if place.task_copies is None
                    else dict(place.task_copies[each].named_parameters())[name]
                )
                parameter.data.copy_(value)
            layers[number].given = given[each]
            reference(task, batch)
            outputs[each] = layers[number].out
        if units[number] is not None:
            width = outputs[task].shape[-1] // subspaces
            parts = [
                outputs[each][..., g * width : (g + 1) * width]
                for each in TASKS
                for g in range(subspaces)
            ]
            mixed = [
                sum(units[number][i, j] * part for j, part in enumerate(parts))
                for i in range(len(parts))
            ]
            outputs = {
                each: torch.cat(mixed[k * subspaces : (k + 1) * subspaces], -1)
                for k, each in enumerate(TASKS)
            }  # type: ignore[arg-type]
        assert number <= last or place.task_copies is not None
        given = dict(outputs)
        for each in TASKS:
            seen.setdefault(each, []).append(outputs[each])
    if hasattr(trunk, "layers"):
        return sum(
            weight * state
            for weight, state in zip(trunk.layers[task].beta, seen[task], strict=True)
        )  # type: ignore[return-value]
    return seen[task][-1]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "bart"])
@pytest.mark.parametrize("layers", ["all", [0]])
@pytest.mark.parametrize("kind", [CrossStitchSharing, SluiceSharing])
def test_it_is_the_formula(family: str, kind: Any, layers: Any) -> None:
    """In families whose last layer's states are the network's."""
    config = kind(layers=layers)
    trunk = shaken(family_trunk(family, config))
    batch = batch_of("stsb", size=4)
    batch.token_type_ids = None
    with torch.no_grad():
        for task in ("cola", "squad"):
            expected = plain(trunk, task, batch, family, subspaces=getattr(config, "subspaces", 1))
            torch.testing.assert_close(trunk(task, batch).hidden, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["all", [0]])
def test_every_family_starts_as_hard_sharing_under_the_identity(family: str, layers: Any) -> None:
    batch = batch_of("stsb")
    batch.token_type_ids = None
    with torch.no_grad():
        ours, theirs = (
            family_trunk(family, s)("stsb", batch)
            for s in (CrossStitchSharing(own=1.0, layers=layers), "hard")
        )
    torch.testing.assert_close(ours.hidden, theirs.hidden)
    torch.testing.assert_close(ours.pooled, theirs.pooled)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_is_that_of_the_layer(family: str) -> None:
    """What leaves a linear map of a copy has 16 bits, as outside of a stack."""
    batch = batch_of("stsb")
    batch.token_type_ids = None
    kinds = []
    found = []
    for sharing in (CrossStitchSharing(own=1.0), "hard"):
        trunk: Any = family_trunk(family, sharing)
        linear = [
            module
            for name, module in trunk.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and "." in name
        ][0]
        linear.register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            found.append(trunk("stsb", batch).hidden)
    assert kinds == [torch.bfloat16, torch.bfloat16]
    torch.testing.assert_close(*found, atol=0.03, rtol=0.05)
    found[0].float().sum().backward()


def test_each_copy_of_t5_has_its_own_position_bias() -> None:
    """The first layer makes it for those above, also for the single copies above the last unit."""
    trunk: Any = family_trunk("t5", CrossStitchSharing(own=1.0, layers=[0]))
    batch = batch_of("stsb")
    batch.token_type_ids = None
    name = next(
        name for name in trunk.placed[0].stacked.weights if "relative_attention_bias" in name
    )
    hard: Any = family_trunk("t5", "hard")
    with torch.no_grad():
        before = {task: trunk(task, batch).hidden for task in TASKS}
        trunk.placed[0].stacked.weights[name][1] += torch.randn_like(
            trunk.placed[0].stacked.weights[name][1]
        )
        hard.get_parameter("backbone.network.block.0." + name.replace("/", ".")).copy_(
            trunk.placed[0].stacked.weights[name][1]
        )
        after = {task: trunk(task, batch).hidden for task in TASKS}
    assert [torch.equal(before[task], after[task]) for task in TASKS] == [True, False, True]
    torch.testing.assert_close(after["stsb"], hard("stsb", batch).hidden)


@pytest.mark.parametrize(
    "config",
    [CrossStitchSharing(layers=[0]), SluiceSharing(layers=[0]), SluiceSharing(layers=[-1])],
    ids=str,
)
def test_a_loss_reaches_exactly_the_parameters_that_users_names(config: Any) -> None:
    model, _ = small_model(config)
    users = model.users()
    assert all(
        users[name] == tuple(model.tasks)
        for name in users
        if ".stacked." in name or name.endswith("unit")
    )
    assert any(".task_copies." in name for name in users) == (config.layers == [0])
    for task in model.tasks:
        model.zero_grad()
        model(task, batch_of(task)).loss.backward()
        reached = {
            name for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        assert reached == {name for name, tasks in users.items() if task in tasks}


def test_mixing_weights_are_reported_and_have_their_own_learning_rate_without_decay() -> None:
    model, weighting = small_model(SluiceSharing(own=0.5, lr=0.03))
    assert model.trunk.measures()["mixing"]["layer 1"]["stsb"] == [
        [0.25, 0, 0.5, 0, 0.25, 0],
        [0, 0.25, 0, 0.5, 0, 0.25],
    ]
    assert model.trunk.measures()["layers"]["cola"] == pytest.approx([0.1, 0.9])
    cross = small_model(CrossStitchSharing(own=0.8))[0].trunk.measures()
    assert cross == {
        "mixing": {
            f"layer {i}": {
                "cola": [0.8, 0.1, 0.1],
                "stsb": [0.1, 0.8, 0.1],
                "squad": [0.1, 0.1, 0.8],
            }
            for i in (0, 1)
        }
    }
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(AdamWOptim(lr=1e-3, weight_decay=0.1), model, weighting).param_groups
    (own,) = [[names[p] for p in group["params"]] for group in groups if group["lr"] == 0.03]
    assert own == [name for name in names.values() if name.endswith(("unit", "beta"))]
    without = {names[p] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {
        name for name in names.values() if "LayerNorm" in name or name.endswith("bias")
    } <= without


def test_dropout_differs_between_copies_and_is_the_same_again() -> None:
    trunk: Any = family_trunk("bert", CrossStitchSharing(own=1.0))
    trunk.train()
    torch.manual_seed(3)
    one = trunk("cola", batch_of("cola")).hidden
    torch.manual_seed(3)
    assert torch.equal(trunk("cola", batch_of("cola")).hidden, one)
    torch.manual_seed(3)
    # All copies are equal: only dropout tells them apart.
    assert not torch.equal(trunk("squad", batch_of("cola")).hidden, one)


def test_frozen_layers_have_no_copies_and_no_unit() -> None:
    trunk: Any = family_trunk("bert", "cross_stitch", frozen=1)
    assert list(trunk.placed) == [1]
    with pytest.raises(UserError, match="layer 0 is frozen"):
        family_trunk("bert", CrossStitchSharing(layers=[0, 1]), frozen=1)
    with pytest.raises(UserError, match="is frozen"):
        family_trunk("bert", "sluice", frozen=2)


def test_layers_that_cannot_run_side_by_side_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.bert.modeling_bert import BertLayer

    forward = BertLayer.forward

    def looks_at_values(self: Any, hidden: Tensor, *inputs: Any, **more: Any) -> Any:
        return forward(self, hidden if hidden.sum().item() else hidden, *inputs, **more)

    monkeypatch.setattr(BertLayer, "forward", looks_at_values)
    with pytest.raises(
        UserError, match=r"the layers of bert cannot run as 3 copies at once[^$]*sharing=soft"
    ):
        family_trunk("bert", "cross_stitch")
