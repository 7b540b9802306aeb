"""ONNX Runtime on this processor with kernels of our own for pruned networks.

The dense network stays what a user has today, plain ONNX in plain ONNX Runtime; a pruned one is
rewritten for the block-sparse operators (`latprof/kernels`), and its layers may leave out weights.
"""

from __future__ import annotations

import onnx

from latprof import DeviceNotHere
from latprof.kernels import BLOCKS, VERSION, KernelsMissing
from latprof.kernels.build import about, library
from latprof.kernels.convert import convert
from latprof.kernels.encode import BYTES_BLOCK
from latprof.runtimes.base import BLOCK_SPARSE, SPARSE_RUNTIME, Usage
from latprof.runtimes.ort_cpu import OrtCpu
from lookup_tables.device import BLOCK_OPTION, Device


class OrtSparse(OrtCpu):
    """The registry's entry. The processor is asked for as `cpu`, or by its name."""

    name = "onnxruntime-cpu-sparse"
    summary = "the same, pruned networks on block-sparse kernels"
    runtime = SPARSE_RUNTIME

    def identify(self, asked: str, usage: Usage) -> Device | None:
        plain = super().identify(asked.removesuffix(self._suffix(usage)), usage)
        if plain is None:
            return None
        if usage.block not in BLOCKS:
            raise DeviceNotHere(
                f"--block {usage.block}: expected one of {', '.join(map(str, BLOCKS))}"
            )
        if usage.precision == "int8" and usage.block != BYTES_BLOCK:
            raise DeviceNotHere(f"--block {usage.block}: INT8 kernels have blocks of {BYTES_BLOCK}")
        try:
            built = about(library())
        except KernelsMissing as error:
            raise DeviceNotHere(f"sparse layers cannot be measured here: {error}") from None
        kernels = {
            "kernels": BLOCK_SPARSE,
            "kernels_version": VERSION,
            BLOCK_OPTION: str(usage.block),
            "instructions": built.instructions,
            "flags": built.flags,
        }
        changes = {
            "name": plain.name + self._suffix(usage),
            "runtime": self.runtime,
            "provider_options": kernels,
        }
        return plain.model_copy(update=changes)

    def options(self, device: Device) -> list[str]:
        return [*super().options(device), "--kernels", BLOCK_SPARSE, "--block", str(device.block)]

    def deployed(self, model: bytes, device: Device) -> bytes:
        assert device.block is not None, "identify gives every device of this runtime a block"
        return convert(onnx.ModelProto.FromString(model), device.block).SerializeToString()

    @staticmethod
    def _suffix(usage: Usage) -> str:
        return f"_sparse{usage.block}"
