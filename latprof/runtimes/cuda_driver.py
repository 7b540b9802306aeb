"""Streams, events and a delay on an NVIDIA GPU: from pycuda, or from torch where it is missing.

This is the only file of the profiler that may import torch, and only when asked for a GPU.
Both live in the primary context of the first visible card, the one ONNX Runtime uses;
`latprof/runtimes/ort_cuda.py` makes the device's card the only visible one.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from latprof import DeviceNotHere

_SPIN = """
extern "C" __global__ void spin(long long ticks) {
    long long start = clock64();
    while (clock64() - start < ticks) { }
}
"""
_TICKS_PER_S = 1.5e9  # of a GPU's clock, roughly: a delay need not be exact


class Driver(Protocol):
    """What measuring needs of CUDA; times are seconds."""

    name: str
    card: str  # as CUDA names it
    stream: int  # the handle of a stream of our own, not the null stream
    graph_stream: int  # of another one, for graphs: a capture that fails spoils its stream

    def event(self) -> Any:
        """A timing event, not yet recorded."""

    def record(self, event: Any, graph: bool = False) -> None:
        """Put an event into the stream, or into that of the graphs."""

    def wait(self, event: Any) -> None:
        """Block the host until an event has passed."""

    def between_s(self, first: Any, last: Any) -> float:
        """Seconds from one event to another; both have passed."""

    def delay(self, seconds: float) -> None:
        """Keep the stream busy without touching memory, so that work can queue up behind."""


@cache
def driver() -> Driver:
    """The first of pycuda and torch that works; raises DeviceNotHere saying why none does."""
    faults = []
    makers: Sequence[tuple[str, Callable[[], Driver]]] = (("pycuda", _Pycuda), ("torch", _Torch))
    for name, make in makers:
        try:
            return make()
        except Exception as error:  # each library has its own errors for "no GPU here"
            faults.append(f"{name}: {error or type(error).__name__}")
    raise DeviceNotHere(
        "CUDA events need pycuda (and nvcc) or torch with a working GPU: "
        + "; ".join(faults)
        + ". Try: pip install torch"
    )


class _Pycuda:
    name = "pycuda"

    def __init__(self) -> None:
        import pycuda.driver as cuda
        from pycuda.compiler import SourceModule

        cuda.init()
        self._cuda = cuda
        self.card = cuda.Device(0).name()
        context = cuda.Device(0).retain_primary_context()
        context.push()
        try:
            self._stream, self._graph_stream = cuda.Stream(), cuda.Stream()
            self._spin = SourceModule(_SPIN, no_extern_c=True).get_function("spin")
        except Exception:
            context.pop()
            raise
        atexit.register(context.pop)  # pycuda aborts if a context is left at the end
        self.stream, self.graph_stream = self._stream.handle, self._graph_stream.handle

    def event(self):
        return self._cuda.Event()

    def record(self, event, graph=False) -> None:
        event.record(self._graph_stream if graph else self._stream)

    def wait(self, event) -> None:
        event.synchronize()

    def between_s(self, first, last) -> float:
        return first.time_till(last) / 1e3

    def delay(self, seconds: float) -> None:
        import numpy as np

        ticks = np.int64(seconds * _TICKS_PER_S)
        self._spin(ticks, grid=(1, 1), block=(1, 1, 1), stream=self._stream)


class _Torch:
    name = "torch"

    def __init__(self) -> None:
        import torch

        torch.cuda.init()
        self.card = torch.cuda.get_device_name(0)
        self._torch = torch
        self._stream, self._graph_stream = torch.cuda.Stream(), torch.cuda.Stream()
        self.stream = self._stream.cuda_stream
        self.graph_stream = self._graph_stream.cuda_stream

    def event(self):
        return self._torch.cuda.Event(enable_timing=True)

    def record(self, event, graph=False) -> None:
        event.record(self._graph_stream if graph else self._stream)

    def wait(self, event) -> None:
        event.synchronize()

    def between_s(self, first, last) -> float:
        return first.elapsed_time(last) / 1e3

    def delay(self, seconds: float) -> None:
        with self._torch.cuda.stream(self._stream):
            self._torch.cuda._sleep(int(seconds * _TICKS_PER_S))
