"""Networks that no graph can be made of; tests/long/test_export_graphs.py makes those of every
sharing strategy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mtlcli.errors import UserError
from mtlcli.export import graph
from mtlcli.export.export import export_task
from tests.saved_task import saved_task

pytestmark = pytest.mark.skipif(
    any(find_spec(each) is None for each in graph.PACKAGES),
    reason="the extra onnx is not installed",
)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def depends(self: object, hidden: torch.Tensor, *_: object) -> torch.Tensor:
        return hidden[:, 0] if float(hidden.sum()) > 0 else hidden[:, 1]

    monkeypatch.setattr("mtlcli.models.backbone.Backbone._pool", depends)
    with pytest.raises(UserError, match=r"cannot be exported as onnx: torch cannot trace it \("):
        export_task(saved_task("hard", "cola"), tmp_path / "a", format="onnx")
    assert list(tmp_path.iterdir()) == []
