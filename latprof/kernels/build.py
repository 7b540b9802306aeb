"""Compiles the operators with the system's C++ compiler, once for a machine.

The library lies in the user's cache, under a name made of everything that decides what it does:
sources, flags, compiler, processor. `LATPROF_KERNELS` names one that was built elsewhere.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from latprof.kernels import VERSION, KernelsMissing
from latprof.machine.processor import processor

SOURCES = Path(__file__).parent / "source"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden",
    # Sums in another order are wanted; a NaN stays a NaN, so not -ffast-math.
    "-ffp-contract=fast", "-fno-trapping-math", "-fno-signed-zeros",
)  # fmt: skip
NATIVE = ("-march=native",)
LIBRARY = "libblock_sparse.so"
BUILT_ELSEWHERE = "LATPROF_KERNELS"


@dataclass(frozen=True, slots=True)
class Build:
    """What a library says of itself."""

    version: str
    instructions: str  # avx512, avx2, neon, generic
    vector_bytes: int
    flags: str


def library(build_missing: bool = True) -> Path:
    """The operators' library for this machine, compiled if need be; raises KernelsMissing."""
    elsewhere = os.environ.get(BUILT_ELSEWHERE)
    if elsewhere:
        if not Path(elsewhere).is_file():
            raise KernelsMissing(f"{BUILT_ELSEWHERE} names {elsewhere}, which is no file")
        return Path(elsewhere)
    path = cached()
    if not path.exists():
        if not build_missing:
            raise KernelsMissing("the kernels are not built yet; run: latprof kernels build")
        build(path)
    return path


def cached() -> Path:
    """Where this machine's library lies once it is built; raises KernelsMissing."""
    name, detail = processor()
    facts = [VERSION, compiler_version(), *FLAGS, *NATIVE, name, repr(sorted(detail.items()))]
    digest = hashlib.sha256("\n".join(facts).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache_home / "latprof" / "kernels" / digest.hexdigest()[:16] / LIBRARY


def build(out: Path, flags: Sequence[str] = NATIVE) -> None:
    """Compile the operators into a file; raises KernelsMissing with the compiler's first words.

    `flags` say for which processor; a killed build leaves no half of a library.
    """
    told = f'-DBLOCK_SPARSE_FLAGS="{" ".join([*FLAGS, *flags])}"'
    command = [*compiler(), *FLAGS, *flags, f'-DBLOCK_SPARSE_VERSION="{VERSION}"', told]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix="build-") as folder:
            objects = [Path(folder) / f"{unit.stem}.o" for unit in units()]
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                compiled = [
                    pool.submit(_run, [*command, "-c", str(unit), "-o", str(made)])
                    for unit, made in zip(units(), objects, strict=True)
                ]
                for each in compiled:
                    each.result()
            made = Path(folder) / LIBRARY
            _run([*command, "-shared", *map(str, objects), "-o", str(made)])
            os.replace(made, out)
    except OSError as error:
        raise KernelsMissing(f"{out}: {error.strerror or error}") from None


def units() -> list[Path]:
    """The files to compile, the longest first."""
    return sorted(SOURCES.glob("*.cpp"), key=lambda path: ("_8" in path.stem, path.stem))[::-1]


@cache
def compiler() -> tuple[str, ...]:
    """The C++ compiler's command; raises KernelsMissing where there is none."""
    if sys.platform == "win32":
        raise KernelsMissing("the kernels are not built on Windows yet; use Linux or macOS")
    asked = os.environ.get("CXX")
    for command in [asked] if asked else COMPILERS:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return tuple(words)
    raise KernelsMissing(
        f"no C++ compiler ({asked or ', '.join(COMPILERS)}) was found. Install one, or name a "
        f"library that was built elsewhere in {BUILT_ELSEWHERE}"
    )


@cache
def compiler_version() -> str:
    """The first line of what the compiler says of itself; raises KernelsMissing."""
    return _run([*compiler(), "--version"]).splitlines()[0]


def about(path: Path) -> Build:
    """What a library says of itself; raises KernelsMissing if it is none of ours, or another one's.

    A library of another version has other kernels than this one writes models for.
    """
    try:
        ask = ctypes.CDLL(str(path)).BlockSparseBuild
    except (OSError, AttributeError) as error:
        raise KernelsMissing(f"{path} is not a library of these kernels: {error}") from None
    ask.restype = ctypes.c_char_p
    version, instructions, vector_bytes, flags = ask().decode().split(maxsplit=3)
    if version != VERSION:
        raise KernelsMissing(
            f"{path} holds version {version} of the kernels, this is {VERSION}: build it again"
        )
    return Build(version, instructions, int(vector_bytes), flags)


def _run(command: Sequence[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        said = next((line for line in answer.stderr.splitlines() if "error" in line), "")
        raise KernelsMissing(
            f"the kernels do not compile: {said or answer.stderr.strip() or command[0]}. Another "
            "compiler may: set CXX"
        )
    return answer.stdout
