"""Arrays that grow piece by piece in .npy files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from mtlcli.data.growing import GrowingArray


@pytest.mark.parametrize(
    "whole", [np.arange(1234, dtype=np.uint16), np.ones((30, 7), np.float32), np.zeros((0, 2))]
)
def test_the_file_is_that_of_the_whole_array(tmp_path: Path, whole: np.ndarray) -> None:
    array = GrowingArray(tmp_path / "grown.npy")
    for piece in np.array_split(whole, [1, 1, 20]):
        array.append(piece)
    array.close()
    expected = io.BytesIO()
    np.save(expected, whole)
    assert (tmp_path / "grown.npy").read_bytes() == expected.getvalue()
