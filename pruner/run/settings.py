"""Settings: everything that decides a run's result. Commands derive their options from it.

What all runs have stands here; what one method, criterion or task has of its own stands with it, in
its registry, and is kept under `method_settings`, `criterion_settings` and `task_settings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lookup_tables.registry import OwnSettings, Registry
from pruner import RunError, models
from pruner.criteria import CRITERIA
from pruner.criteria.masks import MASKS
from pruner.data import DATA_SETS, IMAGE_SIZE, load_data
from pruner.data.images import Data
from pruner.data.memory import NORMALISATIONS
from pruner.search.methods import METHODS
from pruner.search.methods.base import Method
from pruner.search.space import Kind
from pruner.train.quantise import Calibration
from pruner.train.tasks import TASKS

# The settings that choose an entry of a registry, whose own settings lie beside.
CHOICES: dict[str, Registry] = {
    "method": METHODS, "criterion": CRITERIA, "mask": MASKS, "task": TASKS,
}  # fmt: skip
# What only a search listens to.
OF_SEARCH = (
    "method", "confirm", "depth", "widths", "density", "keep_width", "keep_layer", "episodes",
    "at_once", "score_images",
)  # fmt: skip

_COUNT_THEIR_OWN = [n for n, m in METHODS.items() if m.scores and not m.scores_one]
# What decides how a network that was found is finished; the rest decides what is found.
OF_FINISHING = (
    "epochs", "batch", "learning_rate", "weight_decay", "distill", "patience", "schedule",
    "calibration", "calibration_images", "repair_above", "repair_epochs",
)  # fmt: skip
WHERE = ("table", "weights", "data_dir")  # files that may lie elsewhere by now


@dataclass(frozen=True)
class Shown:
    """How a setting shows in the commands' help."""

    panel: str
    names: tuple[str, ...] = ()  # of its option, beside its own
    is_path: bool = False


_MODEL, _BUDGET, _SEARCH, _CUT, _TRAINING, _INT8 = (
    "Model and data", "Budget", "Search", "Cutting", "Fine-tuning", "INT8 (tables in INT8 only)",
)  # fmt: skip


# What only a run against a table in INT8 listens to.
OF_INT8 = ("calibration", "calibration_images", "repair_above", "repair_epochs")


