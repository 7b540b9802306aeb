"""YOLO maps: what a detector's raw outputs say, and how far that is from the truth.

A detector answers with maps, coarse to fine, each (n, anchors · (5 + classes), h, w): of every
anchor its centre x and y, width, height, objectness, and one number a class, before any sigmoid.
Redmon and Farhadi 2018, "YOLOv3" (arXiv 1804.02767), sections 2.1 to 2.3.

Deviations:
1. The published loss is a squared error of the raw coordinates; ours is complete IoU (Zheng et al.
   2020, arXiv 1911.08287, equation 10), as later versions of YOLO have it.
2. Published, one anchor learns of an object, the best. Here so does every anchor whose shape
   overlaps the object's by more than IGNORED: small data sets have few positives.
3. All three terms are divided by the number of positives in the batch, or of images where those are
   fewer: the rate depends neither on the batch nor on how much its images show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pruner.data.detection.boxes import Boxes
from pruner.models.yolov3 import PER_MAP

Anchors = tuple[tuple[float, float], ...]  # widths and heights in pixels, smallest first
# Smallest first, as published for COCO with three maps and, for tiny, with two. Darknet does not
# scale them with its images, and its weights expect them as they are.
PUBLISHED: dict[int, Anchors] = {
    3: ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198),
        (373, 326)),
    2: ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319)),
}  # fmt: skip
IGNORED = 0.5  # where a prediction overlaps an object by more, no objectness is learned (2.1)
BOX_WEIGHT = 2.0  # of the boxes' term, beside objectness and classes
MOST_GROWTH = 4.0  # a box's sides are those of its anchor times e to the power of ± this at most
CANDIDATES = 1000  # of an image, before overlapping ones are removed


class Maps(NamedTuple):
    """The same answers as boxes: (images, predictions, …), all maps one after the other."""

    corners: Tensor  # (n, p, 4), pixels
    objectness: Tensor  # (n, p), before the sigmoid
    classes: Tensor  # (n, p, classes), before the sigmoid


@dataclass(frozen=True)
class Found:
    """What a detector found in one image."""

    boxes: Boxes
    scores: Tensor  # (n,)


def read_maps(answer: Sequence[Tensor], anchors: Anchors, side: int) -> Maps:
    """Raw maps as boxes (section 2.1). `side`: of the images, in pixels."""
    corners, objectness, classes = [], [], []
    for number, raw in enumerate(answer):
        n, channels, height, width = raw.shape
        of_map = own_anchors(anchors, len(answer), number).to(raw)
        parts = raw.view(n, PER_MAP, channels // PER_MAP, height, width)
        parts = parts.permute(0, 1, 3, 4, 2)  # (n, anchors, h, w, 5 + classes)
        stride = torch.tensor([side / width, side / height]).to(raw)
        cells = _cells(height, width).to(raw)
        centre = (parts[..., :2].sigmoid() + cells) * stride
        size = parts[..., 2:4].clamp(-MOST_GROWTH, MOST_GROWTH).exp() * of_map[:, None, None]
        corners.append(torch.cat([centre - size / 2, centre + size / 2], dim=-1).flatten(1, 3))
        objectness.append(parts[..., 4].flatten(1))
        classes.append(parts[..., 5:].flatten(1, 3))
    return Maps(torch.cat(corners, 1), torch.cat(objectness, 1), torch.cat(classes, 1))


def own_anchors(anchors: Anchors, maps: int, number: int) -> Tensor:
    """(PER_MAP, 2): those of a map, of which the first is the coarsest and has the largest."""
    first = PER_MAP * (maps - 1 - number)
    return torch.tensor(anchors[first : first + PER_MAP])


def _cells(height: int, width: int) -> Tensor:
    """(h, w, 2): x and y of every cell."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1)


class Matched(NamedTuple):
    """Which predictions are to be which objects, of a batch."""

    image: Tensor  # (m,)
    prediction: Tensor  # (m,), as in Maps
    corners: Tensor  # (m, 4)
    classes: Tensor  # (m,)


def match(
    shapes: Sequence[Sequence[int]], anchors: Anchors, side: int, targets: Sequence[Boxes]
) -> Matched:
    """Objects to the cells they are centred in, and to the anchors of about their shape.

    `shapes`: (height, width) of the maps.
    """
    image = torch.cat([torch.full((len(boxes),), i) for i, boxes in enumerate(targets)])
    corners = torch.cat([boxes.corners for boxes in targets])
    classes = torch.cat([boxes.classes for boxes in targets])
    overlap = _overlap_of_shapes(corners[:, 2:] - corners[:, :2], torch.tensor(anchors))
    learns = overlap > IGNORED
    learns[torch.arange(len(corners)), overlap.argmax(1)] = True
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    found, before = [], 0
    for number, (height, width) in enumerate(shapes):
        first = PER_MAP * (len(shapes) - 1 - number)
        which, anchor = learns[:, first : first + PER_MAP].nonzero(as_tuple=True)
        x = (centres[which, 0] * width / side).long().clamp(0, width - 1)
        y = (centres[which, 1] * height / side).long().clamp(0, height - 1)
        prediction = before + (anchor * height + y) * width + x
        found.append(torch.stack([which, prediction]))
        before += PER_MAP * height * width
    which, prediction = torch.cat(found, dim=1)
    return Matched(image[which], prediction, corners[which], classes[which])


