"""This machine → Device, and a clear answer when another device was asked for."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

import onnxruntime as ort

from latprof.errors import DeviceNotHere
from latprof.generations import generation_of
from lookup_tables.device import Device
from lookup_tables.table import home_of

GRAPH = "enable_cuda_graph"
SEARCHES = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
PRECISIONS = ("fp32", "fp16")
ARM_KEYS = ("CPU implementer", "CPU variant", "CPU part", "CPU revision", "Hardware")


@dataclass(frozen=True, slots=True)
class Usage:
    """How networks are to be run on a device; all of it is part of the device's identity."""

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    cuda_graph: bool = False
    algorithm_search: str = SEARCHES[0]  # cuDNN's

    @classmethod
    def of(cls, device: Device) -> Usage:
        """How a table's device is used."""
        options = device.provider_options
        return cls(
            threads=device.threads,
            batch=device.batch,
            precision=device.precision,
            cuda_graph=options.get(GRAPH) == "1",
            algorithm_search=options.get("cudnn_conv_algo_search", SEARCHES[0]),
        )


def this_device(asked: str = "cpu", usage: Usage = Usage()) -> Device:
    """The device of this machine that `asked` names: `cpu`, `cuda`, or the hardware's short name.

    A short name is what the hardware reports, in lower case and without its maker:
    `NVIDIA TITAN RTX` is titan_rtx. `cuda` is the first card the driver lists. Raises
    DeviceNotHere, saying what is here and where a table may come from.
    """
    if asked != "cpu":
        for gpu in gpus():
            if asked in ("cuda", gpu.slug, gpu.name) or asked == _gpu_name(gpu, usage):
                return _cuda(gpu, usage)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads, batch, precision = usage.threads, usage.batch, usage.precision
    here = _cpu(1, 1)
    short = _slug(here.processor)
    plain = f"{short}_{threads}t" if batch == 1 else f"{short}_{threads}t_b{batch}"
    known = {"cpu", here.processor, short, plain, _cpu(threads, batch).name}
    if asked not in known:
        raise DeviceNotHere(_not_here(asked, here))
    if not 1 <= threads <= cores:
        raise DeviceNotHere(f"{threads} threads were asked for; this process may use {cores} cores")
    if precision != "fp32":
        raise DeviceNotHere(f"precision {precision} is not supported on CPU; use fp32")
    if usage.cuda_graph:
        raise DeviceNotHere("CUDA graphs need a GPU: name one with --device")
    if usage.algorithm_search != SEARCHES[0]:
        raise DeviceNotHere("--algorithm-search is cuDNN's: name a GPU with --device")
    return _cpu(threads, batch)


def _cpu(threads: int, batch: int) -> Device:
    processor, detail = _processor()
    words = [_slug(processor), generation_of(processor, detail), f"{threads}t"]
    name = "_".join(filter(None, words))
    return Device(
        name=name if batch == 1 else f"{name}_b{batch}",
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
        batch=batch,
        threads=threads,
        affinity=affinity(),
        tool_version=version("latprof-pruner"),
    )


def affinity() -> str | None:
    """The processors that this process may run on, as in 0-3,8; None where nobody knows."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    runs: list[list[int]] = []
    for processor in allowed:
        if runs and processor == runs[-1][1] + 1:
            runs[-1][1] = processor
        else:
            runs.append([processor, processor])
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs)


def _processor() -> tuple[str, dict[str, str | int]]:
    """The processor's name and what tells models of that name apart."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name, detail = described(cpuinfo.read_text())
    else:
        name, detail = _brand() or platform.processor(), {}
    machine: dict[str, str | int] = {"machine": platform.machine(), "cores": os.cpu_count() or 1}
    return name or platform.machine(), machine | detail


def described(cpuinfo: str) -> tuple[str, dict[str, str]]:
    """The processor's name in Linux's /proc/cpuinfo, if it has one, and what else tells it apart.

    64-bit ARM cores have numbers in place of a name; a board may add its own.
    """
    facts = dict(re.findall(r"^([^\t:\n]+)\s*:\s*(.+)$", cpuinfo, re.MULTILINE))
    keys = ("cpu family", "model", "stepping", "cache size", *ARM_KEYS)
    detail = {key.replace(" ", "_").lower(): facts[key] for key in keys if key in facts}
    vectors = [f for f in ("avx2", "avx512f", "amx_tile", "asimd") if f in _flags(facts)]
    return facts.get("model name", facts.get("Model", "")), detail | {
        "vector_units": " ".join(vectors)
    }


