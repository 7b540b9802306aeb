"""ONNX Runtime on CPU: open a network, time it in pairs, and time every layer inside it.

With more than one thread all sessions of a process share one thread pool. With a pool each, the
idle session's threads spin while the other one is timed and take its cores away.
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from pydantic_core import from_json

from latprof import CannotRun, DeviceNotHere, OptionError
from latprof.kernels.session import needs_kernels, register
from latprof.machine.generations import generation_of
from latprof.machine.load import Waits
from latprof.machine.processor import affinity, byte_products, slug
from latprof.machine.processor import processor as processor_here
from latprof.onnx.attribution import NodeTime, attribute
from latprof.runtimes.base import ONNX_RUNTIME, SEARCHES, Feed, Usage
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.network import Network
from lookup_tables.noise import Timing, steady_mean
from lookup_tables.table.rows import LayerTime

PROVIDER = "CPUExecutionProvider"
MOST_EVENTS = 1_000_000  # that the runtime's profiler keeps
_pool_threads: int | None = None  # of the pool that this process shares


class Running:
    """A network opened in the runtime and ready to be called again and again."""

    has_graph = False

    def __init__(self, model: onnx.ModelProto | bytes | str, feed: Feed, device: Device) -> None:
        self._session = _open(model, device)
        self._waits = Waits(device.threads)
        self._feed = feed

    def run(self) -> Timing:
        """Run once; returns the seconds it took, and how many of them it waited to run."""
        return self._waits.timed(self._session.run, None, self._feed)

    def run_s(self) -> float:
        """Run once; returns the seconds it took."""
        return self.run().seconds

    def graph_s(self) -> float:
        raise NotImplementedError("there are no CUDA graphs on a processor")


class Instrumented:
    """A network opened with the runtime's own profiler on."""

    def __init__(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: Feed,
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
            f"the runtime's profiler keeps {MOST_EVENTS} events, but {runs} runs of this network "
            "made more. Measure a network with fewer layers, or use a quieter machine, which "
            "needs fewer runs"
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

    def complaint(self) -> str:
        return "a CPU tells nothing of throttling"


def _open(model, device: Device, profile_into: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if device.threads == 1:
        options.intra_op_num_threads = options.inter_op_num_threads = 1
    else:
        _share_pool(device.threads)
        options.use_per_session_threads = False
    options.log_severity_level = 3
    if needs_kernels(model):
        register(options)
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
            f"ONNX Runtime {ort.__version__} cannot share a thread pool between networks, so "
            "latprof can measure only one thread; upgrade onnxruntime"
        )
    if _pool_threads is None:
        ort.set_global_thread_pool_sizes(threads, 1)
        _pool_threads = threads
    elif _pool_threads != threads:
        raise OptionError(
            f"this process already runs networks with {_pool_threads} threads; measure {threads} "
            "threads in a separate process"
        )


class OrtCpu:
    """The registry's entry. The processor is asked for as `cpu`, or by its name."""

    name = "onnxruntime-cpu"
    summary = "ONNX Runtime on this machine's processor"
    runtime, kind, on_processor = ONNX_RUNTIME, "cpu", True

    def identify(self, asked: str, usage: Usage) -> Device | None:
        here = _cpu(usage)
        short = slug(here.processor)
        plain = short + _suffix(usage)
        if asked not in {"cpu", here.processor, short, plain, here.name}:
            return None
        _require_possible(usage)
        return here

    def like(self, device: Device) -> Device:
        found = self.identify("cpu", Usage.of(device))
        assert found is not None, "there is always a processor"
        return found

    def here(self, usage: Usage) -> list[str]:
        device = _cpu(Usage())
        return [f"CPU {device.processor!r} (--device cpu, table {device.name})"]

    def options(self, device: Device) -> list[str]:
        return ["--device", "cpu", "--threads", str(device.threads)]

    def deployed(self, model: bytes, device: Device) -> bytes:
        return model

    def open(self, model: bytes | str, feed: Feed, device: Device) -> Running:
        return Running(model, feed, device)

    def open_layers(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: Feed,
        device: Device,
    ) -> Instrumented:
        return Instrumented(network, architecture, model, feed, device)

    def monitor(self, device: Device) -> Monitor:
        return Monitor(device)


def _require_possible(usage: Usage) -> None:
    """Raise DeviceNotHere for a use that a processor does not have."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if not 1 <= usage.threads <= cores:
        raise DeviceNotHere(f"--threads {usage.threads}: this process may use only {cores} cores")
    if usage.precision == "fp16":
        raise DeviceNotHere("--precision fp16 is measured on GPUs only; use fp32 or int8 on a CPU")
    if usage.cuda_graph:
        raise DeviceNotHere("CUDA graphs need a GPU: name one with --device")
    if usage.algorithm_search != SEARCHES[0]:
        raise DeviceNotHere("--algorithm-search applies to cuDNN only; name a GPU with --device")


def _suffix(usage: Usage) -> str:
    """What a device's name says of its use."""
    parts = [f"{usage.threads}t", f"b{usage.batch}" if usage.batch != 1 else ""]
    parts += [usage.precision if usage.precision != "fp32" else ""]
    return "".join(f"_{part}" for part in parts if part)


def _cpu(usage: Usage) -> Device:
    processor, detail = processor_here()
    if usage.precision == "int8":
        detail |= {"byte_products": byte_products()}
    words = [slug(processor), generation_of(processor, detail)]
    return Device(
        name="_".join(filter(None, words)) + _suffix(usage),
        kind="cpu",
        processor=processor,
        processor_detail=detail,
        runtime_version=ort.__version__,
        provider="CPUExecutionProvider",
        session_options={
            "graph_optimization_level": "all",
            "execution_mode": "sequential",
            "thread_pool": "one a process",
            "spinning": "on",
        },
        precision=usage.precision,
        batch=usage.batch,
        threads=usage.threads,
        affinity=affinity(),
        tool_version=version("latprof-pruner"),
    )
