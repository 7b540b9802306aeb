"""Data sets: a search sees training images and held-out training images, the test set waits.

A data set is a loader and an entry here; a user's own comes from a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lookup_tables.registry import Registry
from pruner import DataError
from pruner.data import folders, memory
from pruner.data.images import Data, Images
from pruner.data.memory import NORMALISATIONS
from pruner.data.own import from_datasets, from_tuple
from pruner.models.user_code import call_function

__all__ = ["DATA_SETS", "Data", "Images", "from_datasets", "load_data"]


IMAGE_SIZE = 416  # as YOLOv3 was published for


@dataclass(frozen=True)
class DataSet:
    """A data set that is known by name: how to read it from its folder, which it may not need.

    Where `is_resized`, its images come in whatever size a network is to see.
    """

    name: str
    summary: str
    load: Callable[..., Data]  # (folder, seed), then means and deviations, or the images' side
    needs_folder: bool = True
    has_normalisations: bool = False
    is_resized: bool = False


def _of_pictures(file: str, name: str) -> Callable[..., Data]:
    """A loader of pictures with boxes, imported when asked for: torchvision takes a second."""

    def load(folder: Path | None, seed: int, side: int) -> Data:
        return getattr(import_module(f"pruner.data.detection.{file}"), name)(folder, seed, side)

    return load


DATA_SETS: Registry[DataSet] = Registry(
    "data",
    (
        DataSet("digits", "scikit-learn's handwritten digits", memory.digits, needs_folder=False),
        DataSet("cifar10", "CIFAR-10", memory.cifar10, has_normalisations=True),
        DataSet("imagenet", "ImageNet, one folder a class", folders.imagenet),
        DataSet("food101", "Food-101", folders.food101),
        *(
            DataSet(name, f"boxes in {told}", _of_pictures("formats", name), is_resized=True)
            for name, told in (
                ("voc", "Pascal VOC's layout"),
                ("yolo", "YOLO's text files"),
                ("coco", "COCO's JSON"),
            )
        ),
        DataSet(
            "shapes",
            "boxes around drawn shapes",
            _of_pictures("shapes", "shapes"),
            needs_folder=False,
            is_resized=True,
        ),
    ),
)


def load_data(
    name: str,
    folder: str | Path | None = None,
    seed: int = 0,
    normalisation: str = "imagenet",
    image_size: int | None = None,
) -> Data:
    """A data set by name, or a user's own: `file.py:function`.

    The function takes no arguments and returns either a Data or what `from_datasets` takes, as a
    tuple. `seed` chooses the held-out images; keep it within one experiment. `normalisation`: of
    CIFAR-10, a name from NORMALISATIONS; it must be that of the training that made the weights.
    `image_size`: pixels of the square that pictures with boxes are resized to, IMAGE_SIZE by
    default. Raises DataError if the data set is missing or does not fit.
    """
    known = DATA_SETS.get(name)
    if normalisation not in NORMALISATIONS:
        raise DataError(
            f"--normalisation {normalisation}: choose one of {', '.join(NORMALISATIONS)}"
        )
    if normalisation != "imagenet" and not (known and known.has_normalisations):
        raise DataError(f"--normalisation {normalisation} is for cifar10; leave it out for {name}")
    if image_size is not None and not (known and known.is_resized):
        sized = ", ".join(entry.name for entry in DATA_SETS.values() if entry.is_resized)
        raise DataError(f"--image-size {image_size} is for {sized}; leave it out for {name}")
    is_own = known is None and ":" in name
    if folder is not None and (is_own or (known and not known.needs_folder)):
        raise DataError(f"--data-dir {folder}: {name} needs no folder; leave it out")
    if is_own:
        made = call_function(name, "--data", DataError)
        return made if isinstance(made, Data) else from_tuple(name, made, seed)
    if known is None:
        raise DataError(
            f"no data set is called {name!r}. Known: {', '.join(DATA_SETS)}. "
            "Your own: --data file.py:function"
        )
    if known.needs_folder and folder is None:
        raise DataError(f"data set {name} needs --data-dir, the folder that holds it")
    place = Path(folder) if folder is not None else None
    if known.has_normalisations:
        return known.load(place, seed, *NORMALISATIONS[normalisation])
    if known.is_resized:
        return known.load(place, seed, image_size or IMAGE_SIZE)
    return known.load(place, seed)
