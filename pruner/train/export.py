"""Export: a PyTorch model becomes an ONNX file that computes the same."""

from __future__ import annotations

import copy
import logging
import os
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruner import ExportError

Precision = Literal["fp32", "fp16", "int8"]
INPUT, OUTPUT = "input", "output"
OPSET = 18
# Largest difference, relative to the largest output.
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}


def export_onnx(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    path: str | Path,
    batch: int = 1,
    precision: Precision = "fp32",
) -> float:
    """Write (batch, *input_shape) → outputs as ONNX and compare it with the model numerically.

    In `fp16` inputs, weights and outputs are half-precision floats. Returns the largest difference
    relative to the largest output; raises ExportError if it exceeds TOLERANCE, and for `int8`. The
    file appears only when it is right.
    """
    if precision not in TOLERANCE:
        raise ExportError(f"{path}: networks are exported in {' or '.join(TOLERANCE)}")
    path = Path(path)
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    dtype = torch.float16 if precision == "fp16" else torch.float32
    partial = path.with_suffix(".partial.onnx")
    example = torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(0))
    # The exporter may print what it does, and answers go to standard output.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing a user can mend
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            copy.deepcopy(model).to(dtype),
            (example.to(dtype),),
            partial,
            input_names=[INPUT],
            output_names=_output_names(model, example),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    difference = largest_difference(model, partial, input_shape)
    require_alike(difference, partial, path.name, precision)
    os.replace(partial, path)
    return difference


def require_alike(difference: float, found: Path, name: str, precision: Precision = "fp32") -> None:
    """Raise ExportError for a file `found` that is too far from PyTorch to be called `name`."""
    if not difference <= TOLERANCE[precision]:  # also refuses NaN
        raise ExportError(
            f"{found} differs from PyTorch by {difference:.2e} of the largest output (allowed: "
            f"{TOLERANCE[precision]:.0e}), so {name} was not written"
        )


def _output_names(model: nn.Module, example: Tensor) -> list[str]:
    """`output`, or `output_0`, `output_1`, … of a model with several."""
    with torch.inference_mode():
        count = len(tensors_of(model(example)))
    return [OUTPUT] if count == 1 else [f"{OUTPUT}_{number}" for number in range(count)]


def as_read(entry: ort.NodeArg, x: Tensor) -> dict[str, np.ndarray]:
    """Images in the precision of a file's input."""
    dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
    return {entry.name: x.numpy().astype(dtype)}


def opened(path: str | Path, library: str | Path | None = None) -> ort.InferenceSession:
    """An ONNX file in ONNX Runtime; `library`: of operators that it uses."""
    options = ort.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def largest_difference(
    model: nn.Module,
    path: str | Path,
    input_shape: tuple[int, int, int],
    runs: int = 8,
    library: str | Path | None = None,
) -> float:
    """Largest |ONNX − PyTorch| over random inputs, relative to the largest value of its output.

    Of all outputs the worst; raises ExportError where their numbers or shapes differ. `library`: of
    operators that the file uses.
    """
    session = opened(path, library)
    (entry,) = session.get_inputs()
    batch = entry.shape[0]
    inputs = torch.randn(runs * batch, *input_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in tensors_of(model.eval()(inputs))]
    rows = [session.run(None, as_read(entry, x)) for x in inputs.split(batch)]
    found = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    if [each.shape for each in found] != [each.shape for each in expected]:
        raise ExportError(
            f"{path} returns {_shapes(found)}, but the model returns {_shapes(expected)}; the "
            "export is rejected"
        )
    return max(
        float(np.abs(f - e).max() / max(np.abs(e).max(), np.finfo(np.float32).tiny))
        for f, e in zip(found, expected, strict=True)
    )


def tensors_of(answer) -> list[Tensor]:
    """All tensors of a model's answer, in the order in which ONNX has them as outputs."""
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]


def _shapes(outputs: list[np.ndarray]) -> str:
    return ", ".join("×".join(map(str, each.shape)) for each in outputs)
