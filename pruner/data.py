"""Data sets: a search sees training images and held-out training images, the test set waits.

Small sets (CIFAR-10, digits) live in memory; ImageNet and Food-101 are read through torchvision
from their standard folder layouts; a user's own comes from a function.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset, get_worker_info

from pruner.errors import DataError
from pruner.user_code import call_function

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# By which CIFAR-10's images are normalised: as the published ResNets were trained, by ImageNet's
# means and deviations, or by its own training images'.
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
MARKED = 16  # images of a part by which a continued run knows its data set again
SECOND = 0x5DEECE66  # what a joined set's second part adds to a seed: its images vary otherwise
REREAD = 16  # images of a user's set that are read twice, to see whether they are the same


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


def load_data(
    name: str,
    folder: str | Path | None = None,
    seed: int = 0,
    normalisation: str = "imagenet",
) -> Data:
    """A data set by name: digits, cifar10, imagenet, food101, or a user's own: `file.py:function`.

    The function takes no arguments and returns either a Data or what `from_datasets` takes, as a
    tuple. `seed` chooses the held-out images; keep it within one experiment. `normalisation`: of
    CIFAR-10, a name from NORMALISATIONS; it must be that of the training that made the weights.
    Raises DataError if the data set is missing or does not fit.
    """
    if normalisation not in NORMALISATIONS:
        raise DataError(
            f"--normalisation {normalisation}: choose one of {', '.join(NORMALISATIONS)}"
        )
    if normalisation != "imagenet" and name != "cifar10":
        raise DataError(f"--normalisation {normalisation} is for cifar10; leave it out for {name}")
    if folder is not None and (name == "digits" or ":" in name):
        raise DataError(f"--data-dir {folder}: {name} needs no folder; leave it out")
    if name not in _LOADERS and ":" in name:
        made = call_function(name, "--data", DataError)
        return made if isinstance(made, Data) else _from_tuple(name, made, seed)
    if name not in _LOADERS:
        raise DataError(
            f"no data set is called {name!r}. Known: {', '.join(_LOADERS)}. "
            "Your own: --data file.py:function"
        )
    if name != "digits" and folder is None:
        raise DataError(f"data set {name} needs --data-dir, the folder that holds it")
    if name == "cifar10":
        return _cifar10(Path(folder), seed, *NORMALISATIONS[normalisation])
    return _LOADERS[name](Path(folder) if folder is not None else None, seed)


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


def require_fit(model: nn.Module, shape: tuple[int, int, int], data: Data) -> None:
    """Raise DataError unless the model reads such images and tells such classes apart."""
    if tuple(shape) != tuple(data.shape):
        expected, found = ("×".join(map(str, s)) for s in (shape, data.shape))
        raise DataError(
            f"the model is made for {expected} images, those of {data.name} are {found}; "
            "choose the data set or the model that fits (a function of your own, file.py:function, "
            "may return this one for any size)"
        )
    outputs = _outputs(model, data)
    if outputs.shape[1] != data.classes:
        raise DataError(
            f"the model tells {outputs.shape[1]} classes apart, {data.name} has {data.classes}; "
            "choose the data set or the model that fits"
        )


def _outputs(model: nn.Module, data: Data) -> Tensor:
    """What it answers to two images, (2, classes)."""
    try:
        with torch.inference_mode():
            outputs = model.eval()(torch.zeros(2, *data.shape))
    except Exception as fault:  # whatever a user's modules raise on a wrong shape
        shape = "×".join(map(str, data.shape))
        raise DataError(
            f"the model cannot read the {shape} images of {data.name}: {fault}; choose the data "
            "set or the model that fits"
        ) from fault
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(
            f"the model answers two images with {found}; expected one tensor of (images, classes): "
            "only classifiers are trained and pruned"
        )
    return outputs


def batches(images: Images, size: int, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` images (all by default) in order, without augmentation."""
    count = len(images) if count is None else min(count, len(images))
    for start in range(0, count, size):
        yield images.batch(torch.arange(start, min(start + size, count)))


# -- in memory -----------------------------------------------------------------------------------


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


