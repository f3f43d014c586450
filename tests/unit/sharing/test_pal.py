"""Projected attention layers; what they have in common with adapters is in test_adapters.py."""

from __future__ import annotations

import torch

from mtlcli.models.forward_pass import ForwardPass, running
from tests.unit.sharing.test_adapters import shaken, trunk


def test_pal_adds_its_formula() -> None:
    ours = trunk("pal", "bert")
    shaken(ours)
    layer = next(module for module in ours.modules() if hasattr(module, "attentions"))
    states = torch.randn(1, 6, 32)
    mask = torch.tensor([[True, True, True, True, False, False]])
    with torch.no_grad(), running(ForwardPass([("one", 1)], mask)):
        added = layer(states) - layer.inner(states)  # type: ignore[operator]
        low = states[0] @ ours.encoders["one"].weight.T  # type: ignore[union-attr, index]
        project = layer.attentions["one"].project  # type: ignore[union-attr, index]
        query, key, value = (low @ project.weight.T + project.bias).chunk(3, -1)
        parts = []
        for columns in (slice(0, 4), slice(4, 8)):
            scores = query[:, columns] @ key[:, columns].T / 2
            parts.append(scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value[:, columns])
        expected = torch.cat(parts, -1) @ ours.decoders["one"].weight.T  # type: ignore[union-attr, index]
    assert torch.allclose(added[0], expected, atol=1e-5)
