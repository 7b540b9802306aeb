"""ONNX Runtime on NVIDIA's cards: which device that is; `cuda_session.py` opens and times."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import redirect_stdout
from importlib.metadata import version

import onnxruntime as ort

from latprof import DeviceNotHere
from latprof.machine.processor import affinity
from latprof.runtimes import cards
from latprof.runtimes.base import (
    GRAPH,
    ONNX_RUNTIME,
    SEARCHES,
    Feed,
    LayerTimer,
    Monitor,
    Session,
    Usage,
)
from latprof.runtimes.cards import Gpu
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.network import Network

_shown: set[str] = set()  # cards, of this process


class OrtCuda:
    """The registry's entry. A card is asked for as `cuda`, the first one, or by its short name."""

    name = "onnxruntime-cuda"
    summary = "ONNX Runtime on an NVIDIA GPU"
    runtime, kind, on_processor = ONNX_RUNTIME, "cuda", False

    def identify(self, asked: str, usage: Usage) -> Device | None:
        if asked == "cpu":
            return None
        for gpu in cards.gpus():
            if asked in ("cuda", gpu.short_name, gpu.name) or asked == _gpu_name(gpu, usage):
                return _cuda(gpu, usage)
        return None

    def like(self, device: Device) -> Device:
        if device.processor not in (gpu.name for gpu in cards.gpus()):
            raise DeviceNotHere(
                f"{device.name} is the GPU {device.processor}, which this machine lacks. You can "
                "read its table here, but you cannot measure"
            )
        found = self.identify(device.processor, Usage.of(device))
        assert found is not None, "it was listed a moment ago"
        return found

    def here(self, usage: Usage) -> list[str]:
        found = [f"GPU {gpu.name!r} (--device {gpu.short_name})" for gpu in cards.gpus()]
        return found or ["no NVIDIA GPU"]

    def options(self, device: Device) -> list[str]:
        usage = Usage.of(device)
        options = ["--device", device.processor, "--algorithm-search", usage.algorithm_search]
        return [*options, *(["--cuda-graph"] if usage.cuda_graph else [])]

    def deployed(self, model: bytes, device: Device) -> bytes:
        return model

    def open(self, model: bytes | str, feed: Feed, device: Device) -> Session:
        _show_only(device)
        from latprof.runtimes.cuda_session import Running  # starts CUDA

        return Running(model, feed, device)

    def open_layers(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: Feed,
        device: Device,
    ) -> LayerTimer:
        _show_only(device)
        from latprof.runtimes.cuda_session import Instrumented

        return Instrumented(network, architecture, model, feed, device)

    def monitor(self, device: Device) -> Monitor:
        from latprof.runtimes.nvml import Monitor as CardMonitor

        return CardMonitor(device)


def _show_only(device: Device) -> None:
    """Let CUDA see this card alone, in this process; before anything starts CUDA.

    Once: asking the driver takes a while, and networks are opened between measurements.
    """
    if device.processor not in _shown:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards.uuid_of(device)
        _shown.add(device.processor)


def _gpu_name(gpu: Gpu, usage: Usage) -> str:
    parts = [gpu.short_name]
    parts += [usage.precision] if usage.precision != "fp32" else []
    parts += ["graph"] if usage.cuda_graph else []
    parts += [f"b{usage.batch}"] if usage.batch != 1 else []
    return "_".join(parts)


def _cuda(gpu: Gpu, usage: Usage) -> Device:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise DeviceNotHere(
            f"GPU {gpu.name!r} is here, but this ONNX Runtime cannot use it: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        )
    if usage.threads != 1:
        raise DeviceNotHere("--threads applies to CPUs only; leave it out on a GPU")
    if usage.precision == "int8":
        raise DeviceNotHere("--precision int8 is measured on CPUs only; use fp32 or fp16 on a GPU")
    if usage.algorithm_search not in SEARCHES:
        raise DeviceNotHere(
            f"--algorithm-search {usage.algorithm_search}: expected one of {', '.join(SEARCHES)}"
        )
    return Device(
        name=_gpu_name(gpu, usage),
        kind="cuda",
        processor=gpu.name,
        processor_detail={
            "memory": gpu.memory,
            "compute_capability": gpu.compute_capability,
            "max_sm_clock": gpu.max_sm_clock,
        },
        driver=gpu.driver,
        cuda=_library_version("libcudart.so", "cudaRuntimeGetVersion"),
        cudnn=_library_version("libcudnn.so", "cudnnGetVersion"),
        runtime_version=ort.__version__,
        provider="CUDAExecutionProvider",
        provider_options={
            "cudnn_conv_algo_search": usage.algorithm_search,
            "cudnn_conv_use_max_workspace": "1",
            "do_copy_in_default_stream": "1",
            "use_tf32": "0",
            "prefer_nhwc": "0",  # between single layers it would cost two transposes each
            "arena_extend_strategy": "kSameAsRequested",
            GRAPH: "1" if usage.cuda_graph else "0",
        },
        session_options={
            "graph_optimization_level": "all",
            "execution_mode": "sequential",
            "intra_op_num_threads": "1",
        },
        precision=usage.precision,
        batch=usage.batch,
        affinity=affinity(),
        tool_version=version("latprof-pruner"),
    )


def _library_version(name: str, function: str) -> str:
    """The version number a CUDA library reports about itself, asked where ONNX Runtime loads it.

    Raises DeviceNotHere where there is none: two unknown ones would pass for the same.
    """
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            ort.preload_dlls()  # finds the libraries of NVIDIA's own packages
    built_for = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    majors = [built_for] if built_for and "cudart" in name else []
    for suffix in (*(f".{major}" for major in (*majors, *range(14, 7, -1))), ""):
        try:
            ask = getattr(ctypes.CDLL(name + suffix), function)
        except (OSError, AttributeError):
            continue
        if function.startswith("cudnn"):
            ask.restype = ctypes.c_size_t
            return str(ask())
        number = ctypes.c_int()
        ask(ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"
    raise DeviceNotHere(
        f"ONNX Runtime needs {name} for a GPU, but it was not found. Run: pip install "
        "'onnxruntime-gpu[cuda,cudnn]', or put it on LD_LIBRARY_PATH"
    )
