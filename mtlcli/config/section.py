"""The decorator of every config dataclass: keyword-only, and unknown keys are refused when it is
filled from YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True)
def section(cls: type[T]) -> type[T]:
    """Make `cls` a keyword-only dataclass that pydantic fills strictly."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclass(kw_only=True)(cls)
