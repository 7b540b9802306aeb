"""This machine's processor: its name, what tells its models apart, and which cores we may use."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ARM_KEYS = ("CPU implementer", "CPU variant", "CPU part", "CPU revision", "Hardware")


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


def processor() -> tuple[str, dict[str, str | int]]:
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
    facts = _facts(cpuinfo)
    keys = ("cpu family", "model", "stepping", "cache size", *ARM_KEYS)
    detail = {key.replace(" ", "_").lower(): facts[key] for key in keys if key in facts}
    vectors = [f for f in ("avx2", "avx512f", "amx_tile", "asimd") if f in _flags(facts)]
    return facts.get("model name", facts.get("Model", "")), detail | {
        "vector_units": " ".join(vectors)
    }


def byte_products() -> str:
    """By which instructions this processor multiplies bytes; runtimes have kernels for each."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = _flags(_facts(cpuinfo.read_text() if cpuinfo.exists() else ""))
    known = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    return " ".join(flag for flag in known if flag in flags)


def _brand() -> str:
    """The processor's name on macOS; empty elsewhere."""
    if sys.platform != "darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _facts(cpuinfo: str) -> dict[str, str]:
    return dict(re.findall(r"^([^\t:\n]+)\s*:\s*(.+)$", cpuinfo, re.MULTILINE))


def _flags(facts: dict[str, str]) -> list[str]:
    return facts.get("flags", facts.get("Features", "")).split()


def slug(text: str) -> str:
    """A name of hardware as it stands in a device's: small letters, digits and underscores."""
    text = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_") or "cpu"