class Settings(BaseModel):
    """Everything that decides a run's result.

    Exactly one of speedup and latency_ms is set, or neither where an architecture is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Shown(_MODEL)] = Field(
        description=f"{', '.join(models.MODELS)}, or file.py:factory."
    )
    weights: Annotated[str, Shown(_MODEL, is_path=True)] = Field(
        description="The trained weights: .safetensors, .th or .pt; of detectors also Darknet's "
        ".weights."
    )
    data: Annotated[str, Shown(_MODEL)] = Field(
        description=f"{', '.join(DATA_SETS)}, or file.py:function."
    )
    data_dir: Annotated[str | None, Shown(_MODEL, is_path=True)] = Field(
        None, description="Where the data set is."
    )
    normalisation: Annotated[str, Shown(_MODEL)] = Field(
        "imagenet",
        description="For cifar10: the means and deviations that normalise its images, "
        f"{' or '.join(NORMALISATIONS)}. Use those of the weights' training; the published "
        "ResNets used ImageNet's.",
    )
    image_size: Annotated[int | None, Shown(_MODEL)] = Field(
        None,
        ge=1,
        description="For pictures with boxes: pixels of the square that images are resized to. "
        f"Usually {IMAGE_SIZE}.",
    )
    task: Annotated[str, Shown(_MODEL)] = Field(
        "classification", description="What the model predicts."
    )
    table: Annotated[str, Shown(_MODEL, is_path=True)] = Field(
        description="The latency table's folder."
    )
    speedup: Annotated[float | None, Shown(_BUDGET)] = Field(
        None, description="Latency budget as a speedup over the dense network."
    )
    latency_ms: Annotated[float | None, Shown(_BUDGET)] = Field(
        None, description="Latency budget in milliseconds."
    )
    confirm: Annotated[bool, Shown(_BUDGET)] = Field(
        False,
        description="On the table's device: time the network that was found before it is "
        "fine-tuned. Where it is slower than asked, search again for a faster one.",
    )
    architecture: Annotated[str | None, Shown(_SEARCH, is_path=True)] = Field(
        None,
        description="Cut and train the architecture in this file, such as another run's "
        "architecture.json. This skips the search and needs no budget.",
    )
    method: Annotated[str, Shown(_SEARCH)] = Field("thompson", description="Search method.")
    depth: Annotated[bool, Shown(_SEARCH)] = Field(
        False, description="Let the search remove whole blocks."
    )
    widths: Annotated[bool, Shown(_SEARCH)] = Field(
        True, description="Let the search narrow layers, not only remove blocks."
    )
    density: Annotated[bool, Shown(_SEARCH)] = Field(
        False,
        description="Let the search leave out weights, layer by layer. Needs a table that was "
        "measured with --kernels block_sparse.",
    )
    keep_width: Annotated[tuple[str, ...], Shown(_SEARCH)] = Field(
        (),
        description="Name of a layer that keeps all its channels. Repeatable. With --depth, the "
        "search may still remove its block.",
    )
    keep_layer: Annotated[tuple[str, ...], Shown(_SEARCH)] = Field(
        (),
        description="Name of a layer or block that is not removed. Repeatable.",
    )
    episodes: Annotated[int, Shown(_SEARCH)] = Field(
        300,
        ge=1,
        description="How many candidates the search may score. These methods score one: "
        f"{', '.join(name for name, method in METHODS.items() if method.scores_one)}. Settings of "
        f"its own decide of {', '.join(_COUNT_THEIR_OWN)}.",
    )
    at_once: Annotated[int, Shown(_SEARCH)] = Field(
        1,
        ge=1,
        description="How many candidates are scored before the search learns from them. Another "
        "number changes the result.",
    )
    score_images: Annotated[int, Shown(_SEARCH)] = Field(
        1500, ge=1, description="How many held-out images score a candidate."
    )
    criterion: Annotated[str, Shown(_CUT)] = Field("l1", description="Pruning criterion.")
    mask: Annotated[str, Shown(_CUT)] = Field(
        "second_order", description="How weights are chosen that stay in a sparse layer."
    )
    reconstruct: Annotated[bool, Shown(_CUT)] = Field(
        True, description="Refit weights to the remaining channels before fine-tuning."
    )
    recalibration_images: Annotated[int, Shown(_CUT)] = Field(
        1000, ge=1, description="How many training images recalibrate BatchNorm."
    )
    epochs: Annotated[int, Shown(_TRAINING)] = Field(40, ge=0, description="Epochs of fine-tuning.")
    batch: Annotated[int, Shown(_TRAINING)] = Field(
        128, ge=1, description="Images per training step."
    )
    learning_rate: Annotated[float, Shown(_TRAINING, ("--rate",))] = Field(
        0.05, gt=0, description="Peak learning rate."
    )
    weight_decay: Annotated[float, Shown(_TRAINING)] = Field(
        5e-4, ge=0, description="Weight decay. BatchNorm and biases have none."
    )
    distill: Annotated[float, Shown(_TRAINING)] = Field(
        0.5, ge=0, le=1, description="Distillation weight; the original network is the teacher."
    )
    patience: Annotated[int, Shown(_TRAINING)] = Field(
        0,
        ge=0,
        description="Stop after this many epochs without progress on held-out images. 0: never, "
        "because a cosine schedule gains most at its end.",
    )
    schedule: Annotated[
        Literal["one_shot", "gradual", "straight_through", "admm"], Shown(_TRAINING)
    ] = Field(
        "one_shot",
        description="How weights leave sparse layers: one_shot before fine-tuning, gradual during "
        "its first half, the same with a way back (straight_through), or drawn towards 0 there and "
        "then cut (admm).",
    )
    calibration: Annotated[Calibration, Shown(_INT8)] = Field(
        "minmax",
        description="How the range of activations is found: minmax, percentile or entropy.",
    )
    calibration_images: Annotated[int, Shown(_INT8)] = Field(
        512, ge=1, description="How many training images it is found by."
    )
    repair_above: Annotated[float, Shown(_INT8)] = Field(
        0.3,
        ge=0,
        description="Points of accuracy that INT8 may cost on held-out images; beyond that, a "
        "quantisation-aware training follows.",
    )
    repair_epochs: Annotated[int, Shown(_INT8)] = Field(
        2, ge=0, description="How long that training is. 0: never."
    )
    seed: Annotated[int, Shown(_TRAINING)] = Field(
        0, ge=0, lt=2**32 - 1, description="Seed of everything random."
    )
    method_settings: dict[str, Any] = Field({}, description="The method's own; usual ones left out")
    criterion_settings: dict[str, Any] = Field({}, description="The criterion's own")
    mask_settings: dict[str, Any] = Field({}, description="The mask's own")
    task_settings: dict[str, Any] = Field({}, description="The task's own")

    # -- from words, and to words --------------------------------------------------------------

    @classmethod
    def of(cls, **words: Any) -> Settings:
        """Settings from a user's words, each setting by its name, own ones beside common ones.

        An own setting of None was not given. Raises RunError naming the option that is wrong.
        """
        common = {name: value for name, value in words.items() if name in cls.model_fields}
        own = {n: v for n, v in words.items() if n not in common and v is not None}
        chosen = {field: common.get(field, usual(field)) for field in CHOICES}
        for field, registry in CHOICES.items():
            known = registry.choose(chosen[field], RunError).settings.model_fields
            common[f"{field}_settings"] = {n: own.pop(n) for n in [*own] if n in known}
        for name in own:
            raise RunError(_without_effect(name, chosen))
        try:
            return cls(**common)
        except ValidationError as error:
            raise RunError(_told(error)) from None

    def words(self) -> dict[str, Any]:
        """Every setting by its name, own ones beside common ones, as `of` takes them."""
        found: dict[str, Any] = {}
        for name, value in self:
            if name.removesuffix("_settings") in CHOICES and name not in CHOICES:
                continue
            found[name] = value
            if name in CHOICES:
                found |= getattr(self, f"{name}_settings")
        return found

    def varied(self, **changes: Any) -> Settings:
        """The same with some settings changed, and checked again; raises RunError.

        With another method, criterion or task the former one's own settings go.
        """
        words = self.words()
        for field in CHOICES:
            if changes.get(field, getattr(self, field)) != getattr(self, field):
                for name in getattr(self, f"{field}_settings"):
                    words.pop(name)
        return self.of(**(words | changes))

    def options(self) -> list[str]:
        """The options of `pruner prune` that give these settings; the usual ones are left out."""
        found: list[str] = []
        for name, value in self.words().items():
            option = name.replace("_", "-")
            if name in type(self).model_fields and value == usual(name):
                continue
            if name == "depth" and not self.removes_blocks:  # in a comparison with --depth
                continue
            if isinstance(value, bool):
                found.append(f"--{option}" if value else f"--no-{option}")
            elif isinstance(value, tuple):
                found += [word for one in value for word in (f"--{option}", one)]
            else:
                found += [f"--{option}", str(value)]
        return found

    # -- what follows from them ----------------------------------------------------------------

    def own(self, field: str) -> OwnSettings:
        """The method's, the criterion's or the task's own settings, the usual ones filled in."""
        entry = CHOICES[field][getattr(self, field)]
        return entry.settings(**getattr(self, f"{field}_settings"))

    def read_data(self, report: Callable[[str, int, int, str], None]) -> Data:
        """The data set that they name; raises DataError. `report` hears what was left out."""
        data = load_data(
            self.data,
            self.data_dir,
            normalisation=self.normalisation,
            image_size=self.image_size,
        )
        for note in data.notes:
            report("load", 1, 1, note)
        return data

    @property
    def searched_by(self) -> Method:
        return METHODS[self.method]

    @property
    def scored(self) -> int:
        """How many candidates its search may score."""
        scores = self.searched_by.scores
        return scores(self.own("method")) if scores else self.episodes

    @property
    def removes_blocks(self) -> bool:
        """Whether its method ever does."""
        return Kind.BLOCK in self.searched_by.decides

    @property
    def may_remove(self) -> bool:
        """Whether this search may remove blocks: by --depth, or as all that its method does."""
        return self.searched_by.only_blocks or (self.depth and self.removes_blocks)

    @property
    def leaves_out_weights(self) -> bool:
        """Whether its method ever does."""
        return Kind.DENSITY in self.searched_by.decides

    # -- birth ---------------------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _keeps_own_settings_that_are_not_usual(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        found = dict(values)
        for field, registry in CHOICES.items():
            name = found.get(field, usual(field))
            if name not in registry:
                raise ValueError(
                    f"--{field} {name!r} is unknown; choose one of {', '.join(registry)}"
                )
            try:
                own = registry[name].settings(**found.get(f"{field}_settings", {}))
            except ValidationError as error:
                raise ValueError(_told(error)) from None
            found[f"{field}_settings"] = own.model_dump(exclude_defaults=True)
        return found

    @model_validator(mode="after")
    def _leaves_something_to_decide(self) -> Settings:
        if not self.widths and not (self.may_remove or self.depth or self.density):
            raise ValueError(
                "--no-widths leaves only blocks to remove or weights to leave out; give --depth or "
                "--density too"
            )
        if self.density and CRITERIA[self.criterion].select is not None:
            raise ValueError(
                f"--density: --criterion {self.criterion} trains while it selects, and leaves no "
                "weights out; use another criterion"
            )
        if self.density and not self.leaves_out_weights:
            raise ValueError(f"--density: {self.method} never leaves out weights; drop it")
        if not self.widths and not (self.removes_blocks or self.density):
            raise ValueError(
                f"{self.method} decides widths only; --no-widths leaves it nothing to decide"
            )
        return self

    @model_validator(mode="after")
    def _searches_or_takes_what_is_given(self) -> Settings:
        if self.architecture is None:
            return self
        given = [name for name in OF_SEARCH if getattr(self, name) != usual(name)]
        for name in [*given, *self.method_settings]:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} has no effect with --architecture: that network is not searched"
            )
        return self

    @model_validator(mode="after")
    def _trains_long_enough_to_leave_out_weights(self) -> Settings:
        if self.schedule != "one_shot" and (self.patience or not self.epochs):
            given = "--patience" if self.patience else "--epochs 0"
            raise ValueError(
                f"--schedule {self.schedule} leaves out weights in the course of all epochs; drop "
                f"{given}"
            )
        return self

    @model_validator(mode="after")
    def _has_one_budget(self) -> Settings:
        for name in ("speedup", "latency_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be positive and finite, got {value}")
        if self.speedup is not None and self.speedup < 1:
            raise ValueError(
                f"--speedup {self.speedup:g} asks for a slower network than the dense one, which "
                "is 1; give more than 1"
            )
        missing = [self.speedup, self.latency_ms].count(None)
        if missing == 0 or (missing == 2 and self.architecture is None):
            raise ValueError("give exactly one of --speedup and --latency-ms")
        return self


def usual(name: str) -> Any:
    """A common setting's default."""
    return Settings.model_fields[name].default


def owners(name: str) -> Iterator[tuple[str, str]]:
    """(choosing setting, entry) of everything that has an own setting of this name."""
    for field, registry in CHOICES.items():
        for entry in registry.values():
            if name in entry.settings.model_fields:
                yield field, entry.name


def _without_effect(name: str, chosen: Mapping[str, str]) -> str:
    """Why a setting that nothing chosen listens to is refused."""
    known = [*owners(name)]
    if not known:
        return f"{name!r} is not a setting; choose from {', '.join(Settings.model_fields)}"
    field, _ = known[0]
    applies = ", ".join(entry for of, entry in known if of == field)
    option = name.replace("_", "-")
    return f"--{option} has no effect with --{field} {chosen[field]}; it applies to {applies}"


def _told(error: ValidationError) -> str:
    """A validation's first fault, by the option that has it."""
    detail = error.errors()[0]
    text = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return text
    option = str(detail["loc"][0]).replace("_", "-")
    return f"--{option} {detail['input']!r}: {text[0].lower()}{text[1:]}"
