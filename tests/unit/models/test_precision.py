"""The number format follows from what the hardware can do, and compiled kernels are bounded by what
is free."""

from __future__ import annotations

import os

import pytest
import torch

from mtlcli.models import precision
from mtlcli.models.precision import bound_kernels, choose_precision, shapes_kept

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"avx2": True}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_tile": True, "amx_bf16": True}, "bf16"),
        ({"amx_tile": True, "amx_int8": True}, "fp32"),
        ({"neon": True, "bf16": True}, "bf16"),
    ],
)
def test_auto_is_bf16_where_the_cpu_has_instructions_for_it(
    flags: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert choose_precision("auto", CPU) == chosen
    assert (choose_precision("fp32", CPU), choose_precision("bf16", CPU)) == ("fp32", "bf16")


def test_kernels_take_a_fifth_of_the_free_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    assert shapes_kept() == -(-1024 // precision.KERNELS_A_SHAPE)
    bound_kernels(300 * 2**20)
    assert (
        int(environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) * precision.KERNEL_BYTES
        <= 300 * 2**20 / 5
    )
    assert shapes_kept() == 4
    bound_kernels(2**50)
    assert shapes_kept() == 4, "what is set stays"
    environment.clear()
    bound_kernels(2**50)
    assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "1024"
    environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "many"
    assert shapes_kept() == -(-1024 // precision.KERNELS_A_SHAPE)
