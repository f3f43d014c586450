"""Task embeddings: hard sharing at the start, the formula, and whose vector learns from whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from mtlcli.sharing.hard import HardSharing
from mtlcli.sharing.task_embedding import TaskEmbeddingSharing
from mtlcli.sharing.task_embedding.trunk import (
    ConditionalEmbedding,
    ConditionalNorm,
    Shift,
    TaskEmbedding,
)
from tests.families import family_backbone, family_batch, family_trunk
from tests.small import small_model

FAMILIES = ["bert", "modernbert", "t5", "gpt2", "llama"]


def trunk_of(family: str, sharing: Any) -> Trunk:
    """Two tasks with heads of their own, and one that borrows."""
    return family_trunk(family, sharing, {"a": "a", "b": "b", "c": "b"})


def shaken(trunk: torch.nn.Module) -> None:
    """Give the maps, zero at first, weights."""
    torch.manual_seed(1)
    for module in trunk.modules():
        if isinstance(module, Shift):
            nn.init.normal_(module.weight, std=0.4)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_hard_sharing_and_becomes_something_else(family: str) -> None:
    hard, trunk = trunk_of(family, HardSharing()), trunk_of(family, TaskEmbeddingSharing(size=4))
    batch = family_batch()
    assert torch.equal(hard("a", batch).hidden, trunk("a", batch).hidden)
    assert torch.equal(hard("b", batch).pooled, trunk("b", batch).pooled)
    shaken(trunk)
    one, other, borrower = (trunk(task, batch).hidden for task in "abc")
    assert not torch.allclose(one, other) and torch.equal(other, borrower)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_embeddings_are_shifted_by_linear_maps_of_the_vector(family: str) -> None:
    """Against the plain network, in whose parameters the shifts have been written."""
    trunk = trunk_of(family, TaskEmbeddingSharing(size=4))
    shaken(trunk)
    plain = family_backbone(family).network
    vector = trunk.vectors["b"].values  # type: ignore[index, union-attr]
    norms = 0
    with torch.no_grad():
        for name, module in trunk.backbone.network.named_modules():  # type: ignore[union-attr, operator]
            if isinstance(module, ConditionalNorm):
                norms += 1
                for key, shift in module.shifts.items():
                    plain.get_parameter(f"{name}.{key}").add_(shift.weight @ vector / 4)  # type: ignore[operator]
            elif isinstance(module, ConditionalEmbedding):
                plain.get_input_embeddings().weight.add_(module.shift.weight @ vector / 4)  # type: ignore[operator, arg-type]
        batch = family_batch()
        # Two layers with two norms each, and one below or above them.
        assert norms >= 4
        assert torch.allclose(
            Backbone(plain, "mean").eval()(batch).hidden, trunk("b", batch).hidden, atol=1e-5
        )


@pytest.mark.parametrize(
    ("conditions", "kind"), [("embeddings", ConditionalEmbedding), ("norms", ConditionalNorm)]
)
def test_either_condition_works_alone(conditions: str, kind: type) -> None:
    trunk = trunk_of("bert", TaskEmbeddingSharing(conditions=conditions))  # type: ignore[arg-type]
    kinds = {type(module) for module in trunk.modules()} & {ConditionalEmbedding, ConditionalNorm}
    assert kinds == {kind}
    shaken(trunk)
    assert not torch.allclose(trunk("a", family_batch()).hidden, trunk("b", family_batch()).hidden)


def test_a_vector_learns_from_its_own_task_alone() -> None:
    trunk = trunk_of("bert", TaskEmbeddingSharing())
    shaken(trunk)
    trunk("a", family_batch()).pooled.square().sum().backward()
    assert trunk.vectors["a"].values.grad.abs().sum() > 0  # type: ignore[index, union-attr]
    assert trunk.vectors["b"].values.grad is None  # type: ignore[index, union-attr]


def test_vectors_learn_where_the_backbone_is_frozen() -> None:
    model, _ = small_model("task_embedding", frozen_layers=2)
    trained = {
        name for name, parameter in model.trunk.named_parameters() if parameter.requires_grad
    }
    assert {name.split(".")[-2] for name in trained} >= {"shift", "weight", "bias", "cola"}
    assert not any(name.endswith("norm.weight") for name in trained)


def test_statistics_describe_every_task() -> None:
    trunk = trunk_of("llama", TaskEmbeddingSharing(size=4))
    assert trunk.measures() == {"shift": {"a": 0.0, "b": 0.0}, "cosines": [[0.0, 0.0], [0.0, 0.0]]}
    shaken(trunk)
    with torch.no_grad():
        trunk.vectors["b"].values.copy_(-2 * trunk.vectors["a"].values)  # type: ignore[index, union-attr]
    found = trunk.measures()
    assert found["shift"]["b"] == pytest.approx(2 * found["shift"]["a"], rel=1e-5)
    assert found["cosines"][0] == pytest.approx([1, -1], rel=1e-5)


def test_a_network_without_norms_is_refused() -> None:
    def bare() -> Backbone:
        backbone = family_backbone("bert")
        for module in list(backbone.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(module, name, nn.Identity())
        return backbone

    with pytest.raises(UserError, match="no norms"):
        TaskEmbedding(TaskEmbeddingSharing(), bare, {"a": "a"})
