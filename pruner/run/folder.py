"""A run's folder, and which steps are done. A step is done when its file is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lookup_tables.storage.files import PARTIAL, first_fault, write_whole
from pruner import RunError
from pruner.data.images import same_images
from pruner.run.former import settings_of_today
from pruner.run.settings import Settings


class RunFolder:
    """Paths of a run's files, and the settings it was begun with."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.search_log = path / "search.jsonl"
        self.architecture = path / "architecture.json"
        self.front = path / "front.json"  # of methods that give one
        self.checkpoint = path / "checkpoint.pt"
        self.training = path / "training.json"
        self.cut_weights = path / "cut.safetensors"
        self.weights = path / "model.safetensors"
        self.onnx = path / "model.onnx"
        self.dense_onnx = path / "dense.onnx"
        self.quantised = path / "quantised.json"  # of a run in INT8, as are the next five
        self.repaired_weights = path / "repaired.safetensors"
        self.repair_checkpoint = path / "repair.pt"
        self.fp32_onnx = path / "model_fp32.onnx"
        self.dense_fp32_onnx = path / "dense_fp32.onnx"
        self.zeros_onnx = path / "model_dense.onnx"  # of sparse layers: what is left out is 0
        self.measured = path / "measured.json"
        self.seconds = path / "seconds.json"
        self.result = path / "result.json"
        self.confirmed = path / "confirmed.json"
        self.report = path / "report.html"

    @classmethod
    def begin(cls, path: str | Path, settings: Settings, origin: dict) -> RunFolder:
        """A new run, or the one begun there with the same settings; raises RunError.

        `origin` is written down for a new run and kept for an old one.
        """
        path = Path(path)
        file = path / "settings.json"
        if file.exists():
            run = cls(path, cls.open(path).settings)
            _require_same(path, run.settings, settings, run.origin().get("files_sha256", {}))
            require_same_origin(path, run.origin(), origin, settings)
            if not run.architecture.exists():
                _require_same_score(path, run.origin(), origin)
            if settings != run.settings:  # files lie elsewhere by now
                write_json(file, settings.model_dump())
            return cls(path, settings)
        if path.exists() and not all(map(_is_of_a_killed_start, path.iterdir())):
            raise RunError(f"{path} is not empty and is not a run; choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "origin.json", origin)
        write_json(file, settings.model_dump())
        return cls(path, settings)

    @property
    def final_weights(self) -> Path:
        """Those that the run hands back."""
        if self.quantised.exists() and read_json(self.quantised)["kept"] == "repaired":
            return self.repaired_weights
        return self.weights

    @property
    def block(self) -> int | None:
        """Of a finished run on sparse kernels: output channels whose weights go together."""
        if not self.result.exists():
            return None
        device = read_json(self.result, made_anew=False)["device"]
        told = device.get("provider_options", {}).get("block")
        return int(told) if told else None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds spent inside to the step's total.

        Sessions that ended in an error or by Ctrl-C are in it; a killed one's seconds are not, and
        follow from what it scored and trained.
        """
        start_s = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds_spent()
            spent[step] = spent.get(step, 0.0) + time.perf_counter() - start_s
            write_json(self.seconds, spent)

    def origin(self) -> dict:
        """What the run was begun with: table, files, images, shape, classes, versions."""
        return read_json(self.path / "origin.json", made_anew=False)

    def seconds_spent(self) -> dict[str, float]:
        """Step → seconds so far."""
        return read_json(self.seconds) if self.seconds.exists() else {}

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run; raises RunError."""
        path = Path(path)
        try:
            return cls(path, Settings.model_validate(_stored_settings(path / "settings.json")))
        except FileNotFoundError:
            raise RunError(f"{path} is not a run folder: settings.json is missing") from None
        except ValidationError as error:
            raise RunError(f"{path}/settings.json: {first_fault(error)}") from None


def _is_of_a_killed_start(file: Path) -> bool:
    return file.name == "origin.json" or file.name.endswith(PARTIAL)


def _stored_settings(path: Path) -> Any:
    found = read_json(path, made_anew=False)
    return settings_of_today(found) if isinstance(found, dict) else found


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, made_anew: bool = True) -> Any:
    """A JSON file of a run, `made_anew` where it is missing; raises RunError for a damaged one."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        mend = "delete it, then run the same command to recreate it" if made_anew else "restore it"
        raise RunError(f"{path} is damaged ({error}); {mend}, or choose another --out") from None


def _require_same(path: Path, before: Settings, now: Settings, known_files: dict) -> None:
    """All but where files lie: those that are known by their content, images and the table."""

    def wording(name: str, value: Any) -> Any:
        if name in ("data_dir", "table") or (name == "depth" and not now.removes_blocks):
            return None
        if value is None:
            return None
        if name in ("weights", "architecture") and name in known_files:
            return "a file, known by its content"
        return value.rpartition(":")[1:] if name in known_files else value  # a file's function

    differing = [
        f"{name} was {old!r}, now {new!r}"
        for name, old in before.model_dump().items()
        if wording(name, new := getattr(now, name)) != wording(name, old)
    ]
    if differing:
        raise RunError(
            f"{path} was begun with other settings: {'; '.join(differing)}. "
            "Continue with the same ones, or choose another --out"
        )


def _require_same_score(path: Path, before: dict, now: dict) -> None:
    """Refuse to go on with a search whose former scores would meet others."""
    if before.get("score", 1) != now["score"]:
        raise RunError(
            f"{path}: its search was begun by a version that scored candidates differently. "
            "Finish it with that version, or choose another --out"
        )
    if before.get("plain_layers", []) != now["plain_layers"]:
        raise RunError(
            f"{path}: its search was begun by a version that removes other layers without "
            f"shortcuts ({len(before.get('plain_layers', []))}, now {len(now['plain_layers'])}). "
            "Finish it with that version, or choose another --out"
        )


def require_same_origin(path: Path, before: dict, now: dict, settings: Settings) -> None:
    """Where table and files lie does not matter, what they hold does; raises RunError."""
    if before["table"] != now["table"]:
        raise RunError(
            f"{path}: the table has changed since the run began, or this version reads it "
            f"differently: {before['table']}, now {now['table']}. Continue with that table and "
            "version, or choose another --out"
        )
    if "images" in before and not same_images(before["images"], now["images"]):
        raise RunError(
            f"{path} was begun with other images (their number, classes or contents differ); "
            "continue with the same ones, or choose another --out"
        )
    known = before.get("files_sha256", {})
    for name, digest in now["files_sha256"].items():
        if known.get(name, digest) != digest:
            raise RunError(
                f"{path}: {getattr(settings, name)} (--{name}) has changed since the run began. "
                f"Its SHA-256 began with {known[name][:12]}, now with {digest[:12]}. Continue "
                "with the same file, or choose another --out"
            )
