"""ONNX Runtime on an NVIDIA GPU: whole networks and their layers, timed by CUDA events.

Everything runs on one stream of our own, inputs and outputs bound on the device, and a run does not
synchronise. Three times are taken:

- *stream*: a run as a user makes it. If the host cannot launch kernels as fast as the GPU works
  them off, the host's time is in it, because it is in the user's.
- *graph*: the run captured once as a CUDA graph and replayed; the host launches once.
- *layers*: each fused layer is a session of its own; they run in the network's order, each on its
  predecessor's output, with an event between any two. A kernel that only waits is launched first,
  so that all of them are queued before the first one begins and the GPU never waits for the host.

Sessions of layers are kept by shape, so that the next pruned network opens only what is new.
`cudnn_conv_algo_search` = EXHAUSTIVE picks algorithms by timing them, and may pick others in
another session (ONNX Runtime #22705): whole networks are opened anew for every run of the profile,
so that a table's spread holds that of the search.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import numpy as np
import onnxruntime as ort

from latprof.cuda_driver import driver
from latprof.detect import GRAPH
from latprof.nvml import Monitor
from latprof.onnx_model import NUMPY, LayerModel, layer_models
from lookup_tables.device import Device
from lookup_tables.network import Architecture, Network
from lookup_tables.table import LayerTime

__all__ = ["Instrumented", "Monitor", "Running"]

PROVIDER, MEMORY = "CUDAExecutionProvider", "cuda"
_LONGEST_DELAY_S = 0.05  # by which work is held back while it is queued
_MOST_SESSIONS = 512  # of single layers; each holds weights and a workspace on the card


class Running:
    """A network opened on the GPU and ready to be called again and again."""

    has_graph = True

    def __init__(self, model: bytes | str, feed: dict[str, np.ndarray], device: Device) -> None:
        self._model, self._feed, self._device = model, feed, device
        self._graph: _Bound | None = None
        self._as_graph = device.provider_options.get(GRAPH) == "1"
        self._bound = _Bound(model, feed, device, graph=self._as_graph)
        self._events = driver().event(), driver().event()

    def run_s(self) -> float:
        """Run once, as a stream or a graph, whichever the device says; seconds between events."""
        return self._timed_s(self._bound)

    def graph_s(self) -> float:
        """Replay once as a CUDA graph."""
        if self._graph is None:
            self._graph = (
                self._bound
                if self._as_graph
                else _Bound(self._model, self._feed, self._device, graph=True)
            )
        return self._timed_s(self._graph)

    def _timed_s(self, bound: _Bound) -> float:
        cuda, (before, after) = driver(), self._events
        cuda.record(before)
        bound.run()
        cuda.record(after)
        cuda.wait(after)
        return cuda.between_s(before, after)


class Instrumented:
    """A network as a chain of single layers with a CUDA event between any two."""

    def __init__(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: dict[str, np.ndarray],
        device: Device,
    ) -> None:
        cuda = driver()
        layers = layer_models(network, architecture, device.batch, device.precision)
        tensors = {name: _on_device(value) for name, value in feed.items()}
        self._steps = [_Step(layer, tensors, device) for layer in layers]
        self._events = [cuda.event() for _ in range(len(self._steps) + 1)]
        self._rows: list[np.ndarray] = []
        for step in self._steps:  # the first run of a session searches for algorithms
            step.run()
        self._settle()
        start_s = time.perf_counter()
        for step in self._steps:
            step.run()
        launching_s = time.perf_counter() - start_s
        self._settle()
        self._delay_s = min(1.5 * launching_s + 5e-4, _LONGEST_DELAY_S)

    def run_s(self) -> float:
        """Run the chain once; seconds from its first to its last event."""
        cuda = driver()
        cuda.delay(self._delay_s)
        cuda.record(self._events[0])
        for step, event in zip(self._steps, self._events[1:], strict=True):
            step.run()
            cuda.record(event)
        cuda.wait(self._events[-1])
        pairs = zip(self._events[:-1], self._events[1:], strict=True)
        self._rows.append(np.array([cuda.between_s(a, b) for a, b in pairs]))
        return float(self._rows[-1].sum())

    def layer_times(self, dense_s: np.ndarray, kept: np.ndarray) -> tuple[LayerTime, ...]:
        """Every layer's seconds: the median of its share in the dense network beside it.

        `dense_s`: (rounds,) seconds of the dense network beside the last runs, `kept`: (rounds,)
        which of them count.
        """
        rows = np.array(self._rows[-len(dense_s) :])
        shares = np.median(rows[kept] / dense_s[kept, None], axis=0)
        seconds = shares * float(np.median(dense_s[kept]))
        return tuple(
            LayerTime(layer=step.layer.spec, seconds=float(s), nodes=1)
            for step, s in zip(self._steps, seconds, strict=True)
        )

    def _settle(self) -> None:
        cuda = driver()
        cuda.record(self._events[0])
        cuda.wait(self._events[0])


class _Bound:
    """A session whose inputs and outputs stay on the device."""

    def __init__(
        self, model: bytes | str, feed: dict[str, np.ndarray], device: Device, graph: bool
    ) -> None:
        self._session = _open(model, device, graph)
        self._binding = self._session.io_binding()
        self._tensors = [_on_device(value) for value in feed.values()]
        for name, value in zip(feed, self._tensors, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            value = _empty(
                [n if isinstance(n, int) else device.batch for n in output.shape], device
            )
            self._tensors.append(value)
            self._binding.bind_ortvalue_output(output.name, value)
        self._options = _without_waiting()
        self.run()  # searches for algorithms, captures the graph
        self._binding.synchronize_outputs()

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


class _Step:
    """One layer of the chain: its session, bound to its predecessors' outputs."""

    def __init__(self, layer: LayerModel, tensors: dict, device: Device) -> None:
        self.layer = layer
        self._session = _session_of(layer, device)
        self._binding = self._session.io_binding()
        for name, source in zip(layer.input_names, layer.sources, strict=True):
            self._binding.bind_ortvalue_input(name, tensors[source])
        tensors[layer.name] = _empty(layer.out_shape, device)
        (output,) = self._session.get_outputs()
        self._binding.bind_ortvalue_output(output.name, tensors[layer.name])
        self._tensors = tensors  # keeps the buffers alive
        self._options = _without_waiting()

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


_sessions: OrderedDict[tuple, ort.InferenceSession] = OrderedDict()


def _session_of(layer: LayerModel, device: Device) -> ort.InferenceSession:
    key = (layer.spec, layer.in_shapes, device.model_dump_json())
    if key not in _sessions:
        _sessions[key] = _open(layer.model().SerializeToString(), device, graph=False)
        if len(_sessions) > _MOST_SESSIONS:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key)
    return _sessions[key]


def _open(model: bytes | str, device: Device, graph: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    provider = dict(device.provider_options) | {
        "user_compute_stream": str(driver().stream),
        GRAPH: "1" if graph else "0",
    }
    session = ort.InferenceSession(model, options, providers=[(PROVIDER, provider)])
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError(
            "ONNX Runtime opened the network without its CUDA provider; its libraries are not "
            "complete (see ort.preload_dlls)"
        )
    return session


def _without_waiting() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _on_device(value: np.ndarray) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(value, MEMORY, 0)


def _empty(shape, device: Device) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type(
        list(shape), NUMPY[device.precision], MEMORY, 0
    )
