"""Darknet's files: weights as it writes them, and the list of layers that it reads them by.

A weights file is a header of three integers and a counter, which takes 4 bytes up to version 0.1
and 8 from 0.2 on, then single-precision floats, convolution by convolution: BatchNorm's β, γ, mean
and variance where there is one, else the bias, and then the kernel. Redmon, "Darknet: Open Source
Neural Networks in C", pjreddie.com/darknet.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lookup_tables.layer import LayerSpec
from lookup_tables.network import Layer, Network
from lookup_tables.storage.files import write_whole
from pruner import ExportError, ModelError
from pruner.models.yolov3 import PER_MAP

SUFFIX = ".weights"
OF_A_PART = re.compile(r"\.conv\.\d+$")  # darknet53.conv.74: the first convolutions of a network
MAJOR, MINOR, REVISION = 0, 2, 5
WRITTEN = struct.Struct("<3iQ")
ACTIVATIONS = {"leaky_relu": "leaky", "none": "linear", "relu": "relu", "mish": "mish",
               "silu": "swish"}  # fmt: skip
LEAKY = 0.1  # slope of Darknet's leaky ReLU

Pair = tuple[nn.Conv2d, nn.BatchNorm2d | None]


def is_one(path: Path) -> bool:
    """Whether a file is called as Darknet's weights are."""
    return path.suffix == SUFFIX or OF_A_PART.search(path.name) is not None


def convolutions(model: nn.Module) -> list[Pair]:
    """Convolutions with the BatchNorm behind them, in the order in which modules were made.

    Darknet's order, of a model whose modules stand in it, as those of `models/yolov3.py` do.
    """
    leaves = [module for module in model.modules() if not any(module.children())]
    found: list[Pair] = []
    for module in leaves:
        if isinstance(module, nn.Conv2d):
            found.append((module, None))
        elif isinstance(module, nn.BatchNorm2d):
            if not found or found[-1][1] or found[-1][0].out_channels != module.num_features:
                raise ModelError("Darknet's files know BatchNorm behind convolutions only")
            found[-1] = (found[-1][0], module)
        elif any(True for _ in module.parameters()):
            raise ModelError(f"Darknet's files know no weights of {type(module).__name__}")
    return found


def read_darknet(model: nn.Module, path: Path, part: bool = False) -> str:
    """Fill a model from a .weights file; returns what was read, in words.

    A `part` may end with any convolution, as published backbones do: what comes behind stays as it
    is. Nor need its heads, the convolutions without BatchNorm, tell as many classes apart: they
    stay as they are then. Raises ModelError for a file that is cut short, too long, or of another
    model.
    """
    content = path.read_bytes()
    header = 20 if len(content) >= 12 and _counts_in_8_bytes(content) else 16
    if len(content) < header or (len(content) - header) % 4:
        raise ModelError(f"{path}: not a Darknet weights file, or cut short")
    numbers = torch.from_numpy(np.frombuffer(content, dtype="<f4", offset=header).copy())
    if not numbers.isfinite().all():
        raise ModelError(f"{path} holds NaN or infinity; it is damaged, or is not a weights file")
    at, pairs = 0, convolutions(model)
    read: list[tuple[Tensor, Tensor]] = []
    other = _other_outputs(pairs, len(numbers)) if part else None
    for done, (conv, norm) in enumerate(pairs):
        if at == len(numbers) and part and done:
            _fill(read)
            return f"Darknet weights of the first {done} of {len(pairs)} convolutions"
        if other and norm is None:
            at += other * (1 + conv.weight[0].numel())
            continue
        for target in _tensors(conv, norm):
            piece = numbers[at : at + target.numel()]
            if len(piece) < target.numel():
                raise ModelError(
                    f"{path} ends in convolution {done + 1} of {len(pairs)}: it is cut short, or "
                    "of another model or number of classes"
                )
            read.append((target, piece))
            at += target.numel()
    if at < len(numbers):
        raise ModelError(
            f"{path} has {len(numbers) - at:,} numbers more than the model's {at:,}; it is of "
            "another model or number of classes"
        )
    _fill(read)
    heads = f", but for heads of {other} outputs" if other else ""
    return f"Darknet weights of {len(pairs)} convolutions{heads}"