def _digits(folder: Path | None, seed: int) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; 360 of them are the test set."""
    from sklearn.datasets import load_digits  # only here: the demo's data

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    everything = InMemory(pixels, labels, (0.306,), (0.376,), shift=1, flip=False)
    rest, test = _split(everything, 360, seed=0)  # the same test set whatever the seed
    train, held_out = _split(rest, 300, seed)
    return Data("digits", train, held_out, test, classes=10, shape=(1, 8, 8))


def _cifar10(
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
                f"{path} is missing, or not the published file: its checksum is another. Delete "
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
    frame = pd.concat([_read_parquet(file) for file in files], ignore_index=True)
    missing = {"img", "label"} - set(frame.columns)
    if missing:
        raise DataError(
            f"{files[0]} has no column {', '.join(sorted(missing))}; expected `img` and `label`"
        )
    pixels = np.stack([_decode(cell["bytes"]) for cell in frame["img"]])
    return pixels.transpose(0, 3, 1, 2).copy(), frame["label"].to_numpy()


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except ValueError as error:  # pyarrow's own is one: cut short, or no Parquet at all
        first = str(error).splitlines()[0]
        raise DataError(f"{file} is broken ({first}); delete it and download it again") from None


def _decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


# -- from folders --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FromFolder:
    """Some images of a torchvision data set, decoded when they are asked for."""

    source: object  # a torchvision data set without transforms
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
                "file, then the same command goes on"
            ) from None


def _path(source, index: int) -> Path:
    """Where a torchvision data set has an image from."""
    if hasattr(source, "samples"):
        return Path(source.samples[index][0])
    return Path(source._image_files[index])  # Food101 does not tell


def _imagenet(folder: Path, seed: int) -> Data:
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
            f"{folder}: train/ and val/ hold different classes, {differing[0]} is in one only; "
            "labels are numbered by the sorted folders, so both need the same"
        )
    return _from_folders("imagenet", train, val, seed)


def _food101(folder: Path, seed: int) -> Data:
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
    rest, held_out = _tenth(len(train), seed)
    return Data(
        name,
        FromFolder(train, rest, plain, augment),
        FromFolder(train, held_out, plain, augment),
        FromFolder(test, torch.arange(len(test)), plain, plain),
        classes=len(train.classes),
        shape=(3, 224, 224),
    )


def _tenth(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(indices of the rest, indices of a tenth, of 10,000 at most, to hold out)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = min(10_000, max(1, count // 10))
    return order[held_out:], order[:held_out]


# -- a user's own --------------------------------------------------------------------------------


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
                f"images of different shapes: {', '.join(map(str, sorted(found)))}; a data set "
                "resizes or crops them to one"
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
            f"{name}: {len(augmented)} augmented images for {len(train)} training images; expected "
            "the same ones in the same order"
        )
    shapes = {_shape_of(name, dataset) for dataset in (train, test, augmented or train)}
    if len(shapes) > 1:
        raise DataError(f"{name}: images of different shapes: {', '.join(map(str, shapes))}")
    rest, held_out = _tenth(len(train), seed)
    return Data(
        name,
        FromDataset(train, augmented or train, rest),
        FromDataset(train, augmented or train, held_out),
        FromDataset(test, test, torch.arange(len(test))),
        classes=_count_classes(train),
        shape=shapes.pop(),
    )


def _from_tuple(name: str, made: object, seed: int) -> Data:
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise DataError(
            f"{name} returned {type(made).__name__}; expected (train, test) or (train, test, "
            "augmented train), data sets of (image, class number), or a pruner.data.Data"
        )
    return from_datasets(name, *made, seed=seed)


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
    return tuple(image.shape)


def _count_classes(dataset: Dataset) -> int:
    """Without reading all images where labels are known apart from them."""
    named = getattr(dataset, "classes", None)
    if named is not None:
        return len(named)
    labels, some = _targets(dataset), range(0, len(dataset), max(1, len(dataset) // REREAD))
    if labels is None or any(labels[index] != int(dataset[index][1]) for index in some):
        labels = [int(dataset[index][1]) for index in range(len(dataset))]
    return 1 + max(labels)


def _targets(dataset: Dataset) -> list[int] | None:
    """The labels that torchvision's data sets keep beside the images, also for a part of one."""
    if type(dataset) is Subset:
        whole = _targets(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    try:
        found = [int(label) for label in dataset.targets]
    except (AttributeError, TypeError, ValueError):
        return None
    return found if len(found) == len(dataset) else None


def require_repeatable(data: Data) -> None:
    """Raise DataError where a user's training image differs from one reading to the next."""
    if not isinstance(data.train, FromDataset):
        return
    for index in data.train.indices[:REREAD].tolist():
        first, second = (data.train.plain[index][0] for _ in range(2))
        if not torch.equal(first, second):
            raise DataError(
                f"{data.name}: training image {index} differs from one reading to the next, as "
                "with random crops or flips. Candidates are compared on the same images: return "
                "(train, test, augmented train), `train` without augmentation"
            )


_LOADERS: dict[str, Callable[[Path | None, int], Data]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "imagenet": _imagenet,
    "food101": _food101,
}
