"""This machine → Device, and a clear answer when another device was asked for."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime as ort

from latprof.errors import DeviceNotHere
from lookup_tables.device import Device
from lookup_tables.table import DATA


def this_device(
    asked: str = "cpu", threads: int = 1, batch: int = 1, precision: str = "fp32"
) -> Device:
    """The device of this machine that `asked` names: `cpu`, or the processor's own short name.

    Raises DeviceNotHere, saying what is here and where a table may come from.
    """
    cores = os.cpu_count() or 1
    here = _cpu(1, 1)
    known = {"cpu", here.processor, _slug(here.processor), _cpu(threads, batch).name}
    if asked not in known:
        raise DeviceNotHere(_not_here(asked, here))
    if not 1 <= threads <= cores:
        raise DeviceNotHere(f"{threads} threads were asked for; this machine has {cores} cores")
    if precision != "fp32":
        raise DeviceNotHere(f"precision {precision} is not supported on CPU; use fp32")
    return _cpu(threads, batch)


def _cpu(threads: int, batch: int) -> Device:
    processor, detail = _processor()
    name = f"{_slug(processor)}_{threads}t"
    return Device(
        name=name if batch == 1 else f"{name}_b{batch}",
        kind="cpu",
        processor=processor,
        processor_detail=detail,
        runtime_version=ort.__version__,
        provider="CPUExecutionProvider",
        provider_options={"graph_optimization_level": "all", "execution_mode": "sequential"},
        batch=batch,
        threads=threads,
    )


def _processor() -> tuple[str, dict[str, str | int]]:
    """The processor's name and what tells models of that name apart."""
    detail: dict[str, str | int] = {"machine": platform.machine(), "cores": os.cpu_count() or 1}
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine(), detail
    facts = dict(re.findall(r"^([^\t:\n]+)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE))
    for key in ("cpu family", "model", "stepping", "cache size"):
        if key in facts:
            detail[key.replace(" ", "_")] = facts[key]
    vectors = [f for f in ("avx2", "avx512f", "amx_tile", "asimd") if f in _flags(facts)]
    detail["vector_units"] = " ".join(vectors)
    return facts.get("model name", platform.machine()), detail


def _flags(facts: dict[str, str]) -> list[str]:
    return facts.get("flags", facts.get("Features", "")).split()


def _slug(text: str) -> str:
    text = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_") or "cpu"


def _not_here(asked: str, device: Device) -> str:
    gpus = gpu_names()
    here = f"CPU {device.processor!r} (--device cpu, table {device.name})"
    if gpus:
        here += f" and GPU {', '.join(gpus)} (profiling on CUDA is not part of this version)"
    else:
        here += "; no NVIDIA GPU was found"
    committed = DATA / asked
    where = (
        f"its table is here: --table {committed}"
        if committed.exists()
        else f"run `make profile DEVICE={asked}` on a machine that has one and copy its folder "
        f"lookup_tables/data/{asked}"
    )
    return (
        f"device {asked} is not here. This machine has: {here}. "
        f"To prune for {asked} without it you need its table: {where}"
    )


def gpu_names() -> list[str]:
    """The NVIDIA GPUs that the driver reports; none without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []
