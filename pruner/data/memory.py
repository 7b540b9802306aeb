"""Small sets that live in memory: CIFAR-10, and scikit-learn's digits."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruner import DataError
from pruner.data.images import Data

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# By which CIFAR-10's images are normalised: as the published ResNets were trained, by ImageNet's
# means and deviations, or by its own training images'.
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


@dataclass(frozen=True)
class InMemory:
    """Images as (n, c, h, w) uint8 with labels (n,)."""

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int  # augmentation: pixels of padding before a random crop
    flip: bool

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        pixels = self.pixels[indices]
        if seed is not None:
            pixels = self._augment(pixels, torch.Generator().manual_seed(seed))
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return (pixels.float() / 255 - mean) / std, self.labels[indices]

    def subset(self, indices: Tensor) -> InMemory:
        return InMemory(
            self.pixels[indices], self.labels[indices], self.mean, self.std, self.shift, self.flip
        )

    def _augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Random crop after padding, and random horizontal flip; one draw per image."""
        n, _, height, width = pixels.shape
        padded = torch.nn.functional.pad(pixels, [self.shift] * 4)
        dy, dx = torch.randint(0, 2 * self.shift + 1, (2, n), generator=generator)
        columns = dx[:, None] + torch.arange(width)
        if self.flip:
            flipped = torch.rand(n, generator=generator) < 0.5
            columns = torch.where(flipped[:, None], columns.flip(1), columns)
        rows = dy[:, None] + torch.arange(height)
        each = torch.arange(n)[:, None, None]
        # Advanced indexing moves the channel axis last.
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _split(images: InMemory, held_out: int, seed: int) -> tuple[InMemory, InMemory]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[held_out:]), images.subset(order[:held_out])


def digits(folder: Path | None, seed: int) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; 360 of them are the test set."""
    from sklearn.datasets import load_digits  # only here: the demo's data

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    everything = InMemory(pixels, labels, (0.306,), (0.376,), shift=1, flip=False)
    rest, test = _split(everything, 360, seed=0)  # the same test set whatever the seed
    train, held_out = _split(rest, 300, seed)
    return Data("digits", train, held_out, test, classes=10, shape=(1, 8, 8))


def cifar10(
    folder: Path, seed: int, mean: tuple[float, ...] = IMAGENET_MEAN, std=IMAGENET_STD
) -> Data:
    """CIFAR-10 as torchvision downloads it, or as Parquet in the Hugging Face layout."""
    if (folder / "cifar-10-batches-py").is_dir():
        read = _read_cifar_batches
    elif any(folder.rglob("train-*.parquet")):
        read = _read_cifar_parquet
    else:
        raise DataError(
            f"{folder} holds no CIFAR-10: neither cifar-10-batches-py/ nor train-*.parquet. Get it "
            f"with: python -c \"import torchvision; torchvision.datasets.CIFAR10('{folder}', "
            'download=True)", or download the Parquet files of the Hugging Face set `cifar10`'
        )
    everything, test = (_in_memory(*read(folder, part), mean, std) for part in ("train", "test"))
    train, held_out = _split(everything, 5000, seed)
    return Data("cifar10", train, held_out, test, classes=10, shape=(3, 32, 32))


def _in_memory(pixels: np.ndarray, labels: np.ndarray, mean, std) -> InMemory:
    return InMemory(
        torch.from_numpy(pixels),
        torch.from_numpy(labels.astype(np.int64)),
        mean,
        std,
        shift=4,
        flip=True,
    )


def _read_cifar_batches(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    files = CIFAR10.train_list if part == "train" else CIFAR10.test_list
    pixels, labels = [], []
    for name, md5 in files:
        path = folder / CIFAR10.base_folder / name
        if not check_integrity(path, md5):  # before it is unpickled, which runs what it says
            raise DataError(
                f"{path} is missing, or its checksum differs from the published file's. Delete "
                "the folder and download it again"
            )
        with path.open("rb") as file:
            content = pickle.load(file, encoding="latin1")
        pixels.append(content["data"].reshape(-1, 3, 32, 32))
        labels.append(content["labels"])
    return np.concatenate(pixels), np.concatenate(labels)


def _read_cifar_parquet(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(folder.rglob(f"{part}-*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no {part}-*.parquet; download the whole set again")
    pixels, labels = zip(*[_read_parquet(file) for file in files], strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def _read_parquet(file: Path) -> tuple[np.ndarray, np.ndarray]:
    import pandas as pd  # takes a while, and all other data do without

    try:
        frame = pd.read_parquet(file)
    except ValueError as error:  # pyarrow's own is one: cut short, or no Parquet at all
        first = str(error).splitlines()[0]
        raise DataError(f"{file} is broken ({first}); delete it and download it again") from None
    if missing := {"img", "label"} - set(frame.columns):
        raise DataError(
            f"{file} has no column {', '.join(sorted(missing))}; expected `img` and `label`"
        )
    pixels = np.stack([_decode(cell["bytes"]) for cell in frame["img"]])
    return pixels.transpose(0, 3, 1, 2), frame["label"].to_numpy()


def _decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
