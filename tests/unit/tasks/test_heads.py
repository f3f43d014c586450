"""Shapes, first weights and dropout of the heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtlcli.tasks.base import Encoded
from mtlcli.tasks.heads import PooledHead, SpanHead


def encoded(batch: int = 3, length: int = 5, hidden: int = 64) -> Encoded:
    torch.manual_seed(0)
    return Encoded(
        torch.randn(batch, length, hidden),
        torch.randn(batch, hidden),
        torch.ones(batch, length, dtype=torch.bool),
    )


def test_shapes() -> None:
    assert PooledHead(64, 4, 0.1, layers=1)(encoded())["logits"].shape == (3, 4)
    outputs = SpanHead(64, 0.1)(encoded())
    assert outputs["start"].shape == outputs["end"].shape == (3, 5)


@pytest.mark.parametrize("head", [PooledHead(512, 200, 0.1, layers=1), SpanHead(4096, 0.1)])
def test_weights_start_as_in_bert(head: nn.Module) -> None:
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(linear.weight.mean().item()) < 0.002
        assert linear.bias.abs().sum() == 0


def test_a_dense_head_is_tanh_between_two_linear_layers_and_a_plain_one_is_linear() -> None:
    inputs = encoded()
    dense, plain = PooledHead(64, 2, 0.5, layers=1).eval(), PooledHead(64, 2, 0.5, layers=0).eval()
    first, last = (module for module in dense.modules() if isinstance(module, nn.Linear))
    assert torch.allclose(dense(inputs)["logits"], last(torch.tanh(first(inputs.pooled))))
    (only,) = (module for module in plain.modules() if isinstance(module, nn.Linear))
    assert torch.allclose(plain(inputs)["logits"], only(inputs.pooled))


@pytest.mark.parametrize(
    "head", [PooledHead(64, 2, 0.5, layers=0), PooledHead(64, 2, 0.5, layers=1), SpanHead(64, 0.5)]
)
def test_dropout_acts_in_training_only(head: nn.Module) -> None:
    inputs = encoded()
    name = next(iter(head(inputs)))
    assert not torch.equal(head(inputs)[name], head(inputs)[name])
    head.eval()
    assert torch.equal(head(inputs)[name], head(inputs)[name])
