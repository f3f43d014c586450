"""A small text encoder for the tests of task types."""

from __future__ import annotations

import pytest

from mtlcli.data.encoder import TextEncoder, build_tokenizer

TEXTS = [
    "the cat sat on the mat",
    "a dog ran to the house",
    "she reads a long book",
    "we saw two birds near the river",
]


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    return TextEncoder(build_tokenizer(TEXTS * 3, 200), uses_segments=True, model_max_length=512)
