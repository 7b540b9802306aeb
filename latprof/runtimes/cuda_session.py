"""ONNX Runtime on an NVIDIA GPU: whole networks and their layers, timed by CUDA events.

Everything runs on a stream of our own, graphs on another; inputs and outputs are bound on the
device, and a run does not synchronise. Three times are taken:

- *stream*: a run as a user makes it. If the host cannot launch kernels as fast as the GPU works
  them off, the host's time is in it, because it is in the user's.
- *graph*: the run captured once as a CUDA graph and replayed; the host launches once.
- *layers*: each fused layer is a session of its own; they run in the network's order, each on its
  predecessor's output, with an event between any two. A kernel that only waits is launched first,
  so that all of them are queued before the first one begins and the GPU never waits for the host.

Sessions of layers are kept by shape, so that the next pruned network opens only what is new. Layers
of one shape in one network have a session each: with one for all, the second would find its weights
in the cache, as it does in no network.
`cudnn_conv_algo_search` = EXHAUSTIVE picks algorithms by timing them, and may pick others in
another session (ONNX Runtime #22705): whole networks are opened anew for every run of the profile,
so that a table's spread holds that of the search.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter, OrderedDict
from contextlib import redirect_stdout
from functools import cached_property

import numpy as np
import onnxruntime as ort

from latprof import CannotRun, DeviceNotHere
from latprof.machine.load import Waits
from latprof.onnx.writer import NUMPY, LayerModel, layer_models
from latprof.runtimes.base import GRAPH, Feed
from latprof.runtimes.cuda_driver import driver
from latprof.runtimes.nvml import Monitor
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.errors import ContractError
from lookup_tables.network import Network
from lookup_tables.noise import Timing
from lookup_tables.table.rows import LayerTime

__all__ = ["Instrumented", "Monitor", "Running"]

PROVIDER, MEMORY = "CUDAExecutionProvider", "cuda"
STREAM = "user_compute_stream"
_LONGEST_DELAY_S = 0.5  # by which work is held back while it is queued
_UNCAPTURED = 2  # runs before a graph is captured
_TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip
_MOST_SESSIONS = 512  # of single layers; each holds weights and a workspace on the card


class Running:
    """A network opened on the GPU and ready to be called again and again."""

    def __init__(self, model: bytes | str, feed: Feed, device: Device) -> None:
        """Raises DeviceNotHere where CUDA runs on another card, CannotRun for the runtime's no."""
        _require_card(device)
        self._model, self._feed, self._device = model, feed, device
        as_graph = device.provider_options.get(GRAPH) == "1"
        try:
            self._bound = _Bound(model, feed, device, as_graph)
        except ContractError:
            raise
        except Exception as error:  # the runtime's own kinds have no common name
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            way = "as a CUDA graph" if as_graph else "on the GPU"
            hint = "leave out --cuda-graph" if as_graph else "a smaller --batch takes less memory"
            raise CannotRun(f"the runtime cannot run the network {way}: {said} ({hint})") from error
        self._graph = self._bound if as_graph else None
        self._events = driver().event(), driver().event()
        self._waits = Waits(threads=1)

    def run(self) -> Timing:
        """Run once, as a stream or a graph, whichever the device says; seconds between events.

        A host that is kept from launching keeps the card waiting, and the events count it.
        """
        return self._timed(self._bound)

    def run_s(self) -> float:
        """The seconds of `run`."""
        return self.run().seconds

    @cached_property
    def has_graph(self) -> bool:
        """Whether it can be captured; a device that runs it as a stream can do without."""
        try:
            self._graph = self._graph or _Bound(self._model, self._feed, self._device, graph=True)
        except Exception:  # whatever the runtime raises on what no graph may hold
            return False
        return True

    def graph_s(self) -> float:
        """Replay once as a CUDA graph; for networks that have one."""
        assert self._graph is not None, "has_graph says whether there is one"
        return self._timed(self._graph).seconds

    def _timed(self, bound: _Bound) -> Timing:
        cuda, (before, after) = driver(), self._events
        cuda.record(before, bound.is_graph)
        launched = self._waits.timed(bound.run)
        cuda.record(after, bound.is_graph)
        cuda.wait(after)  # may sleep, so what passes between two runs says nothing
        return Timing(cuda.between_s(before, after), launched.waited_s)


def _require_card(device: Device) -> None:
    """CUDA_VISIBLE_DEVICES comes too late where something else of this process started CUDA."""
    if " MIG " in driver().card and " MIG " not in device.processor:
        raise DeviceNotHere(
            f"CUDA runs on a slice of the card ({driver().card}), which is a separate device. Put "
            "its UUID, as nvidia-smi -L prints it, into CUDA_VISIBLE_DEVICES"
        )
    if not driver().card.startswith(device.processor):
        raise DeviceNotHere(
            f"this process already runs CUDA on {driver().card}, but the device is "
            f"{device.processor}; measure in a separate process"
        )


