"""Pictures with boxes, read from files: resized to the network's size, augmented where it trains.

A picture is stretched to a square, not padded to one: boxes overlap by the same share before and
after, so a score does not depend on it. Pixels are divided by 255 and not normalised further, as
Darknet's are.

Augmentation, drawn anew for every picture: one in two is a mosaic of four pictures (Bochkovskiy et
al. 2020, "YOLOv4", arXiv 2004.10934, section 3.3), the others are zoomed into by up to about two;
then either is mirrored, and brightness, contrast and saturation change.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pruner import DataError
from pruner.data.detection.boxes import Boxes, together
from pruner.data.images import a_tenth

MOST_BYTES = 1e9  # of decoded pictures that are kept
MOSAICS = 0.5  # share of the augmented pictures
MOST_ZOOM = 2.0  # a zoomed picture is a window of 1/2 to 1 of its sides, before it is stretched
MOST_STRETCH = 1.25  # of a window's sides to each other
LIGHT = 0.3  # brightness, contrast and saturation change by at most so much
GREY = 114  # what a mosaic has where its pictures end


@dataclass(frozen=True)
class Picture:
    """A file and its objects, corners in the file's own pixels.

    `pixels` (3, height, width) uint8 where it comes from no file.
    """

    file: Path
    width: int
    height: int
    boxes: Boxes
    pixels: Tensor | None = None


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a detection data set as `Images`: targets are a list of `Boxes`.

    Raises DataError for a file that cannot be read, or is not as large as its label says.
    """

    pictures: Sequence[Picture]
    side: int  # pixels of the square that the network sees
    _decoded: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, list[Boxes]]:
        """(images (n, 3, side, side) in 0 … 1, boxes in pixels of them)."""
        wanted = indices.tolist()
        with ThreadPoolExecutor(2) as pool:  # PIL decodes outside the interpreter's lock
            if seed is None:
                made = [*pool.map(self._plain, wanted)]
            else:
                drawn = torch.Generator().manual_seed(seed)
                seeds = torch.randint(2**31, (len(wanted),), generator=drawn).tolist()
                made = [*pool.map(self._augmented, wanted, seeds)]
        pixels, boxes = zip(*made, strict=True)
        return torch.stack(pixels).float() / 255, [*boxes]

    def part(self, indices: Sequence[int]) -> Pictures:
        return Pictures([self.pictures[index] for index in indices], self.side)

    def _plain(self, index: int) -> tuple[Tensor, Boxes]:
        """Stretched to the network's size."""
        known, side = self.pictures[index], self.side
        pixels = F.resize(self._pixels(index), [side, side], antialias=True)
        return pixels, known.boxes.scaled(side / known.width, side / known.height)

    def _augmented(self, index: int, seed: int) -> tuple[Tensor, Boxes]:
        random = torch.Generator().manual_seed(seed)
        if _uniform(random) < MOSAICS:
            others = torch.randint(len(self), (3,), generator=random).tolist()
            pixels, boxes = self._mosaic([index, *others], random)
        else:
            pixels, boxes = self._zoomed(index, random)
        if _uniform(random) < 0.5:
            pixels, boxes = F.horizontal_flip(pixels), boxes.mirrored(self.side)
        return _in_another_light(pixels, random), boxes

    def _zoomed(self, index: int, random: torch.Generator) -> tuple[Tensor, Boxes]:
        """A window of the picture, anywhere in it, as large as the network's input."""
        known = self.pictures[index]
        share = _uniform(random, 1 / MOST_ZOOM, 1.0)
        stretch = _uniform(random, 1 / MOST_STRETCH, MOST_STRETCH) ** 0.5
        width = min(1.0, share * stretch) * known.width
        height = min(1.0, share / stretch) * known.height
        left = _uniform(random) * (known.width - width)
        top = _uniform(random) * (known.height - height)
        return self._window(self._pixels(index), known.boxes, (left, top, width, height))

    def _mosaic(self, indices: Sequence[int], random: torch.Generator) -> tuple[Tensor, Boxes]:
        """Four pictures side by side, and a window of 1/2 to 1 of them."""
        side = self.side
        canvas = torch.full((3, 2 * side, 2 * side), GREY, dtype=torch.uint8)
        parts = []
        for place, index in enumerate(indices):
            pixels, boxes = self._plain(index)
            x, y = side * (place % 2), side * (place // 2)
            canvas[:, y : y + side, x : x + side] = pixels
            parts.append(boxes.moved(x, y))
        shown = _uniform(random, 1.0, 2.0) * side
        left, top = (_uniform(random) * (2 * side - shown) for _ in range(2))
        return self._window(canvas, together(parts), (left, top, shown, shown))

    def _window(
        self, pixels: Tensor, boxes: Boxes, window: tuple[float, float, float, float]
    ) -> tuple[Tensor, Boxes]:
        """What a window (left, top, width, height) shows, stretched to the network's size."""
        left, top, width, height = (round(value) for value in window)
        cut = F.crop(pixels, top, left, height, width)
        shown = boxes.moved(-left, -top).seen_in(width, height)
        side = self.side
        resized = F.resize(cut, [side, side], antialias=True)
        return resized, shown.scaled(side / width, side / height)

    def _pixels(self, index: int) -> Tensor:
        """(3, height, width) uint8, kept while there is room."""
        if index in self._decoded:
            return self._decoded[index]
        known = self.pictures[index]
        if known.pixels is not None:
            return known.pixels
        try:
            with Image.open(known.file) as opened:
                if opened.mode.startswith("I"):  # converted, it would be white
                    raise DataError(
                        f"{known.file} has more than 8 bits a pixel; save it with 8 (the brightest "
                        "as 255)"
                    )
                upright = ImageOps.exif_transpose(opened)  # as those who labelled it saw it
                pixels = F.pil_to_tensor(upright.convert("RGB"))
        except (OSError, SyntaxError) as error:  # PIL's, of files it cannot make sense of
            raise DataError(
                f"{known.file} cannot be read as an image ({error}); restore that file, then run "
                "the same command again to continue"
            ) from None
        found = (pixels.shape[2], pixels.shape[1])
        if found != (known.width, known.height):
            raise DataError(
                f"{known.file} has {found[0]}×{found[1]} pixels, but its label was made for "
                f"{known.width}×{known.height}; label it again, or restore the file"
            )
        if (len(self._decoded) + 1) * pixels.nbytes <= MOST_BYTES:
            self._decoded[index] = pixels
        return pixels


def held_out(pictures: Pictures, seed: int) -> tuple[Pictures, Pictures]:
    """(the rest, a tenth to hold out)."""
    rest, tenth = a_tenth(len(pictures), seed)
    return pictures.part(rest.tolist()), pictures.part(tenth.tolist())


def _in_another_light(pixels: Tensor, random: torch.Generator) -> Tensor:
    for change in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
        pixels = change(pixels, _uniform(random, 1 - LIGHT, 1 + LIGHT))
    return pixels


def _uniform(random: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))
