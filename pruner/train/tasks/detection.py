"""Detection: boxes and classes. The score is the mean average precision at an overlap of 0.5."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor, nn

from lookup_tables.registry import OwnSettings
from pruner import DataError
from pruner.data.detection.boxes import Boxes
from pruner.data.images import Data
from pruner.models.yolov3 import PER_MAP
from pruner.train.tasks.base import Task, answer_to
from pruner.train.tasks.yolo import (
    PUBLISHED,
    Anchors,
    Found,
    Maps,
    detect,
    distilled,
    loss_of,
    match,
    read_maps,
)

STRIDE = 32  # pixels of the coarsest map's cells
CLEAR = 0.4  # score of the boxes that pictures show
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#469990", "#9a6324", "#808000")
MOST_FOUND = 100  # boxes an image, as COCO counts them


class DetectionSettings(OwnSettings):
    """What a user may set of how maps are read."""

    anchors: str = Field(
        "published",
        description="Widths and heights in pixels of the network's input, as 10x13,16x30,…: three "
        "for each map, the smallest first; `pruner anchors` finds them. Several sets, for models "
        "with other numbers of maps, are parted by a slash. `published` are YOLOv3's for COCO, "
        "made for images of about 416 pixels.",
    )
    least_score: float = Field(
        0.005, gt=0, lt=1, description="Boxes of a lower score are dropped before they are judged."
    )
    nms: float = Field(
        0.45, gt=0, lt=1, description="Of boxes of one class that overlap by more, the best stays."
    )

    @field_validator("anchors")
    @classmethod
    def _are_anchors(cls, text: str) -> str:
        if text != "published":
            sets_of(text)
        return text


def sets_of(text: str) -> dict[int, Anchors]:
    """Anchors in words → those for every number of maps; raises ValueError."""
    sets = [parsed(part) for part in text.split("/")]
    found = {len(each) // PER_MAP: each for each in sets}
    if len(found) < len(sets):
        raise ValueError(f"two sets are for one number of maps in {text!r}")
    return found


def parsed(text: str) -> Anchors:
    """Anchors from words; raises ValueError."""
    try:
        pairs = [tuple(float(side) for side in pair.split("x")) for pair in text.split(",")]
        found = tuple((width, height) for width, height in pairs)
    except ValueError:
        raise ValueError(f"expected widths and heights as 10x13,16x30,…, found {text!r}") from None
    if len(found) % PER_MAP or min(map(min, found)) <= 0:
        raise ValueError(f"expected {PER_MAP} anchors a map, all above 0; found {text!r}")
    if [w * h for w, h in found] != sorted(w * h for w, h in found):
        raise ValueError("anchors begin with the smallest; sort them by their area")
    return found


def told(anchors: Anchors) -> str:
    """Anchors in words, as `parsed` reads them."""
    return ",".join(f"{width:g}x{height:g}" for width, height in anchors)


class MeanAveragePrecision:
    """torchmetrics' COCO evaluation over all images; its score is mAP@0.5."""

    def __init__(self, read: Any) -> None:
        """`read`: answer → what was found in every image."""
        from torchmetrics.detection import MeanAveragePrecision as Library

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries it could use in place of this one
            self._library = Library(max_detection_thresholds=[1, 10, MOST_FOUND])
        self._read = read

    def update(self, answer: Sequence[Tensor], targets: list[Boxes]) -> None:
        found: list[Found] = self._read(answer)
        self._library.update(
            [
                {"boxes": f.boxes.corners, "labels": f.boxes.classes, "scores": f.scores}
                for f in found
            ],
            [{"boxes": boxes.corners, "labels": boxes.classes} for boxes in targets],
        )

    def compute(self) -> float:
        return max(0.0, float(self._computed()["map_50"]))  # -1 where nothing is shown

    def details(self) -> dict[str, float]:
        return {"mAP@0.5:0.95": max(0.0, float(self._computed()["map"]))}

    def _computed(self) -> dict[str, Tensor]:
        return self._library.compute()


