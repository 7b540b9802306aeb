"""Images in batches, and a data set's three parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

MARKED = 16  # images of a part by which a continued run knows its data set again
SECOND = 0x5DEECE66  # what a joined set's second part adds to a seed: its images vary otherwise


LARGE = 224 * 224  # pixels; batches of larger images must fit into memory as well
Targets = Any  # see `Images.batch`


class Images(Protocol):
    """Images that can be drawn in batches."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Targets]:
        """(images (n, c, h, w) normalised, targets); with a seed, augmented by it.

        Targets of n images: a tensor whose first dimension they are, as class numbers are, or a
        list of whatever a task understands, as boxes are.
        """


@dataclass(frozen=True)
class Data:
    """A data set's three parts. `held_out` is cut from the training images, never from the test.

    `class_names` where they are known; `notes`: what reading it left out, in words for its user.
    """

    name: str
    train: Images
    held_out: Images
    test: Images
    classes: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Targets]:
        """In the order of the indices, whichever part each is of."""
        of_first = indices < len(self.first)
        parts = (self.first, indices[of_first]), (self.second, indices[~of_first] - len(self.first))
        seeds = seed, None if seed is None else seed ^ SECOND
        drawn = [
            source.batch(part, own)
            for (source, part), own in zip(parts, seeds, strict=True)
            if len(part)
        ]
        images, targets = zip(*drawn, strict=True)
        back = torch.cat([of_first.nonzero(), (~of_first).nonzero()]).flatten().argsort()
        return torch.cat(images)[back], _in_order(targets, back)


def _in_order(parts: Sequence[Targets], order: Tensor) -> Targets:
    """The targets of several batches as those of one."""
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat(list(parts))[order]
    joined = [target for part in parts for target in part]
    return [joined[index] for index in order.tolist()]


def at_once(images: Images, most: int) -> int:
    """How many images a batch may have: `most` of up to LARGE pixels, fewer of larger ones."""
    if not len(images):
        return most
    height, width = images.batch(torch.arange(1))[0].shape[2:]
    return max(1, min(most, most * LARGE // (height * width)))


def batches(
    images: Images, size: int, count: int | None = None
) -> Iterator[tuple[Tensor, Targets]]:
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
        pixels, targets = part.batch(some)
        means = [round(float(mean), 4) for mean in pixels.mean(dim=(1, 2, 3))]
        found[name] = {"images": len(part), "classes": _marks(targets), "means": means}
    return found


def _marks(targets: Targets) -> list:
    """What JSON keeps of some images' targets: class numbers, or a word for what is longer."""
    if isinstance(targets, Tensor):
        return targets.tolist()
    return [str(target) for target in targets]


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