@torch.no_grad()
def _fill(read: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Once all of the file was seen to fit."""
    for target, piece in read:
        target.copy_(piece.view_as(target))


def _other_outputs(pairs: Sequence[Pair], numbers: int) -> int | None:
    """How many outputs the heads of a whole file have, where it is of another number of classes."""
    heads = [conv for conv, norm in pairs if norm is None]
    others = sum(t.numel() for pair in pairs if pair[1] for t in _tensors(*pair))
    each, rest = divmod(numbers - others, sum(1 + conv.weight[0].numel() for conv in heads) or 1)
    own = {conv.out_channels for conv in heads}
    return each if rest == 0 and each > 0 and own != {each} else None


def _counts_in_8_bytes(content: bytes) -> bool:
    major, minor, _ = struct.unpack_from("<3i", content)
    return 10 * major + minor >= 2


def write_darknet(pairs: Sequence[Pair], path: Path) -> None:
    """Write convolutions as a .weights file."""
    pieces = [WRITTEN.pack(MAJOR, MINOR, REVISION, 0)]
    for conv, norm in pairs:
        for tensor in _tensors(conv, norm):
            pieces.append(tensor.detach().cpu().float().numpy().astype("<f4").tobytes())
    write_whole(path, b"".join(pieces))


def _tensors(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> Iterator[Tensor]:
    """One convolution's tensors in the file's order."""
    if norm is None:
        if conv.bias is None:
            raise ModelError("Darknet's convolutions have a bias or a BatchNorm; one has neither")
        yield conv.bias
    else:
        if conv.bias is not None:
            raise ModelError("Darknet's convolutions have no bias beside a BatchNorm; one has both")
        assert norm.running_mean is not None
        assert norm.running_var is not None
        yield from (norm.bias, norm.weight, norm.running_mean, norm.running_var)
    yield conv.weight


# -- the list of layers ------------------------------------------------------------------------


def configuration(
    network: Network, pairs: Sequence[Pair], anchors: Sequence[tuple[float, float]], classes: int
) -> str:
    """A .cfg file for a traced detector whose `pairs` stand in its layers' order.

    Every output is followed by a [yolo] of its anchors, coarse maps first. Raises ExportError for a
    layer that Darknet does not know.
    """
    return "\n\n".join(_Written(network, [*pairs], anchors, classes).sections()) + "\n"


class _Written:
    """One file in the making: Darknet's layers are numbered as they come, and read the last one."""

    def __init__(
        self,
        network: Network,
        pairs: list[Pair],
        anchors: Sequence[tuple[float, float]],
        classes: int,
    ) -> None:
        self._network, self._pairs = network, pairs
        self._anchors, self._classes = anchors, classes
        self._widths = network.widths(network.dense)
        self._number: dict[str, int] = {network.layers[0].inputs[0]: -1}  # layer → Darknet's number
        self._sections: list[str] = []

    def sections(self) -> list[str]:
        channels, height, width = self._network.input_shape
        head = _section("net", width=width, height=height, channels=channels)
        outputs = self._outputs()
        for layer in self._network.layers:
            self._write(layer)
            if layer in outputs:
                self._write_yolo(layer, outputs)
        return [head, *self._sections]

    def _outputs(self) -> list[Layer]:
        read = {name for layer in self._network.layers for name in layer.inputs}
        read |= {layer.residual for layer in self._network.layers if layer.residual}
        return [layer for layer in self._network.layers if layer.name not in read]

    def _write(self, layer: Layer) -> None:
        if layer.kind == "pad" and self._is_of_a_pool(layer):  # Darknet's pools pad themselves
            self._number[layer.name] = self._number[layer.inputs[0]]
            return
        if layer.kind == "concat":
            found = ",".join(str(self._number[name]) for name in layer.inputs)
            if "-1" in found.split(","):
                raise ExportError(f"{layer.name}: Darknet's routes cannot read the images")
            self._add(layer, _section("route", layers=found))
            return
        self._go_to(layer.inputs[0])
        activation = ACTIVATIONS.get(layer.activation)
        if activation is None:
            raise ExportError(f"{layer.name}: Darknet knows no activation {layer.activation}")
        if layer.kind == "conv" and layer.residual is None and self._is_square(layer):
            norm = self._pairs.pop(0)[1]
            spec = self._network.spec(layer, self._widths)
            self._add(layer, _convolution(spec, norm is not None, activation))
        elif layer.kind == "add":
            back = self._number[layer.inputs[1]] - len(self._sections)
            self._add(layer, _section("shortcut", **{"from": back, "activation": activation}))
        elif layer.kind == "upsample":
            self._add(layer, _section("upsample", stride=layer.stride[0]))
        elif layer.kind == "max_pool" and layer.padding == (0, 0) and not layer.ceil_mode:
            self._add(layer, _section("maxpool", size=layer.kernel[0], stride=layer.stride[0]))
        else:
            raise ExportError(f"{layer.name}: Darknet knows no {layer.kind} of this kind")

    def _is_square(self, layer: Layer) -> bool:
        """Whether Darknet's three numbers say all of a convolution's form."""
        (k, wide), stride = layer.kernel, layer.stride
        return (
            k == wide
            and stride[0] == stride[1]
            and layer.padding in ((k // 2, k // 2), (0, 0))
            and layer.padding_end is None
            and layer.dilation == (1, 1)
        )

    def _is_of_a_pool(self, pad: Layer) -> bool:
        """Whether a border only lets the pools behind it, of stride 1, keep their size."""
        readers = [each for each in self._network.layers if pad.name in each.inputs]
        return all(
            each.kind == "max_pool" and each.stride == (1, 1) and each.kernel == (2, 2)
            for each in readers
        )

    def _write_yolo(self, layer: Layer, outputs: Sequence[Layer]) -> None:
        """Reads the layer before; the coarsest map has the largest anchors."""
        sizes = [self._network.geometry[each.name].in_size for each in outputs]
        finer = sum(size > self._network.geometry[layer.name].in_size for size in sizes)
        first = PER_MAP * finer
        self._sections.append(
            _section(
                "yolo",
                mask=",".join(map(str, range(first, first + PER_MAP))),
                anchors=", ".join(f"{w:g},{h:g}" for w, h in self._anchors),
                classes=self._classes,
                num=len(self._anchors),
            )
        )

    def _go_to(self, name: str) -> None:
        """A route, unless the layer that is read is the one before."""
        number = self._number[name]
        if number < 0 and self._sections:
            raise ExportError(f"{name}: Darknet's layers cannot read the images a second time")
        if number != len(self._sections) - 1:
            self._sections.append(_section("route", layers=number))

    def _add(self, layer: Layer, section: str) -> None:
        self._number[layer.name] = len(self._sections)
        self._sections.append(section)


def _convolution(spec: LayerSpec, has_norm: bool, activation: str) -> str:
    normalised = {"batch_normalize": 1} if has_norm else {}
    grouped = {"groups": spec.groups} if spec.groups > 1 else {}
    return _section(
        "convolutional",
        **normalised,
        filters=spec.out_channels,
        size=spec.kernel[0],
        stride=spec.stride[0],
        pad=int(spec.padding[0] > 0),
        **grouped,
        activation=activation,
    )


def _section(name: str, **values: object) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in values.items())])
