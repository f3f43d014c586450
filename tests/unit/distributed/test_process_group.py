"""What a user reads of an error that only means that another rank is gone."""

from __future__ import annotations

import pytest

from mtlcli.distributed.process_group import is_lost_rank, lost_rank_text

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] "


@pytest.mark.parametrize(
    "text",
    [
        f"{GLOO}Connection closed by peer",
        f"{GLOO}Connection closed by peer. This is typically an out-of-memory kill",
        # What a hook of DistributedDataParallel adds.
        f"Got the following error when running the callback: RuntimeError: {GLOO}Connection closed "
        "by peer\n\nAt:\n  engine.py(243): <lambda>\n",
    ],
)
def test_only_what_has_happened_is_shown(text: str) -> None:
    error = RuntimeError(text)
    assert is_lost_rank(error) and lost_rank_text(error) == "Connection closed by peer"
