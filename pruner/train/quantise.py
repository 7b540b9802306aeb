"""Networks in INT8: an exported file calibrated on training images, by ONNX Runtime's quantiser.

The file keeps QuantizeLinear and DequantizeLinear (QDQ): weights are INT8 with a scale for every
output channel, activations UINT8 with one for the tensor. That is what tables in INT8 are of.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from pruner import ExportError
from pruner.data.images import Images, batches
from pruner.train.export import as_read, opened

Calibration = Literal["minmax", "percentile", "entropy"]
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
assert {*_METHODS} == {*get_args(Calibration)}


class _Reader(CalibrationDataReader):
    """Some images, in the batches that a file reads; a last batch that is not full is left out."""

    def __init__(self, path: Path, images: Images, count: int) -> None:
        (self.entry,) = opened(path).get_inputs()
        self.size = self.entry.shape[0]
        self.left = batches(images, self.size, count)

    def get_next(self):
        for x, _ in self.left:
            if len(x) == self.size:
                return as_read(self.entry, x)
        return None


def quantise_onnx(
    plain: str | Path, out: str | Path, images: Images, count: int, calibration: Calibration
) -> None:
    """Write the network of `plain`, which is FP32, in INT8.

    `images`: training images, without augmentation; the first `count` of them are looked at. The
    file appears only when it is whole. Raises ExportError for fewer images than a batch has.
    """
    plain, out = Path(plain), Path(out)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, _quiet():
        simple, partial = Path(folder) / "simple.onnx", Path(folder) / "partial.onnx"
        quant_pre_process(plain, simple, skip_symbolic_shape=True)
        reader = _Reader(simple, images, count)
        if len(images) < reader.size:
            raise ExportError(
                f"{out}: calibrating needs a batch of {reader.size} images, and there are "
                f"{len(images)}"
            )
        quantize_static(
            simple,
            partial,
            reader,
            calibrate_method=_METHODS[calibration],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        onnx.checker.check_model(partial)
        partial.replace(out)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the quantiser says to its own developers stays away from users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
