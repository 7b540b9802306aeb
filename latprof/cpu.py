"""ONNX Runtime on CPU: open a network, time it in pairs, and time every layer inside it.

With more than one thread all sessions of a process share one thread pool. With a pool each, the
idle session's threads spin while the other one is timed and take its cores away.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from pydantic_core import from_json

from latprof.attribution import NodeTime, attribute
from latprof.errors import CannotRun, OptionError
from latprof.machine import Waits
from lookup_tables.device import Device
from lookup_tables.network import Architecture, Network
from lookup_tables.noise import Timing, steady_mean
from lookup_tables.table import LayerTime

PROVIDER = "CPUExecutionProvider"
MOST_EVENTS = 1_000_000  # that the runtime's profiler keeps
_pool_threads: int | None = None  # of the pool that this process shares


class Running:
    """A network opened in the runtime and ready to be called again and again."""

    has_graph = False

    def __init__(self, model: onnx.ModelProto | bytes | str, feed: dict, device: Device) -> None:
        self._session = _open(model, device)
        self._waits = Waits(device.threads)
        self._feed = feed

    def run(self) -> Timing:
        """Run once; returns the seconds it took, and how many of them it waited to run."""
        return self._waits.timed(self._session.run, None, self._feed)

    def run_s(self) -> float:
        """Run once; returns the seconds it took."""
        return self.run().seconds


class Instrumented:
    """A network opened with the runtime's own profiler on."""

    def __init__(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: dict,
        device: Device,
    ) -> None:
        self._layers = network.layer_specs(architecture)
        self._folder = tempfile.TemporaryDirectory(prefix="latprof-")
        self._session = _open(model, device, profile_into=Path(self._folder.name))
        self._waits = Waits(device.threads)
        self._feed = feed
        self._runs = 0

    def run(self) -> Timing:
        """Run once; returns what it took, the profiler's own time included."""
        self._runs += 1
        return self._waits.timed(self._session.run, None, self._feed)

    def run_s(self) -> float:
        """Run once; returns the seconds it took, the profiler's own included."""
        return self.run().seconds

    def layer_times(self, dense_s: np.ndarray, kept: np.ndarray) -> tuple[LayerTime, ...]:
        """Close the session; every layer's seconds, whatever the runtime made of it.

        `dense_s`: (rounds,) the dense network's seconds beside the last runs, `kept`: (rounds,)
        which of them count. Runs before those were warm-up. Raises UnmeasuredLayer.
        """
        return attribute(self.node_times(dense_s, kept), self._layers)

    def node_times(self, dense_s: np.ndarray, kept: np.ndarray) -> list[NodeTime]:
        """Every node's seconds in execution order; see `layer_times`."""
        path = Path(self._session.end_profiling())
        events = from_json(path.read_bytes())
        self._folder.cleanup()
        require_all_kept(len(events), self._runs)
        nodes = (e for e in events if e.get("cat") == "Node")
        events = [e for e in nodes if e["name"].endswith("_kernel_time")]
        each = len(events) // self._runs
        durations_s = np.array([event["dur"] for event in events], dtype=float) / 1e6
        durations_s = durations_s.reshape(self._runs, each)[-len(dense_s) :]
        # The profiler counts whole microseconds.
        shares = steady_mean(durations_s[kept] / dense_s[kept, None])
        seconds = shares * np.median(dense_s[kept])
        return [
            NodeTime(event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], float(s))
            for event, s in zip(events[:each], seconds, strict=True)
        ]


def require_all_kept(events: int, runs: int) -> None:
    """Raise CannotRun where the runtime's profiler may have stopped before the last run.

    It keeps MOST_EVENTS and drops the rest without a word.
    """
    if events >= MOST_EVENTS:
        raise CannotRun(
            f"the runtime's profiler keeps {MOST_EVENTS} events, and {runs} runs of this network "
            "made more; measure a network of fewer layers, or on a quieter machine, where fewer "
            "runs are enough"
        )


class Monitor:
    """A CPU reports neither clocks nor throttling that could be trusted; pairing has to do."""

    def __init__(self, device: Device) -> None:
        pass

    def begin(self) -> None:
        pass

    def throttled(self) -> bool:
        return False

    def conditions(self) -> None:
        return None


def _open(model, device: Device, profile_into: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if device.threads == 1:
        options.intra_op_num_threads = options.inter_op_num_threads = 1
    else:
        _share_pool(device.threads)
        options.use_per_session_threads = False
    options.log_severity_level = 3
    if profile_into is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_into / "nodes")
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    return ort.InferenceSession(model, options, providers=[PROVIDER])


def _share_pool(threads: int) -> None:
    global _pool_threads
    if not hasattr(ort, "set_global_thread_pool_sizes"):
        raise OptionError(
            f"ONNX Runtime {ort.__version__} cannot share a thread pool between networks, so more "
            "than one thread cannot be measured; upgrade onnxruntime"
        )
    if _pool_threads is None:
        ort.set_global_thread_pool_sizes(threads, 1)
        _pool_threads = threads
    elif _pool_threads != threads:
        raise OptionError(
            f"this process already runs networks with {_pool_threads} threads; "
            f"measure {threads} threads in a process of its own"
        )
