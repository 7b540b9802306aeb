"""Shapes: a tiny detection set that is drawn here, for demonstrations and tests.

Squares, discs and triangles of any colour, one to four a picture, on a ground of noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from pruner.data.detection.boxes import Boxes
from pruner.data.detection.pictures import Picture, Pictures
from pruner.data.images import Data

NAMES = ("disc", "square", "triangle")
TRAIN, HELD_OUT, TEST = 360, 100, 140
CANVAS = 96  # pixels of a picture's side
SMALLEST, LARGEST = 16, 44  # pixels of a shape's side
MOST = 4
TRIES = 20  # to place one where it covers no other


def shapes(folder: Path | None, seed: int, side: int) -> Data:
    """600 pictures, 140 of them the test set; the same ones whatever the seed."""
    drawn = [
        _drawn(np.random.default_rng([7, number])) for number in range(TRAIN + HELD_OUT + TEST)
    ]
    order = np.random.default_rng(seed).permutation(TRAIN + HELD_OUT)
    train, held_out = order[:TRAIN], order[TRAIN:]
    return Data(
        "shapes",
        Pictures([drawn[i] for i in train], side),
        Pictures([drawn[i] for i in held_out], side),
        Pictures(drawn[TRAIN + HELD_OUT :], side),
        classes=len(NAMES),
        shape=(3, side, side),
        class_names=NAMES,
    )


def _drawn(random: np.random.Generator) -> Picture:
    ground = random.integers(0, 256, 3)
    grain = random.integers(-32, 33, (CANVAS, CANVAS, 1), dtype=np.int16)
    noise = (grain + ground).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise)
    pen = ImageDraw.Draw(picture)
    corners: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(int(random.integers(1, MOST + 1))):
        place = _free(corners, random)
        if place is None:
            continue
        which = int(random.integers(len(NAMES)))
        colour = tuple(int(value) for value in (ground + random.integers(70, 187, 3)) % 256)
        _draw(pen, which, place, colour)
        corners.append(place)
        classes.append(which)
    boxes = Boxes(torch.tensor(corners, dtype=torch.float32), torch.tensor(classes))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()
    return Picture(Path("shapes"), CANVAS, CANVAS, boxes, pixels)


def _free(
    taken: list[tuple[int, int, int, int]], random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A square that covers no other, if one is found."""
    for _ in range(TRIES):
        side = int(random.integers(SMALLEST, LARGEST + 1))
        x, y = (int(value) for value in random.integers(0, CANVAS - side, 2))
        if all(x >= x2 or x + side <= x1 or y >= y2 or y + side <= y1 for x1, y1, x2, y2 in taken):
            return x, y, x + side, y + side
    return None


def _draw(
    pen: ImageDraw.ImageDraw, which: int, place: tuple[int, int, int, int], colour: tuple[int, ...]
) -> None:
    x1, y1, x2, y2 = place
    inside = (x1, y1, x2 - 1, y2 - 1)
    if NAMES[which] == "disc":
        pen.ellipse(inside, fill=colour)
    elif NAMES[which] == "square":
        pen.rectangle(inside, fill=colour)
    else:
        pen.polygon([(x1, y2 - 1), (x2 - 1, y2 - 1), ((x1 + x2 - 1) / 2, y1)], fill=colour)
