"""What every test is pinned to, whatever machine it runs on: the CPU, one thread, fp32.

A machine with a GPU would otherwise take that, one with instructions for bf16 would choose that
format, and the tests compare numbers to the rounding of fp32. Commands are pinned in
`tests/warm.py`. What is tested in other surroundings on purpose lies in `tests/runs/bf16` and
`tests/runs/gpu`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from absl import logging as absl_logging

from tests.pinned import ENVIRONMENT  # Pins this process; nothing has imported torch yet.

if TYPE_CHECKING:
    from mtlcli.data.encoder import TextEncoder


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests, commands and torch a temporary folder that goes when the tests end."""
    # absl, which rouge-score imports, keeps the stream that was sys.stderr then. It closes that
    # stream when Hydra sets logging up anew, unless it is one of Python's own: pytest's would be
    # gone for all tests to come.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    if hasattr(config, "workerinput"):
        return  # A worker has the environment of the process that shares out the tests.
    folder = tempfile.mkdtemp(prefix="mtl-tests-")
    config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
    # As open as /tmp is. pytest's own folders stay there: `tempfile` has read the environment.
    Path(folder).chmod(0o755)
    for environment in (os.environ, ENVIRONMENT):
        environment |= {"TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}


@pytest.fixture
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tiny model of the architecture family given as parameter."""
    from tests.families import save_family

    save_family(request.param, tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    """A small text encoder."""
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.data.vocabulary import build_tokenizer

    texts = [
        "the cat sat on the mat",
        "a dog ran to the house",
        "she reads a long book",
        "we saw two birds near the river",
    ]
    return TextEncoder(build_tokenizer(texts * 3, 200), uses_segments=True, model_max_length=512)
