"""Export: a PyTorch model becomes an ONNX file that computes the same."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from pruner.errors import ExportError

INPUT, OUTPUT = "input", "output"
OPSET = 18
TOLERANCE = 1e-3  # largest difference, relative to the largest output


def export_onnx(
    model: nn.Module, input_shape: tuple[int, int, int], path: str | Path, batch: int = 1
) -> float:
    """Write (batch, *input_shape) → outputs as ONNX and compare the two numerically.

    Returns the largest difference relative to the largest output; raises ExportError if it
    exceeds TOLERANCE. The file appears only when it is right.
    """
    path = Path(path)
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    partial = path.with_suffix(".partial.onnx")
    example = torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing a user can mend
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            model,
            (example,),
            partial,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    difference = largest_difference(model, partial, input_shape)
    if not difference <= TOLERANCE:  # also refuses NaN
        raise ExportError(
            f"{partial} differs from PyTorch by {difference:.2e} of the largest output (allowed: "
            f"{TOLERANCE:.0e}); it was not accepted as {path.name}"
        )
    os.replace(partial, path)
    return difference


def largest_difference(
    model: nn.Module, path: str | Path, input_shape: tuple[int, int, int], runs: int = 8
) -> float:
    """Largest |ONNX − PyTorch| over random inputs, relative to the largest output."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]
    inputs = torch.randn(runs * batch, *input_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.eval()(inputs).numpy()
    found = np.concatenate([session.run(None, {INPUT: x.numpy()})[0] for x in inputs.split(batch)])
    return float(np.abs(found - expected).max() / np.abs(expected).max())
