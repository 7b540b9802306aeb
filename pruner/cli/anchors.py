"""`pruner anchors`: the box shapes that a YOLO detector begins from, for one's own data."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from pruner import DataError
from pruner.cli.options import DataDirOption, DataOption, ImageSizeOption, read_data
from pruner.cli.progress import progress
from pruner.data.detection.boxes import Boxes
from pruner.models.yolov3 import PER_MAP
from pruner.train.tasks.detection import told
from pruner.train.tasks.yolo import cluster

ROUNDS = 4  # over the training images, each augmented otherwise
AT_ONCE = 32  # images


def anchors(
    data: DataOption,
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    maps: Annotated[
        int, typer.Option(min=1, help="How many maps the model has: yolov3 3, tiny_yolov3 2.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clustering.")] = 0,
) -> None:
    """Find anchors by k-means over the boxes that training shows, augmented as it shows them."""
    train, sides = read_data(data, data_dir, "imagenet", image_size).train, []
    if not _shows_boxes(train.batch(torch.arange(1))[1]):
        raise DataError(f"{data} has no boxes; anchors are for detection")
    some = torch.arange(len(train)).split(AT_ONCE)
    with progress() as bar:
        shown = bar.add_task("looking at boxes", total=ROUNDS * len(some), text="")
        for number in range(ROUNDS):
            for part, indices in enumerate(some):
                _, targets = train.batch(indices, seed + number * len(some) + part)
                sides += [boxes.sides for boxes in targets]
                bar.advance(shown)
    everything = torch.cat(sides)
    try:
        found = cluster(everything, PER_MAP * maps, seed=seed)
    except ValueError:
        raise DataError(
            f"{data}: {PER_MAP * maps} anchors need as many different boxes; found "
            f"{len(torch.unique(everything, dim=0))}"
        ) from None
    print(told(found))


def _shows_boxes(targets: object) -> bool:
    return isinstance(targets, list) and all(isinstance(each, Boxes) for each in targets)
