"""A user's own data sets, from PyTorch's."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Subset

from pruner import DataError
from pruner.data.images import Data, a_tenth

REREAD = 16  # images of a user's set that are read twice, to see whether they are the same


class Dataset(Protocol):
    """A map-style data set as PyTorch has them: (image (c, h, w) float, class number) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class FromDataset:
    """Some images of a user's data set; the augmented one holds the same images in the same order.

    Augmentation that draws from PyTorch's generator, as torchvision's transforms do, repeats
    exactly when a run is continued.
    """

    plain: Dataset
    augmented: Dataset
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        source = self.plain if seed is None else self.augmented
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            pairs = [source[index] for index in self.indices[indices].tolist()]
        found = {tuple(image.shape) for image, _ in pairs}
        if len(found) > 1:
            raise DataError(
                f"images have different shapes: {', '.join(map(str, sorted(found)))}; resize or "
                "crop them to one shape"
            )
        return torch.stack([image for image, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


def from_datasets(
    name: str, train: Dataset, test: Dataset, augmented: Dataset | None = None, seed: int = 0
) -> Data:
    """A data set from PyTorch's own: the training images without augmentation, the test images.

    `augmented`: the training images again, in the same order, with augmentation; fine-tuning
    reads them. A tenth of the training images is held out. Classes are those of `train.classes`,
    or as many as there are labels. Raises DataError for what are no such images.
    """
    if augmented is not None and len(augmented) != len(train):
        raise DataError(
            f"{name}: {len(augmented)} augmented images for {len(train)} training images; "
            "expected the same images in the same order"
        )
    shapes = {_shape_of(name, dataset) for dataset in (train, test, augmented or train)}
    if len(shapes) > 1:
        raise DataError(
            f"{name}: images have different shapes: {', '.join(map(str, shapes))}; resize or crop "
            "them to one shape"
        )
    rest, held_out = a_tenth(len(train), seed)
    return Data(
        name,
        FromDataset(train, augmented or train, rest),
        FromDataset(train, augmented or train, held_out),
        FromDataset(test, test, torch.arange(len(test))),
        classes=_count_classes(train),
        shape=shapes.pop(),
    )


def from_tuple(name: str, made: object, seed: int) -> Data:
    """The data set that a user's function returned; raises DataError for anything else."""
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise DataError(
            f"{name} returned {type(made).__name__}; expected (train, test) or (train, test, "
            "augmented train), data sets of (image, class number), or a pruner.data.images.Data"
        )
    train, test, *augmented = made
    return from_datasets(name, train, test, augmented[0] if augmented else None, seed)


def _shape_of(name: str, dataset: Dataset) -> tuple[int, int, int]:
    try:
        image, label = dataset[0]
        fits = image.dim() == 3 and image.is_floating_point() and int(label) >= 0
    except (AttributeError, IndexError, TypeError, ValueError):
        fits = False
    if not fits or len(dataset) < 2:
        raise DataError(
            f"{name}: expected at least two pairs (image, class number), each image a float tensor "
            "of (channels, height, width), normalised"
        )
    channels, height, width = image.shape
    return channels, height, width


def _count_classes(dataset: Dataset) -> int:
    """Without reading all images where labels are known apart from them."""
    named = getattr(dataset, "classes", None)
    if named is not None:
        return len(named)
    labels, some = _targets(dataset), range(0, len(dataset), max(1, len(dataset) // REREAD))
    if labels is None or any(labels[index] != int(dataset[index][1]) for index in some):
        labels = [int(dataset[index][1]) for index in range(len(dataset))]
    return 1 + max(labels)


def _targets(dataset: object) -> list[int] | None:
    """The labels that torchvision's data sets keep beside the images, also for a part of one."""
    if type(dataset) is Subset:
        whole = _targets(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    labels: Any = getattr(dataset, "targets", None)
    try:
        found = [int(label) for label in labels]
    except (AttributeError, TypeError, ValueError):
        return None
    return found if isinstance(dataset, Sized) and len(found) == len(dataset) else None


def require_repeatable(data: Data) -> None:
    """Raise DataError where a user's training image differs from one reading to the next."""
    if not isinstance(data.train, FromDataset):
        return
    for index in data.train.indices[:REREAD].tolist():
        first, second = (data.train.plain[index][0] for _ in range(2))
        if not torch.equal(first, second):
            raise DataError(
                f"{data.name}: training image {index} differs from one reading to the next, as "
                "with random crops or flips. Candidates must be compared on the same images. "
                "Return (train, test, augmented train), with `train` not augmented"
            )