class Detection:
    """Answers are maps, coarse to fine, as `yolo.py` reads them; targets a list of Boxes."""

    def __init__(self, settings: DetectionSettings | None = None) -> None:
        self.settings = settings or DetectionSettings()
        own = self.settings.anchors
        self._sets = None if own == "published" else sets_of(own)

    def loss(self, answer: Sequence[Tensor], targets: list[Boxes]) -> Tensor:
        side, anchors = self._read_by(answer)
        matched = match([raw.shape[2:] for raw in answer], anchors, side, targets)
        return loss_of(read_maps(answer, anchors, side), matched, targets)

    def training_loss(self, answer: Sequence[Tensor], targets: list[Boxes]) -> Tensor:
        return self.loss(answer, targets)

    def distillation(
        self, answer: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float
    ) -> Tensor:
        """Without a temperature: objectness is soft already."""
        return distilled(self._maps(answer), self._maps(teacher))

    def metric(self) -> MeanAveragePrecision:
        return MeanAveragePrecision(self.found)

    def batch_score(self, answer: Sequence[Tensor], targets: list[Boxes]) -> float:
        """The mean overlap of objects and the predictions that are to be them: quick to tell."""
        side, anchors = self._read_by(answer)
        with torch.no_grad():
            matched = match([raw.shape[2:] for raw in answer], anchors, side, targets)
            predicted = self._maps(answer).corners.cpu()[matched.image, matched.prediction]
        return float(_overlap(predicted, matched.corners).mean()) if len(predicted) else 0.0

    def as_answer(self, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(outputs)

    def pictured(
        self, images: Tensor, answers: Sequence[Sequence[Tensor]], targets: list[Boxes]
    ) -> bytes:
        """Boxes in the colours of their classes; of answers those scored CLEAR or more."""
        from torchvision.utils import draw_bounding_boxes, make_grid

        columns = [list(targets), *(self._clear(answer) for answer in answers)]
        cells = []
        for row, image in enumerate(images):
            for column in columns:
                boxes, pixels = column[row], (image.clamp(0, 1) * 255).round().to(torch.uint8)
                colours = [COLOURS[number % len(COLOURS)] for number in boxes.classes.tolist()]
                cells.append(
                    draw_bounding_boxes(pixels, boxes.corners, colors=colours, width=2)
                    if len(boxes)
                    else pixels
                )
        grid = make_grid(torch.stack(cells), nrow=len(columns), padding=4, pad_value=255)
        png = io.BytesIO()
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(png, format="PNG")
        return png.getvalue()

    def _clear(self, answer: Sequence[Tensor]) -> list[Boxes]:
        kept = [(found.boxes, found.scores >= CLEAR) for found in self.found(answer)]
        return [Boxes(boxes.corners[clear], boxes.classes[clear]) for boxes, clear in kept]

    def found(self, answer: Sequence[Tensor]) -> list[Found]:
        """The boxes of every image, overlapping ones removed."""
        side, _ = self._read_by(answer)
        own = self.settings
        maps = self._maps([raw.float() for raw in answer])
        return detect(maps, side, own.least_score, own.nms, MOST_FOUND)

    def check(self, model: nn.Module, shape: tuple[int, int, int], data: Data) -> None:
        _, targets = data.train.batch(torch.arange(1))
        if not (isinstance(targets, list) and isinstance(targets[0], Boxes)):
            raise DataError(
                f"{data.name} has no boxes; --task detection needs voc, yolo or coco data, or a "
                "function of yours whose targets are lists of pruner.data.detection.boxes.Boxes"
            )
        side = shape[-1]
        if shape == data.shape and (shape[1] != side or side % STRIDE):
            raise DataError(
                f"images of {shape[1]}×{side}: a detector reads squares whose side is a multiple "
                f"of {STRIDE}; --image-size {max(STRIDE, round(side / STRIDE) * STRIDE)} is one"
            )
        answer = answer_to(model, shape, data)
        channels = PER_MAP * (5 + data.classes)
        if not isinstance(answer, list | tuple) or not all(
            isinstance(raw, Tensor) and raw.dim() == 4 for raw in answer
        ):
            raise DataError(
                f"the model returns {type(answer).__name__}; detection expects raw maps, coarse to "
                f"fine, each (images, {channels}, height, width)"
            )
        for raw in answer:
            if raw.shape[1] != channels:
                raise DataError(
                    f"the model's maps have {raw.shape[1]} channels, but {data.classes} classes of "
                    f"{data.name} need {PER_MAP} · (5 + {data.classes}) = {channels}"
                )
        sizes = [tuple(raw.shape[2:]) for raw in answer]
        expected = [(2**n * side // STRIDE,) * 2 for n in range(len(sizes))]
        if not sizes or sizes != expected:
            raise DataError(
                f"the model's maps are {_told(sizes) or 'none'} for images of {side}×{side}; "
                f"expected {_told(expected) or f'{side // STRIDE}×{side // STRIDE}'}: coarse to "
                f"fine, the first of one cell for {STRIDE} pixels, each twice as fine"
            )
        try:
            self._read_by(answer)
        except ValueError as error:
            raise DataError(f"--anchors: {error}") from None

    def _maps(self, answer: Sequence[Tensor]) -> Maps:
        side, anchors = self._read_by(answer)
        return read_maps(answer, anchors, side)

    def _read_by(self, answer: Sequence[Tensor]) -> tuple[int, Anchors]:
        """(side of the images, anchors)."""
        side = STRIDE * answer[0].shape[-1]
        return side, self.anchors(len(answer))

    def anchors(self, maps: int) -> Anchors:
        """Of a detector with so many maps; raises ValueError."""
        known = PUBLISHED if self._sets is None else self._sets
        if maps in known:
            return known[maps]
        if self._sets is None:
            raise ValueError(f"none are published for {maps} maps; give your own")
        found = ", ".join(str(len(each)) for each in known.values())
        raise ValueError(f"{maps} maps need {PER_MAP * maps}, found {found}")


def _told(sizes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("×".join(map(str, size)) for size in sizes)


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """IoU of boxes, pair by pair (n,)."""
    low = torch.maximum(one[:, :2], other[:, :2])
    high = torch.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (one, other)]
    return shared / (areas[0] + areas[1] - shared)


DETECTION = Task(
    "detection",
    "boxes and their classes, from the raw maps of a YOLO",
    "mAP@0.5",
    Detection,
    DetectionSettings,
)
