"""Where results go, and what every one of them must say."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from lookup_tables.storage.provenance import commit
from pruner.run.origin import version_of

RESULTS = Path(__file__).parent / "results"
COMMIT = commit()  # of the code that runs, not of what is there when it ends


def save(name: str, content: dict) -> Path:
    """Write results/NAME.json with machine, versions, commit and date beside the content."""
    script = Path(sys.argv[0]).stem
    packages = ("latprof-pruner", "numpy", "torch", "onnxruntime")
    result = {
        "made_by": f"benchmarks/{script}.py",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": COMMIT,
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {p: version_of(p) for p in packages},
        **content,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
