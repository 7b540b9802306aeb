"""Where a run's result comes from: the table's rows, files that were read, code and packages."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lookup_tables.model.latency_model import PREDICTOR
from lookup_tables.table.store import LatencyTable
from pruner.run.settings import Settings


def table_identity(table: LatencyTable, network: str) -> dict[str, str | int]:
    """What predictions follow from: the device's name, a digest of rows, how they are read."""
    return {
        "device": table.device.name,
        "rows_sha256": table.digest(network),
        "predictor": PREDICTOR,
    }


def files_read(settings: Settings) -> dict[str, str]:
    """Setting → digest of the file that it names: the weights, and a user's own functions."""
    found = digests(settings.model, settings.data, settings.weights, settings.task)
    if settings.architecture is not None:
        found["architecture"] = digest(settings.architecture)
    return found


def digests(model: str, data: str, weights: str | Path | None, task: str = "") -> dict[str, str]:
    """Setting → SHA-256 of its file, of those that are files: weights, a user's own functions."""
    files = {"weights": weights} if weights is not None else {}
    for name, value in (("model", model), ("data", data), ("task", task)):
        file, colon, _ = value.rpartition(":")
        if colon:
            files[name] = file
    return {name: digest(file) for name, file in files.items()}


def digest(file: str | Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result."""
    names = ("latprof-pruner", "torch", "onnxruntime", "onnx", "stable-baselines3", "numpy")
    return {"python": platform.python_version()} | {name: version_of(name) for name in names}


def version_of(package: str) -> str:
    """Of an installed package, or of its build for GPUs where that one stands in its place."""
    try:
        return version(package)
    except PackageNotFoundError:
        return version(f"{package}-gpu")
