"""Checks of this machine's devices without torch, which takes seconds to import."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from mtlcli.config import Config
from mtlcli.errors import Problem

DRIVERS = (
    "/dev/nvidiactl",
    "/dev/nvidia0",
    "/dev/dxg",
    "/dev/kfd",
    "/proc/driver/nvidia/version",
    "/dev/nvhost-gpu",
    "/dev/nvmap",
)
"""Paths made by the drivers of devices that torch calls cuda: NVIDIA's, WSL's, AMD's, and those of
NVIDIA's boards."""
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Environment variables that hide devices when they are empty or -1."""


def missing_device(config: Config) -> list[Problem]:
    """Return why `runner.device=cuda` is not available here, as far as can be known without
    importing torch."""
    if config.runner.device != "cuda":
        return []
    where = "runner.device=cuda"
    hidden = [name for name in HIDING if os.environ.get(name, "0").strip() in ("", "-1")]
    if hidden:
        what = f"{hidden[0]}={os.environ[hidden[0]]} hides every GPU of this machine"
        return [Problem(what, where, f"unset {hidden[0]}, or type runner.device=cpu")]
    if not any(Path(driver).exists() for driver in DRIVERS):
        return [
            Problem(
                "this machine has no GPU, or no driver for it",
                where,
                "type runner.device=cpu, or check the driver (nvidia-smi)",
            )
        ]
    if _built_for_cpu():
        fix = (
            "install a torch that was built for the GPU (https://pytorch.org/get-started), or "
            "type runner.device=cpu"
        )
        return [Problem("the installed torch was built for CPUs alone", where, fix)]
    return []


def _built_for_cpu() -> bool:
    """Return whether torch's version file says that it was built with neither CUDA nor HIP."""
    spec = find_spec("torch")
    version = (
        Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    )
    if version is None or not version.is_file():
        return False
    built = dict(
        re.findall(r"^(cuda|hip)\b.*=\s*(\S+)$", version.read_text(encoding="utf-8"), re.MULTILINE)
    )
    return built == {"cuda": "None", "hip": "None"}
