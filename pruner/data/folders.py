"""Large sets read from torchvision's folder layouts: ImageNet and Food-101."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from pruner import DataError
from pruner.data.images import Data, a_tenth
from pruner.data.memory import IMAGENET_MEAN, IMAGENET_STD


class Pictures(Protocol):
    """A torchvision data set without transforms."""

    def __getitem__(self, index: int) -> tuple[Image, int]: ...


@dataclass(frozen=True)
class FromFolder:
    """Some images of a torchvision data set, decoded when they are asked for."""

    source: Pictures
    indices: Tensor
    plain: Callable
    augment: Callable

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        read = self._read_plain if seed is None else self._read
        threads = 1 if get_worker_info() else None  # one of several readers is one thread
        with ThreadPoolExecutor(threads) as pool:  # PIL decodes outside the interpreter's lock
            pairs = list(pool.map(read, self.indices[indices].tolist()))
        if seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                pairs = [(self.augment(image), label) for image, label in pairs]
        images, labels = zip(*pairs, strict=True)
        return torch.stack(images), torch.tensor(labels)

    def _read_plain(self, index: int):
        image, label = self._read(index)
        return self.plain(image), label

    def _read(self, index: int):
        try:
            image, label = self.source[index]
            return image.convert("RGB"), label
        except (OSError, SyntaxError) as error:  # PIL's, of files it cannot make sense of
            raise DataError(
                f"{_path(self.source, index)} cannot be read as an image ({error}); restore that "
                "file, then run the same command again to continue"
            ) from None


def _path(source, index: int) -> Path:
    """Where a torchvision data set has an image from."""
    if hasattr(source, "samples"):
        return Path(source.samples[index][0])
    return Path(source._image_files[index])  # Food101 does not tell


def imagenet(folder: Path, seed: int) -> Data:
    """ImageNet as train/ and val/ with one folder a class; val/ is the test set."""
    from torchvision.datasets import ImageFolder

    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder} holds no ImageNet: {part}/ is missing. Unpack ILSVRC2012 so that "
                "train/ and val/ hold one folder per class (torchvision.datasets.ImageNet does it)"
            )
    try:
        train, val = (ImageFolder(folder / part) for part in ("train", "val"))
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no ImageNet: {error}") from None
    if train.classes != val.classes:
        differing = sorted({*train.classes} ^ {*val.classes})
        raise DataError(
            f"{folder}: train/ and val/ hold different classes: {differing[0]} is in only one of "
            "them. Sorted folder names number the labels, so both need the same folders"
        )
    return _from_folders("imagenet", train, val, seed)


def food101(folder: Path, seed: int) -> Data:
    """Food-101 as torchvision unpacks it."""
    from torchvision.datasets import Food101

    try:
        train, test = (Food101(folder, split=split) for split in ("train", "test"))
    except (RuntimeError, FileNotFoundError):
        raise DataError(
            f"{folder} holds no Food-101: food-101/ is missing or incomplete. Get it with: python "
            f"-c \"import torchvision; torchvision.datasets.Food101('{folder}', download=True)\""
        ) from None
    return _from_folders("food101", train, test, seed)


def _from_folders(name: str, train, test, seed: int) -> Data:
    from torchvision.transforms import v2

    to_tensor = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    plain = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *to_tensor])
    augment = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *to_tensor])
    rest, held_out = a_tenth(len(train), seed)
    return Data(
        name,
        FromFolder(train, rest, plain, augment),
        FromFolder(train, held_out, plain, augment),
        FromFolder(test, torch.arange(len(test)), plain, plain),
        classes=len(train.classes),
        shape=(3, 224, 224),
    )
