"""Networks in INT8: an exported file calibrated on training images, by ONNX Runtime's quantiser.

The file keeps QuantizeLinear and DequantizeLinear (QDQ): weights are INT8 with a scale for every
output channel, activations UINT8 with one for the tensor. That is what tables in INT8 are of.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from pruner import ExportError
from pruner.data.images import Images
from pruner.train.export import as_read, opened

Calibration = Literal["minmax", "percentile", "entropy"]
ALIKE, OFF = 64, 0.2  # images by which files are compared, and by how much they may differ
_METHODS: dict[Calibration, str] = {
    "minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy",
}  # fmt: skip


class _Reader:
    """Images from all parts of a set, in the batches that a file reads, the last one filled up."""

    def __init__(self, path: Path, images: Images, count: int) -> None:
        (self.entry,) = opened(path).get_inputs()
        size, last = self.entry.shape[0], len(images) - 1
        number = max(1, math.ceil(min(count, len(images)) / size))
        spread = torch.linspace(0, last, number * size).round().long()
        self.left = iter(spread.split(size))
        self.images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        indices = next(self.left, None)
        if indices is None:
            return None
        return as_read(self.entry, self.images.batch(indices)[0])


def quantise_onnx(
    plain: str | Path, out: str | Path, images: Images, count: int, calibration: Calibration
) -> None:
    """Write the network of `plain`, which is FP32, in INT8.

    `images`: training images, without augmentation; `count` of them are looked at, evenly from
    first to last. The file appears only when it is whole.
    """
    plain, out = Path(plain), Path(out)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, _quiet():
        import onnxruntime.quantization as runtimes
        from onnxruntime.quantization.shape_inference import quant_pre_process

        simple, partial = Path(folder) / "simple.onnx", Path(folder) / "partial.onnx"
        onnx.save(_with_pools(onnx.load(plain)), simple)
        quant_pre_process(simple, simple, skip_symbolic_shape=True)
        runtimes.CalibrationDataReader.register(_Reader)
        runtimes.quantize_static(
            simple,
            partial,
            _Reader(simple, images, count),
            calibrate_method=runtimes.CalibrationMethod[_METHODS[calibration]],
            activation_type=runtimes.QuantType.QUInt8,
            weight_type=runtimes.QuantType.QInt8,
            per_channel=True,
        )
        quantised = onnx.load(partial)
        _forget_what_is_not_used(quantised)
        onnx.save(quantised, partial)
        partial.replace(out)


def require_alike_in_int8(
    found: Path, plain: Path, library: Path | None, images: Images, name: str
) -> None:
    """Raise ExportError for a file on the kernels that answers otherwise than its plain ONNX.

    Kernels round sums once where the plain file rounds twice, so answers differ a little: the mean
    square of all differences may be OFF of the answers' own.
    """
    ours, theirs = opened(found, library), opened(plain)
    (entry,) = theirs.get_inputs()
    size = entry.shape[0]
    spread = torch.linspace(0, len(images) - 1, math.ceil(ALIKE / size) * size).round().long()
    off, all_of_it = 0.0, 0.0
    for indices in spread.split(size):
        x = as_read(entry, images.batch(indices)[0])
        for a, b in zip(ours.run(None, x), theirs.run(None, x), strict=True):
            off += float(np.square(a - b).sum())
            all_of_it += float(np.square(b).sum())
    if not off <= OFF**2 * all_of_it:
        raise ExportError(
            f"{found} differs from {plain.name} by {math.sqrt(off / max(all_of_it, 1e-30)):.0%} of "
            f"its answers (allowed: {OFF:.0%}), so {name} was not written"
        )


def _with_pools(model: onnx.ModelProto) -> onnx.ModelProto:
    """A mean over height and width as GlobalAveragePool, which the quantiser knows; in place."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = constants[node.input[1]].tolist()
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if sorted(axes) in ([-2, -1], [2, 3]) and keeps:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    _forget_what_is_not_used(model)
    return model


def _forget_what_is_not_used(model: onnx.ModelProto) -> None:
    """Remove constants that nothing reads, of which the runtime would warn, and operators' domains.

    A file that the runtime has written names every domain that its process knows.
    """
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in read]:
        model.graph.initializer.remove(tensor)
    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the quantiser says to its own developers stays away from users.

    To import it sets up the logging of the whole process, which is put back.
    """
    disabled, root = logging.root.manager.disable, logging.root
    level, handlers = root.level, [*root.handlers]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
