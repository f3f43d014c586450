"""What of every sharing strategy comes out as a graph, as docs/export.md says."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mtlcli.config import sharings
from mtlcli.errors import UserError
from mtlcli.export import graph
from mtlcli.export.export import export_task
from tests.saved_task import rows_of_the_page, saved_task

pytestmark = pytest.mark.skipif(
    any(find_spec(each) is None for each in graph.PACKAGES),
    reason="the extra onnx is not installed",
)


@pytest.mark.skipif(
    "MTL_GRAPHS" not in os.environ,
    reason="takes ten seconds of CPU for each strategy: set MTL_GRAPHS=1",
)
@pytest.mark.parametrize("sharing", sorted(sharings.configs))
def test_graphs_give_the_runs_own_outputs(sharing: str, tmp_path: Path) -> None:
    assert rows_of_the_page()[sharing][1] in ("yes", "untested")
    made = export_task(saved_task(sharing, "squad"), tmp_path / "a", format="onnx")
    assert made.record["difference"] <= 1e-4
    assert made.record["outputs"] == ["start_logits", "end_logits"]


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def depends(self: object, hidden: torch.Tensor, *_: object) -> torch.Tensor:
        return hidden[:, 0] if float(hidden.sum()) > 0 else hidden[:, 1]

    monkeypatch.setattr("mtlcli.models.backbone.Backbone._pool", depends)
    with pytest.raises(UserError, match=r"cannot be exported as onnx: torch cannot trace it \("):
        export_task(saved_task("hard", "cola"), tmp_path / "a", format="onnx")
    assert list(tmp_path.iterdir()) == []
