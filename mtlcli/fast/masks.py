"""Masks for torch's attention kernel whose numbers nobody reads.

The transformers library leaves the mask of a batch out where no input is padded. To see whether one
is, the host reads the mask, and for that it waits until the GPU has done all that it was given.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import sdpa_mask


def unread_mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """Make a mask as the library's `sdpa_mask` does, but never leave one out that is given."""
    if attention_mask is not None:
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, **options)
    return mask


def leave_masks_unread() -> None:
    """Let all networks of the transformers library in this process make their masks without
    reading."""
    AttentionMaskInterface.register("sdpa", unread_mask)
