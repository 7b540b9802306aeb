"""Sessions that know the operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort

from latprof.kernels import DOMAIN
from latprof.kernels.build import library


def register(options: ort.SessionOptions, path: Path | None = None) -> ort.SessionOptions:
    """Let sessions with these options run the operators; raises KernelsMissing."""
    options.register_custom_ops_library(str(path or library()))
    return options


def needs_kernels(model: onnx.ModelProto | bytes | str) -> bool:
    """Whether a model, its content or the file of that name uses the operators."""
    if isinstance(model, bytes):
        return DOMAIN.encode() in model and needs_kernels(onnx.ModelProto.FromString(model))
    if isinstance(model, str):
        return needs_kernels(onnx.load(model, load_external_data=False))
    return any(entry.domain == DOMAIN for entry in model.opset_import)