def _brand() -> str:
    """The processor's name on macOS; empty elsewhere."""
    if sys.platform != "darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _flags(facts: dict[str, str]) -> list[str]:
    return facts.get("flags", facts.get("Features", "")).split()


def _slug(text: str) -> str:
    text = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_") or "cpu"


def _not_here(asked: str, device: Device) -> str:
    found = gpus()
    here = f"CPU {device.processor!r} (--device cpu, table {device.name})"
    if found:
        here += "".join(f" and GPU {gpu.name!r} (--device {gpu.slug})" for gpu in found)
    else:
        here += "; no NVIDIA GPU was found"
    committed = home_of(asked)
    where = (
        f"its table is here: --table {committed}"
        if committed.exists()
        else f"run `make profile DEVICE={asked}` on a machine that has one and copy its folder "
        f"to {committed}"
    )
    return (
        f"device {asked} is not here. This machine has: {here}. "
        f"To prune for {asked} without it you need its table: {where}"
    )


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card as the driver reports it."""

    name: str
    uuid: str
    memory: str
    driver: str
    compute_capability: str
    max_sm_clock: str

    @property
    def slug(self) -> str:
        """The short name by which users ask for it: without its maker."""
        return re.sub(r"^(nvidia_)?((geforce|tesla|quadro)_)?", "", _slug(self.name))


def uuid_of(device: Device) -> str:
    """The UUID of this machine's first card of the device's kind; raises DeviceNotHere.

    Not part of the identity: another card of the same kind is the same device.
    """
    for gpu in gpus():
        if gpu.name == device.processor:
            return gpu.uuid
    raise DeviceNotHere(_not_here(device.name, _cpu(1, 1)))


_QUERY = "name,uuid,memory.total,driver_version,compute_cap,clocks.max.sm"


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that the driver reports and CUDA_VISIBLE_DEVICES allows, in the driver's
    order; none without a driver. Raises DeviceNotHere where the driver does not answer."""
    if shutil.which("nvidia-smi") is None:
        return []
    found = parse_gpus(_told(f"--query-gpu={_QUERY}", "--format=csv,noheader"))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed and "MIG-" in allowed:
        found += parse_slices(_told("-L"), found)
    return visible(found, allowed)


def _told(*options: str) -> str:
    """What nvidia-smi prints, nothing where it fails; raises DeviceNotHere where it hangs."""
    command = ["nvidia-smi", *options]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        raise DeviceNotHere(
            "nvidia-smi did not answer within 20 s; see that the NVIDIA driver is well"
        ) from None
    return answer.stdout if answer.returncode == 0 else ""


def visible(found: list[Gpu], allowed: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names by number or UUID; all where it is not set.

    Numbers count in the driver's order, which is CUDA's where all cards are alike. A slice of a
    card (MIG) is named by its own UUID only.
    """
    if allowed is None:
        return found
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    return [
        gpu
        for number, gpu in enumerate(found)
        if (str(number) in names and not gpu.uuid.startswith("MIG-"))
        or any(n.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(n) for n in names)
    ]


def parse_slices(listing: str, cards: list[Gpu]) -> list[Gpu]:
    """The slices (MIG) of some cards in what `nvidia-smi -L` prints.

    Each is a device of its own, named as CUDA names it: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
    """
    by_uuid = {card.uuid: card for card in cards}
    slices, card = [], None
    for line in listing.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)", line):
            card = by_uuid.get(match[1])
        elif card and (match := re.match(r"\s+(MIG \S+)\s.*\(UUID: (MIG-[^)]+)\)", line)):
            slices.append(replace(card, name=f"{card.name} {match[1]}", uuid=match[2]))
    return slices


def parse_gpus(listing: str) -> list[Gpu]:
    """One Gpu a line of `nvidia-smi --format=csv,noheader`; lines of another shape are skipped."""
    rows = (line.split(", ") for line in listing.splitlines())
    return [Gpu(*(field.strip() for field in row)) for row in rows if len(row) == len(fields(Gpu))]


def _gpu_name(gpu: Gpu, usage: Usage) -> str:
    parts = [gpu.slug]
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
        raise DeviceNotHere("threads are a matter of CPUs; leave --threads out on a GPU")
    if usage.precision not in PRECISIONS:
        raise DeviceNotHere(
            f"--precision {usage.precision}: expected one of {', '.join(PRECISIONS)}"
        )
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
        f"{name} was not found, which ONNX Runtime needs for a GPU: pip install "
        "'onnxruntime-gpu[cuda,cudnn]', or put it on LD_LIBRARY_PATH"
    )
