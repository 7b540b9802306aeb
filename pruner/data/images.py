"""Images in batches, and a data set's three parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

MARKED = 16  # images of a part by which a continued run knows its data set again
SECOND = 0x5DEECE66  # what a joined set's second part adds to a seed: its images vary otherwise


class Images(Protocol):
    """Images that can be drawn in batches."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """(images (n, c, h, w) normalised, labels (n,)); with a seed, augmented by it."""


@dataclass(frozen=True)
class Data:
    """A data set's three parts. `held_out` is cut from the training images, never from the test."""

    name: str
    train: Images
    held_out: Images
    test: Images
    classes: int
    shape: tuple[int, int, int]

    @property
    def all_training(self) -> Images:
        """The held-out images too: for a training that nothing is chosen by any more."""
        return Joined(self.train, self.held_out)


@dataclass(frozen=True)
class Joined:
    """Two sets of images as one, the second's after the first's."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        of_first = indices < len(self.first)
        parts = (self.first, indices[of_first]), (self.second, indices[~of_first] - len(self.first))
        seeds = seed, None if seed is None else seed ^ SECOND
        drawn = [
            source.batch(part, own)
            for (source, part), own in zip(parts, seeds, strict=True)
            if len(part)
        ]
        pixels, labels = (torch.cat(both) for both in zip(*drawn, strict=True))
        back = torch.cat([of_first.nonzero(), (~of_first).nonzero()]).flatten().argsort()
        return pixels[back], labels[back]


def batches(images: Images, size: int, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` images (all by default) in order, without augmentation."""
    count = len(images) if count is None else min(count, len(images))
    for start in range(0, count, size):
        yield images.batch(torch.arange(start, min(start + size, count)))


def image_marks(data: Data) -> dict[str, dict]:
    """What tells these images from others: how many each part has, and of some the class and mean.

    Means are compared to within a fiftieth: decoders differ in the last bits. Of the test images,
    which wait, only their number.
    """
    found = {"test": {"images": len(data.test), "classes": [], "means": []}}
    for name, part in (("train", data.train), ("held_out", data.held_out)):
        some = torch.linspace(0, len(part) - 1, min(MARKED, len(part))).long()
        pixels, labels = part.batch(some)
        means = [round(float(mean), 4) for mean in pixels.mean(dim=(1, 2, 3))]
        found[name] = {"images": len(part), "classes": labels.tolist(), "means": means}
    return found


def same_images(before: dict[str, dict], now: dict[str, dict]) -> bool:
    """Whether two marks are of the same images."""
    return all(
        {**before[part], "means": None} == {**now[part], "means": None}
        and np.allclose(before[part]["means"], now[part]["means"], atol=0.02)
        for part in now
    )


def a_tenth(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(indices of the rest, indices of a tenth, of 10,000 at most, to hold out)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = min(10_000, max(1, count // 10))
    return order[held_out:], order[:held_out]
