"""The models that can be named on the command line, and a user's own from `file.py:factory`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pruner import ModelError
from pruner.models.imagenet import (
    mobilenet_v2,
    mobilenet_v2_cifar,
    resnet18,
    resnet18_cifar,
    resnet50,
    resnet50_cifar,
    vgg16,
    vgg16_cifar,
)
from pruner.models.mobilenet_v1 import mobilenet_v1, mobilenet_v1_cifar
from pruner.models.resnet import digits_resnet, resnet20, resnet32, resnet44, resnet56
from pruner.models.user_code import call_function
from pruner.models.yolov3 import shapes_yolov3, tiny_yolov3, yolov3


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model's factory, which takes a number of classes, the (channels, height, width) it is made
    for, and the classes of the data set it was published for. A `resizable` one takes other sizes
    as well, `input_shape` being the published one."""

    factory: Callable[[int], nn.Module]
    input_shape: tuple[int, int, int]
    classes: int = 10
    resizable: bool = False


MODELS = {
    "resnet20": KnownModel(resnet20, (3, 32, 32)),
    "resnet32": KnownModel(resnet32, (3, 32, 32)),
    "resnet44": KnownModel(resnet44, (3, 32, 32)),
    "resnet56": KnownModel(resnet56, (3, 32, 32)),
    "mobilenet_v1": KnownModel(mobilenet_v1, (3, 224, 224), 1000),
    "mobilenet_v1_32": KnownModel(mobilenet_v1_cifar, (3, 32, 32)),
    "mobilenet_v2": KnownModel(mobilenet_v2, (3, 224, 224), 1000),
    "mobilenet_v2_32": KnownModel(mobilenet_v2_cifar, (3, 32, 32)),
    "resnet18": KnownModel(resnet18, (3, 224, 224), 1000),
    "resnet18_32": KnownModel(resnet18_cifar, (3, 32, 32)),
    "resnet50": KnownModel(resnet50, (3, 224, 224), 1000),
    "resnet50_32": KnownModel(resnet50_cifar, (3, 32, 32)),
    "vgg16": KnownModel(vgg16, (3, 224, 224), 1000),
    "vgg16_32": KnownModel(vgg16_cifar, (3, 32, 32)),
    "yolov3": KnownModel(yolov3, (3, 416, 416), 80, resizable=True),
    "tiny_yolov3": KnownModel(tiny_yolov3, (3, 416, 416), 80, resizable=True),
    "shapes_yolov3": KnownModel(shapes_yolov3, (3, 96, 96), 3, resizable=True),
    "digits_resnet": KnownModel(digits_resnet, (1, 8, 8)),
}


def build(name: str, classes: int | None = None) -> nn.Module:
    """A fresh model: a name from MODELS, or `file.py:factory` for a function without arguments.

    It is set to evaluation, so that whoever traces it sees the same forward. A known model tells
    `classes` apart, without it those it was published for. Raises ModelError if neither exists, or
    the factory fails or does not return a Module.
    """
    if name in MODELS:
        return MODELS[name].factory(classes or MODELS[name].classes).eval()
    if ":" not in name:
        raise ModelError(
            f"no model is called {name!r}. Known: {', '.join(MODELS)}. "
            "Your own: --model file.py:factory"
        )
    model = call_function(name, "--model", ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model.eval()


def input_shape(name: str) -> tuple[int, int, int] | None:
    """The (channels, height, width) a known model is made for; None for a user's own."""
    return MODELS[name].input_shape if name in MODELS else None


def shape_for(name: str, images: tuple[int, int, int]) -> tuple[int, int, int]:
    """The (channels, height, width) a model reads: its own, or the images' where it reads any."""
    if name in MODELS and not MODELS[name].resizable:
        return MODELS[name].input_shape
    return images


def short_name(
    name: str, classes: int | None = None, shape: tuple[int, int, int] | None = None
) -> str:
    """A name for files: the model's own, or the factory's.

    With its classes, and the side of its images, where they are not the usual ones.
    """
    if name not in MODELS:
        return name.rpartition(":")[2]
    known, found = MODELS[name], name
    if classes not in (None, known.classes):
        found += f"_{classes}_classes"
    if shape not in (None, known.input_shape):
        found += f"_{shape[-1]}"
    return found
