"""A task's model as an ONNX graph, which runs without Python: with any number of inputs of any
length, and on request with the weights of its matrix products in 8 bits."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.errors import UserError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writing and checking a graph needs: the extra `onnx`."""
WHOLE = 1_800_000_000
"""The most bytes of weights that are put into the file of the graph itself: it may have 2 GB. More
go into a file beside it."""


def require_packages() -> None:
    """Raise UserError when a package for ONNX is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"ONNX needs the package {missing[0]}, which is not installed",
            "--format onnx",
            "type pip install 'mtlcli[onnx]'",
        )


def write_graph(
    network: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], file: Path
) -> None:
    """Write a network, called with the values of `inputs`, as a graph. `outputs`: their names.

    Raises NotImplementedError with the reason, as a clause, when torch cannot trace the network.
    """
    size = sum(each.nbytes for each in network.state_dict().values())
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with _quiet():
        try:
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                file,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: batch, 1: length} for _ in inputs),
                dynamo=True,
                external_data=size > WHOLE,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise NotImplementedError(f"torch cannot trace it ({reason[0][:160]})") from error


def quantise(file: Path, to: Path) -> None:
    """Write a graph whose matrices are whole numbers of 8 bits, scaled for each output, while
    states are scaled anew for each input (dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(file, to, weight_type=QuantType.QInt8, per_channel=True)


def run_graph(file: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return what onnxruntime computes with a graph on the CPU. Raises NotImplementedError with the
    reason, as a clause, when it cannot."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    read = {each.name for each in session.get_inputs()}
    given = {name: each.numpy() for name, each in inputs.items() if name in read}
    try:
        found: list[Any] = session.run(None, given)
    except Exception as error:  # The classes that it raises have no other base.
        reason = str(error).splitlines()[0][:160]
        raise NotImplementedError(f"onnxruntime cannot run its graph ({reason})") from error
    return [torch.from_numpy(each) for each in found]


@contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep what torch and onnxruntime print about their own work off the user's screen."""
    levels = {
        name: logging.getLogger(name).level
        for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")
    }
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