class Instrumented:
    """A network as a chain of single layers with a CUDA event between any two."""

    def __init__(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: Feed,
        device: Device,
    ) -> None:
        cuda = driver()
        layers = layer_models(network, architecture, device.batch, device.precision)
        tensors = {name: _on_device(value) for name, value in feed.items()}
        shapes: Counter[tuple] = Counter()
        self._steps = []
        for layer in layers:
            shape = (layer.spec, layer.in_shapes)
            self._steps.append(_Step(layer, tensors, device, shapes[shape]))
            shapes[shape] += 1
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
        if self._delay_s < launching_s:
            warnings.warn(
                f"this host needs {launching_s:.2f} s to launch {len(self._steps)} layers; the "
                "GPU waits, so the layers' times include host time",
                stacklevel=2,
            )

    def run(self) -> Timing:
        """`run_s`; all is launched before the first event, so the host's waits are not in it."""
        return Timing(self.run_s())

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

    def __init__(self, model: bytes | str, feed: Feed, device: Device, graph: bool) -> None:
        self.is_graph = graph
        self._session = _open(model, device, graph)
        self._binding = self._session.io_binding()
        self._tensors = [_on_device(value) for value in feed.values()]
        for name, value in zip(feed, self._tensors, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            if not graph and not all(isinstance(n, int) for n in output.shape):
                self._binding.bind_output(output.name, MEMORY)  # as large as it turns out
                continue
            value = _empty(
                [n if isinstance(n, int) else device.batch for n in output.shape],
                _TYPES.get(output.type, NUMPY[device.precision]),
            )
            self._tensors.append(value)
            self._binding.bind_ortvalue_output(output.name, value)
        for _ in range(_UNCAPTURED if graph else 0):  # what a capture may not do: take memory
            self._session.run_with_iobinding(self._binding, _without_waiting(captured=False))
        self._options = _without_waiting()
        self.run()  # searches for algorithms, captures the graph
        self._binding.synchronize_outputs()

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


class _Step:
    """One layer of the chain: its session, bound to its predecessors' outputs."""

    def __init__(self, layer: LayerModel, tensors: dict, device: Device, which: int) -> None:
        self.layer = layer
        self._session = _session_of(layer, device, which)
        self._binding = self._session.io_binding()
        for name, source in zip(layer.input_names, layer.sources, strict=True):
            self._binding.bind_ortvalue_input(name, tensors[source])
        tensors[layer.name] = _empty(layer.out_shape, NUMPY[device.precision])
        (output,) = self._session.get_outputs()
        self._binding.bind_ortvalue_output(output.name, tensors[layer.name])
        self._tensors = tensors  # keeps the buffers alive
        self._options = _without_waiting()

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


_sessions: OrderedDict[tuple, ort.InferenceSession] = OrderedDict()


def _session_of(layer: LayerModel, device: Device, which: int) -> ort.InferenceSession:
    """`which`: counted among the layers of this shape in one network."""
    key = (layer.spec, layer.in_shapes, which, device.model_dump_json())
    if key not in _sessions:
        _sessions[key] = _open(layer.model().SerializeToString(), device, graph=False)
        if len(_sessions) > _MOST_SESSIONS:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key)
    return _sessions[key]


def _open(model: bytes | str, device: Device, graph: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Each session would start a thread a core, and hundreds of sessions are kept.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    stream = driver().graph_stream if graph else driver().stream
    provider = dict(device.provider_options) | {
        STREAM: str(stream),
        GRAPH: "1" if graph else "0",
    }
    with redirect_stdout(sys.stderr):  # where it prints faults; answers go to standard output
        session = ort.InferenceSession(model, options, providers=[(PROVIDER, provider)])
    # After a fault it opens the network again by itself, with other providers or no options.
    given = session.get_provider_options().get(PROVIDER, {})
    kept = all(given.get(name) == provider[name] for name in (GRAPH, STREAM))
    if session.get_providers()[0] != PROVIDER or not kept:
        raise DeviceNotHere(
            "ONNX Runtime opened the network without its CUDA provider or ignored its options. "
            "Its CUDA libraries are incomplete (see ort.preload_dlls)"
        )
    return session


def _without_waiting(captured: bool = True) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if not captured:
        options.add_run_config_entry("gpu_graph_id", "-1")
    return options


def _on_device(value: np.ndarray) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(value, MEMORY, 0)


def _empty(shape, dtype: type) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, MEMORY, 0)
