"""The choice of templates that a configuration leaves open."""

from __future__ import annotations

import pytest

from mtlcli.config.run import Text
from mtlcli.config.text import settle_templates


@pytest.mark.parametrize(
    ("asked", "pretrained", "from_scratch"),
    [("auto", "all", "none"), ("all", "all", "all"), ("first", "first", "first")],
)
def test_wordings_are_for_models_that_know_words(
    asked: str, pretrained: str, from_scratch: str
) -> None:
    text = Text(templates=asked, beams=3)  # type: ignore[arg-type]
    assert settle_templates(text, pretrained=True) == Text(templates=pretrained, beams=3)  # type: ignore[arg-type]
    assert settle_templates(text, pretrained=False) == Text(templates=from_scratch, beams=3)  # type: ignore[arg-type]