def _overlap_of_shapes(one: Tensor, other: Tensor) -> Tensor:
    """(n, m): IoU of boxes (n, 2) and (m, 2) with one corner in common."""
    shared = torch.minimum(one[:, None], other).prod(-1)
    return shared / (one.prod(-1)[:, None] + other.prod(-1) - shared)


def loss_of(maps: Maps, matched: Matched, targets: Sequence[Boxes]) -> Tensor:
    """Boxes, objectness and classes (section 2.1 and 2.2), by deviation 3."""
    from torchvision.ops import box_iou, complete_box_iou_loss

    device = maps.corners.device
    image, prediction, corners, classes = (part.to(device) for part in matched)
    count = max(len(image), len(targets))
    of_box = complete_box_iou_loss(maps.corners[image, prediction], corners, reduction="sum")
    wanted = F.one_hot(classes, maps.classes.shape[-1]).to(maps.classes)
    chosen = maps.classes[image, prediction]
    of_class = F.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum")
    present = torch.zeros_like(maps.objectness)
    present[image, prediction] = 1.0
    counts = torch.ones_like(present)
    with torch.no_grad():
        for i, boxes in enumerate(targets):
            if len(boxes):
                near = box_iou(maps.corners[i], boxes.corners.to(device)).amax(dim=1) > IGNORED
                counts[i] = torch.where(near & (present[i] == 0), 0.0, 1.0)
    of_object = F.binary_cross_entropy_with_logits(
        maps.objectness, present, weight=counts, reduction="sum"
    )
    return (BOX_WEIGHT * of_box + of_object + of_class) / count


def distilled(student: Maps, teacher: Maps) -> Tensor:
    """How far a detector is from its teacher, where that one sees objects.

    Mehta and Ozturk 2018, "Object detection at 200 frames per second" (arXiv 1805.06361), section
    2.2: boxes and classes count by the teacher's objectness, so that its empty background does not
    teach them. Ours: complete IoU for the boxes, and cross entropies, as in the loss.
    """
    from torchvision.ops import complete_box_iou_loss

    sees = teacher.objectness.sigmoid()
    count = sees.sum().clamp(min=1.0)
    of_box = complete_box_iou_loss(student.corners.flatten(0, 1), teacher.corners.flatten(0, 1))
    of_class = F.binary_cross_entropy_with_logits(
        student.classes, teacher.classes.sigmoid(), reduction="none"
    ).sum(-1)
    of_object = F.binary_cross_entropy_with_logits(student.objectness, sees, reduction="sum")
    boxes = (sees.flatten() * of_box).sum()
    return (BOX_WEIGHT * boxes + of_object + (sees * of_class).sum()) / count


def detect(maps: Maps, side: int, least_score: float, overlap: float, most: int) -> list[Found]:
    """The boxes of every image: overlapping ones of one class are one (torchvision's NMS).

    A box may be of several classes, as Darknet has it: its score is objectness times the class's.
    """
    from torchvision.ops import batched_nms, clip_boxes_to_image

    found = []
    for corners, objectness, classes in zip(*maps, strict=True):
        scores = objectness.sigmoid()[:, None] * classes.sigmoid()  # (p, classes)
        which, number = (scores >= least_score).nonzero(as_tuple=True)
        order = scores[which, number].argsort(descending=True, stable=True)[:CANDIDATES]
        which, number = which[order], number[order]
        boxes = clip_boxes_to_image(corners[which], (side, side))
        kept = batched_nms(boxes, scores[which, number], number, overlap)[:most]
        found.append(Found(Boxes(boxes[kept], number[kept]), scores[which, number][kept]))
    return found


def cluster(sides: Tensor, count: int, rounds: int = 300, seed: int = 0) -> Anchors:
    """Anchors by k-means over boxes' widths and heights (n, 2), smallest first.

    The distance is 1 − IoU of shapes (Redmon and Farhadi 2017, "YOLO9000", arXiv 1612.08242,
    section 2); a cluster's new centre is its median. Whole pixels.
    """
    random = torch.Generator().manual_seed(seed)
    distinct = torch.unique(sides, dim=0)
    if len(distinct) < count:
        raise ValueError(f"{count} anchors of {len(distinct)} different boxes")
    centres = distinct[torch.randperm(len(distinct), generator=random)[:count]]
    for _ in range(rounds):
        nearest = _overlap_of_shapes(sides, centres).argmax(1)
        moved = torch.stack(
            [
                sides[nearest == k].median(dim=0).values if (nearest == k).any() else centres[k]
                for k in range(count)
            ]
        )
        if torch.equal(moved, centres):
            break
        centres = moved
    rounded = [(max(1, round(w)), max(1, round(h))) for w, h in centres.tolist()]
    return tuple(sorted(rounded, key=lambda side: math.prod(side)))
