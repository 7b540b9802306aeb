"""A run's folder: its settings, and which steps are done. A step is done when its file is there."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lookup_tables.files import PARTIAL, first_fault, write_whole
from pruner.criteria import DYNAMIC
from pruner.data import same_images
from pruner.errors import RunError

WIDTHS_ONLY = ("uniform", "magnitude")  # methods that never remove a block
OF_AGENT = ("agent", "reward", "actions", "sensitivity")  # what only `rl` listens to
# What only a search listens to.
OF_SEARCH = (
    "method", *OF_AGENT, "depth", "widths", "keep_width", "episodes", "score_images",
)  # fmt: skip


class Settings(BaseModel):
    """Everything that decides a run's result.

    Exactly one of speedup and latency_ms is set, or neither where an architecture is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: str
    data: str
    data_dir: str | None = None
    normalisation: str = "imagenet"
    table: str
    speedup: float | None = None
    latency_ms: float | None = None
    architecture: str | None = None  # a file: that network, nothing is searched
    method: str = "thompson"
    criterion: str = "l1"
    regenerate: Annotated[float, Field(ge=0, le=1)] = 0.5
    reconstruct: bool = True
    depth: bool = False
    widths: bool = True
    keep_width: tuple[str, ...] = ()  # layers
    reward: str = "error_sensitivity"
    agent: str = "ddpg"
    actions: str = "widths"
    sensitivity: bool = True
    episodes: Annotated[int, Field(ge=1)] = 300
    epochs: Annotated[int, Field(ge=0)] = 40
    batch: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distill: Annotated[float, Field(ge=0, le=1)] = 0.5
    patience: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0  # what agents can be given
    score_images: Annotated[int, Field(ge=1)] = 1500  # held-out images that score a candidate
    recalibration_images: Annotated[int, Field(ge=1)] = 1000

    @classmethod
    def of(cls, **values) -> Settings:
        """Settings from a user's words; raises RunError naming the option that is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            detail = error.errors()[0]
            text = detail["msg"].removeprefix("Value error, ")
            if detail["loc"]:
                option = str(detail["loc"][0]).replace("_", "-")
                text = f"--{option} {detail['input']!r}: {text[0].lower()}{text[1:]}"
            raise RunError(text) from None

    def options(self) -> list[str]:
        """The options of `pruner prune` that give these settings; the usual ones are left out."""
        words = []
        for name, value in self:
            option = name.replace("_", "-")
            if value == _usual(name):
                continue
            if name == "depth" and self.method in WIDTHS_ONLY:  # in a comparison with --depth
                continue
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif isinstance(value, tuple):
                words += [word for one in value for word in (f"--{option}", one)]
            else:
                words += [f"--{option}", str(value)]
        return words

    def varied(self, **changes) -> Settings:
        """The same with some settings changed, and checked again; raises RunError."""
        return self.of(**(self.model_dump() | changes))

    @model_validator(mode="after")
    def _names_what_exists(self):
        from pruner.known import KNOWN  # search methods are slow to import

        for name, known in KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"--{name} {value!r} is unknown; choose one of {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _asks_for_what_is_used(self):
        for name in OF_AGENT if self.method != "rl" else ():
            if getattr(self, name) != _usual(name):
                raise ValueError(
                    f"--{name} has no effect with --method {self.method}; it applies to rl"
                )
        return self

    @model_validator(mode="after")
    def _regenerates_what_is_selected(self):
        if self.criterion != DYNAMIC and self.regenerate != _usual("regenerate"):
            raise ValueError(
                f"--regenerate has no effect with --criterion {self.criterion}; it applies to "
                f"{DYNAMIC}"
            )
        return self

    @model_validator(mode="after")
    def _leaves_something_to_decide(self):
        if not self.widths and not self.depth:
            raise ValueError("with --no-widths only blocks may go: give --depth too")
        if not self.widths and self.method in WIDTHS_ONLY:
            raise ValueError(f"{self.method} decides widths only; --no-widths leaves it nothing")
        return self

    @model_validator(mode="after")
    def _searches_or_takes_what_is_given(self):
        for name in OF_SEARCH if self.architecture is not None else ():
            if getattr(self, name) != _usual(name):
                option = name.replace("_", "-")
                raise ValueError(
                    f"--{option} has no effect with --architecture: that network is not searched"
                )
        return self

    @model_validator(mode="after")
    def _has_one_budget(self):
        for name in ("speedup", "latency_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be positive and finite, got {value}")
        missing = [self.speedup, self.latency_ms].count(None)
        if missing == 0 or (missing == 2 and self.architecture is None):
            raise ValueError("give exactly one of --speedup and --latency-ms")
        return self


def _usual(name: str):
    return Settings.model_fields[name].default


class RunFolder:
    """Paths of a run's files, and the settings it was begun with."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.search_log = path / "search.jsonl"
        self.architecture = path / "architecture.json"
        self.checkpoint = path / "checkpoint.pt"
        self.training = path / "training.json"
        self.cut_weights = path / "cut.safetensors"
        self.weights = path / "model.safetensors"
        self.onnx = path / "model.onnx"
        self.dense_onnx = path / "dense.onnx"
        self.measured = path / "measured.json"
        self.seconds = path / "seconds.json"
        self.result = path / "result.json"
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
            raise RunError(f"{path} is not empty and is no run; choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "origin.json", origin)
        write_json(file, settings.model_dump())
        return cls(path, settings)

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
            raise RunError(f"{path} is no run folder: settings.json is missing") from None
        except ValidationError as error:
            raise RunError(f"{path}/settings.json: {first_fault(error)}") from None


def _is_of_a_killed_start(file: Path) -> bool:
    return file.name == "origin.json" or file.name.endswith(PARTIAL)


def _stored_settings(path: Path) -> dict:
    from pruner.former import settings_of_today  # search methods are slow to import

    found = read_json(path, made_anew=False)
    return settings_of_today(found) if isinstance(found, dict) else found


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, made_anew: bool = True) -> dict | list:
    """A JSON file of a run, `made_anew` where it is missing; raises RunError for a damaged one."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        mend = "delete it, and the same command makes it anew" if made_anew else "restore it"
        raise RunError(f"{path} is damaged ({error}); {mend}, or choose another --out") from None


def _require_same(path: Path, before: Settings, now: Settings, known_files: dict) -> None:
    """All but where files lie: those that are known by their content, images and the table."""

    def wording(name: str, value):
        if name in ("data_dir", "table") or (name == "depth" and now.method in WIDTHS_ONLY):
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
            f"{path}: its search was begun by a version that scored candidates otherwise. "
            "Finish it with that version, or choose another --out"
        )


def require_same_origin(path: Path, before: dict, now: dict, settings: Settings) -> None:
    """Where table and files lie does not matter, what they hold does; raises RunError."""
    if before["table"] != now["table"]:
        raise RunError(
            f"{path} was begun with another table, or its rows or how they are read have changed "
            f"since: {before['table']}, now {now['table']}. Continue with that table and that "
            "version, or choose another --out"
        )
    if "images" in before and not same_images(before["images"], now["images"]):
        raise RunError(
            f"{path} was begun with other images (other numbers, classes or contents); continue "
            "with the same ones, or choose another --out"
        )
    known = before.get("files_sha256", {})
    for name, digest in now["files_sha256"].items():
        if known.get(name, digest) != digest:
            raise RunError(
                f"{path} was begun with another content of {getattr(settings, name)} "
                f"(--{name}): its SHA-256 began with {known[name][:12]}, now {digest[:12]}. "
                "Continue with the same file, or choose another --out"
            )
