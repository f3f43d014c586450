"""The machine that tests see: no GPU, one thread, fp32, no window."""

from __future__ import annotations

import os
from collections.abc import Sequence

# The processes of pytest-xdist are started from a process that sees no GPU any more.
GPUS = os.environ.get("MTL_TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
"""The user's choice of GPUs, for tests in `tests/runs/gpu`."""
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MTL_TEST_GPUS": GPUS,
}
"""The environment of every command that a test starts."""
FORMAT = "runner.precision=fp32"
TALK = ("-h", "--help", "--hydra-help", "--version", "-v", "--info", "-i")


def arguments_of(arguments: Sequence[str]) -> list[str]:
    """The arguments of `mtl`, with fp32 for a training run that names no number format."""
    verb, *rest = arguments or [""]
    free = any(each.lstrip("+").startswith("runner.precision=") or each in TALK for each in rest)
    return list(arguments) if verb != "train" or free else [verb, FORMAT, *rest]


# The window of whoever runs the tests; a test that needs a width gives one.
for each in ("COLUMNS", "LINES"):
    os.environ.pop(each, None)
    ENVIRONMENT.pop(each, None)
os.environ.update(ENVIRONMENT)
