"""The options of `sharing=rescaled`. The class is in a file of its own, since it needs torch, which
a mistake in a configuration or a TAB must not wait for."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("rescaled", ".trunk:Rescaled")
@section
class RescaledSharing(SharingConfig):
    """One backbone, whose states each task multiplies by a vector of its own."""

    name: Literal["rescaled"] = "rescaled"
    """Strategy."""
