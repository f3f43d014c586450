"""An ONNX graph of every sharing strategy, as docs/export.md says: of a head that reads tokens, and
of one that reads whole texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlcli.config import sharings
from mtlcli.export.export import export_task
from tests.saved_task import rows_of_the_page, saved_task

OUTPUTS = {"squad": ["start_logits", "end_logits"], "cola": ["logits"]}


@pytest.mark.parametrize("sharing", sorted(sharings.configs))
def test_graphs_give_the_runs_own_outputs(sharing: str, tmp_path: Path) -> None:
    """The graph is traced with a batch of two inputs, and compared on it and on one of three, of
    another length."""
    assert rows_of_the_page()[sharing][1] == "yes"
    for task, names in OUTPUTS.items():
        made = export_task(saved_task(sharing, task), tmp_path / task, format="onnx").record
        assert made["difference"] <= 1e-4 and made["compared"] == 5
        assert made["outputs"] == names
        if made["merged"]:
            # The network is a plain backbone, the same for all such strategies.
            break
