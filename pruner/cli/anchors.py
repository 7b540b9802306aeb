"""`pruner anchors`: the box shapes that a YOLO detector begins from, for one's own data."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from pruner import DataError
from pruner.cli.options import DataDirOption, DataOption, ImageSizeOption
from pruner.data import load_data
from pruner.data.detection.boxes import Boxes
from pruner.train.tasks.detection import told
from pruner.train.tasks.yolo import PER_MAP, cluster

ROUNDS = 4  # over the training images, each augmented otherwise


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
    images = load_data(data, data_dir, image_size=image_size).train
    everything = torch.arange(len(images))
    sides = []
    for number in range(ROUNDS):
        _, targets = images.batch(everything, seed + number)
        if not (isinstance(targets, list) and all(isinstance(t, Boxes) for t in targets)):
            raise DataError(f"{data} has no boxes; anchors are for detection")
        sides += [boxes.sides for boxes in targets]
    try:
        found = cluster(torch.cat(sides), PER_MAP * maps, seed=seed)
    except ValueError as error:
        raise DataError(f"{data}: {error}; that is too few") from None
    print(told(found))
