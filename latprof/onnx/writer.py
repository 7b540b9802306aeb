"""An architecture becomes an ONNX model with random weights: what is profiled is what is deployed.

Nodes and tensors are named after their layer with a suffix behind `@`, so that whatever the
runtime fuses or inserts can be traced back to the layer it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latprof.onnx.quantise import quantise
from lookup_tables.architecture import Architecture
from lookup_tables.device import BYTES_TAP
from lookup_tables.layer import LayerSpec
from lookup_tables.network import INPUT, Layer, Network

OPSET, IR_VERSION = 17, 8
BLOCK = 16  # output channels whose weights are left out together, unless told otherwise
_DRAWN = 999_983  # random numbers that weights repeat (a prime): drawing millions takes seconds
# What a network reads; one in INT8 is written in floats, then quantised.
NUMPY: dict[str, type[np.floating]] = {
    "fp32": np.float32, "fp16": np.float16, "int8": np.float32,
}  # fmt: skip
_ONNX = {
    "fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "int8": TensorProto.FLOAT,
}  # fmt: skip
_ACTIVATION_OPS = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.1}),
    "sigmoid": ("Sigmoid", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "elu": ("Elu", {}),
    "tanh": ("Tanh", {}),
    "softplus": ("Softplus", {}),
    "mish": ("Mish", {}),
}
OPSET_OF_MISH = 18
_GATES = {"silu": "sigmoid", "hard_swish": "hard_sigmoid"}  # x · gate(x)


def build(
    network: Network,
    architecture: Architecture,
    batch: int = 1,
    precision: str = "fp32",
    seed: int = 0,
    block: int = BLOCK,
) -> onnx.ModelProto:
    """The architecture as ONNX: input (batch, channels, height, width) → every layer nobody reads.

    Weights are random and keep the scale of activations: zeros and denormals run at other
    speeds than real data. Those that a density leaves out are 0, in blocks of so many output
    channels × one tap, which in INT8 is BYTES_TAP neighbouring inputs. An INT8 network is one with
    QuantizeLinear and DequantizeLinear (`quantise.py`). Raises ArchitectureError.
    """
    together = BYTES_TAP if precision == "int8" else 1
    writer = _Writer(seed, NUMPY[precision], block, together)
    layers = network.layer_specs(architecture)
    for layer, spec in layers:
        writer.add(layer, spec)
    element = _ONNX[precision]
    specs = {layer.name: spec for layer, spec in layers}
    outputs = []
    for name in network.outputs(architecture):
        flat = not writer.shape_4d[name]
        shape = [batch, specs[name].out_channels, *([] if flat else specs[name].out_size)]
        if writer.last[name]:
            shape = [batch, *specs[name].out_size, specs[name].out_channels]
        outputs.append(helper.make_tensor_value_info(writer.tensor[name], element, shape))
    graph = helper.make_graph(
        writer.nodes,
        network.name,
        [helper.make_tensor_value_info(INPUT, element, [batch, *network.input_shape])],
        outputs,
        writer.weights,
    )
    model = _model(graph)
    return quantise(model, layers[0][0].name) if precision == "int8" else model


def leave_out(
    weight: np.ndarray, density: float, block: int, rng: np.random.Generator, together: int = 1
) -> None:
    """Keep this share of a weight's taps and set the others to 0, in place.

    `weight`: (out channels, in channels, …). Taps go in blocks of so many output channels, and all
    blocks keep as many, to within one. A tap is so many neighbouring input channels at one place.
    """
    outputs, inputs = weight.shape[:2]
    places = weight[0, 0].size
    blocks, taps = -(-outputs // block), -(-inputs // together) * places
    kept = max(1, round(density * blocks * taps))
    by_place = weight.reshape(outputs, inputs, places)
    for i, count in enumerate(np.diff(np.arange(blocks + 1) * kept // blocks)):
        rows = by_place[i * block : (i + 1) * block]
        for_inputs, at = np.divmod(rng.permutation(taps)[count:], places)
        for first in range(together):
            channels = for_inputs * together + first
            known = channels < inputs
            rows[:, channels[known], at[known]] = 0


def random_input(network: Network, batch: int = 1, precision: str = "fp32") -> np.ndarray:
    """An input of (batch, channels, height, width) drawn from a normal distribution."""
    shape = (batch, *network.input_shape)
    return np.random.default_rng(0).standard_normal(shape).astype(NUMPY[precision])


@dataclass(frozen=True)
class LayerModel:
    """One layer of an architecture as a network of its own; shapes are (batch, channels, …)."""

    name: str
    layer: Layer
    spec: LayerSpec
    sources: tuple[str, ...]  # the layers it reads, the residual last
    in_shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    precision: str
    last: bool = False  # whether the channels of what it reads are the last dimension

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(f"in{i}" for i in range(len(self.sources)))

    def model(self, seed: int = 0) -> onnx.ModelProto:
        """Random weights; layers of equal shapes are equal models."""
        names = self.input_names
        plain = len(names) - (self.layer.residual is not None)
        layer = self.layer.model_copy(
            update={
                "name": "layer",
                "inputs": names[:plain],
                "residual": names[-1] if self.layer.residual else None,
            }
        )
        writer = _Writer(seed, NUMPY[self.precision])
        element = _ONNX[self.precision]
        inputs = []
        for name, shape in zip(names, self.in_shapes, strict=True):
            writer.tensor[name], writer.shape_4d[name] = name, len(shape) == 4
            writer.last[name] = self.last
            inputs.append(helper.make_tensor_value_info(name, element, shape))
        writer.add(layer, self.spec)
        output = helper.make_tensor_value_info(writer.tensor["layer"], element, self.out_shape)
        return _model(helper.make_graph(writer.nodes, "layer", inputs, [output], writer.weights))


def layer_models(
    network: Network, architecture: Architecture, batch: int = 1, precision: str = "fp32"
) -> list[LayerModel]:
    """Every layer of an architecture as a network of its own, in execution order."""
    shapes: dict[str, tuple[int, ...]] = {INPUT: (batch, *network.input_shape)}
    models, last = [], {INPUT: False}
    for layer, spec in network.layer_specs(architecture):
        flat = layer.kind == "linear" or len(shapes[layer.inputs[0]]) == 2
        before = last[layer.inputs[0]]
        last[layer.name] = not flat and before is not (layer.kind == "permute")
        shape = (spec.out_channels, *(() if flat else spec.out_size))
        shapes[layer.name] = (batch, *(shape[1:] + shape[:1] if last[layer.name] else shape))
        sources = (*layer.inputs, *([layer.residual] if layer.residual else []))
        models.append(
            LayerModel(
                name=layer.name,
                layer=layer,
                spec=spec,
                sources=sources,
                in_shapes=tuple(shapes[source] for source in sources),
                out_shape=shapes[layer.name],
                precision=precision,
                last=before,
            )
        )
    return models


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    rarer = any(node.op_type == "Mish" for node in graph.node)
    opset = helper.make_opsetid("", OPSET_OF_MISH if rarer else OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


@cache
def _drawn(seed: int) -> np.ndarray:
    """Twice the same numbers, so that a stretch of _DRAWN may begin anywhere in the first."""
    return np.tile(np.random.default_rng(seed).standard_normal(_DRAWN, dtype=np.float32), 2)


class _Writer:
    """Collects nodes and weights; `tensor` maps a layer to the tensor that holds its output."""

    def __init__(
        self, seed: int, dtype: type[np.floating], block: int = BLOCK, together: int = 1
    ) -> None:
        self.dtype, self.block, self.together = dtype, block, together
        self._rng = np.random.default_rng(seed)  # of masks
        self._drawn, self._start = _drawn(seed), 0
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.tensor = {INPUT: INPUT}
        self.shape_4d = {INPUT: True}
        self.last = {INPUT: False}  # whether channels are the last dimension of maps

    def node(self, op: str, inputs: list[str], output: str, name: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def weight(self, name: str, shape: tuple[int, ...], scale: float, density: float = 1.0) -> str:
        drawn = np.resize(self._drawn[self._start : self._start + _DRAWN], shape)
        self._start = (self._start + drawn.size) % _DRAWN  # no two tensors begin alike
        values = (drawn * np.float32(scale / density**0.5)).astype(self.dtype)
        if density < 1:
            leave_out(values, density, self.block, self._rng, self.together)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, layer: Layer, spec: LayerSpec) -> None:
        inputs = [self.tensor[name] for name in layer.inputs]
        name = f"{layer.name}@{layer.kind}"
        last = self.last[layer.inputs[0]]
        self.last[layer.name] = last is not (layer.kind == "permute") and layer.kind != "linear"
        if layer.kind in ("conv", "depthwise", "conv_transpose"):
            tensor = self._conv(layer, spec, inputs[0], name)
        elif layer.kind == "pointwise":
            tensor = self._pointwise(layer, spec, inputs[0], name)
        elif layer.kind == "linear":
            tensor = self._linear(layer, spec, inputs[0], name)
        elif layer.kind == "activation":
            tensor = inputs[0]
        else:
            tensor = self._glue(layer, spec, inputs, name)
        if layer.residual:
            name = f"{layer.name}@add"
            tensor = self.node("Add", [tensor, self.tensor[layer.residual]], name, name)
        self.tensor[layer.name] = self._activation(layer, spec, tensor)
        self.shape_4d[layer.name] = layer.kind != "linear" and self.shape_4d[layer.inputs[0]]

    def _conv(self, layer: Layer, spec: LayerSpec, source: str, name: str) -> str:
        groups = spec.out_channels if layer.kind == "depthwise" else spec.groups
        each = spec.in_channels // groups
        shape = (spec.out_channels, each, *spec.kernel)
        own: dict[str, tuple[int, ...]] = {}
        if layer.kind == "conv_transpose":
            shape = (spec.in_channels, spec.out_channels // groups, *spec.kernel)
            own["output_padding"] = spec.output_padding
        if spec.dilation != (1, 1):
            own["dilations"] = spec.dilation
        scale = (2 / (each * math.prod(spec.kernel))) ** 0.5
        weight = self.weight(f"{layer.name}@weight", shape, scale, spec.density)
        bias = self.weight(f"{layer.name}@bias", (spec.out_channels,), 0.1)
        return self.node(
            "ConvTranspose" if layer.kind == "conv_transpose" else "Conv",
            [source, weight, bias],
            name,
            name,
            kernel_shape=spec.kernel,
            strides=spec.stride,
            pads=_pads(spec),
            group=groups,
            **own,
        )

    def _pointwise(self, layer: Layer, spec: LayerSpec, source: str, name: str) -> str:
        shape = (spec.in_channels, spec.out_channels)
        weight = self.weight(f"{layer.name}@weight", shape, (2 / spec.in_channels) ** 0.5)
        bias = self.weight(f"{layer.name}@bias", shape[1:], 0.1)
        product = self.node("MatMul", [source, weight], f"{name}@product", f"{name}@product")
        return self.node("Add", [product, bias], name, name)

    def _linear(self, layer: Layer, spec: LayerSpec, source: str, name: str) -> str:
        if self.shape_4d[layer.inputs[0]]:
            flat = f"{layer.name}@flatten"
            source = self.node("Flatten", [source], flat, flat)
        shape = (spec.out_channels, spec.in_channels)
        weight = self.weight(f"{layer.name}@weight", shape, (2 / spec.in_channels) ** 0.5)
        bias = self.weight(f"{layer.name}@bias", shape[:1], 0.1)
        return self.node("Gemm", [source, weight, bias], name, name, transB=1)

    def _glue(self, layer: Layer, spec: LayerSpec, inputs: list[str], name: str) -> str:
        window: dict = {
            "kernel_shape": spec.kernel,
            "strides": spec.stride,
            "pads": _pads(spec),
        }
        if spec.ceil_mode:
            window["ceil_mode"] = 1
        if spec.dilation != (1, 1):
            window["dilations"] = spec.dilation
        match layer.kind:
            case "add":
                return self.node("Add", [*map(self._as_maps(layer), layer.inputs)], name, name)
            case "multiply":
                return self.node("Mul", [*map(self._as_maps(layer), layer.inputs)], name, name)
            case "concat":
                return self.node("Concat", inputs, name, name, axis=1)
            case "max_pool":
                return self.node("MaxPool", inputs, name, name, **window)
            case "avg_pool":
                return self.node("AveragePool", inputs, name, name, **window, count_include_pad=1)
            case "global_avg_pool":
                return self.node("GlobalAveragePool", inputs, name, name)
            case "upsample":
                scales = np.array([1, 1, *spec.stride], dtype=np.float32)
                self.weights.append(numpy_helper.from_array(scales, f"{layer.name}@scales"))
                scaled = [inputs[0], "", f"{layer.name}@scales"]
                return self.node(
                    "Resize",
                    scaled,
                    name,
                    name,
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            case "batch_norm":
                return self._batch_norm(layer, spec, inputs[0], name)
            case _:
                return self._rarer(layer, spec, inputs[0], name)

    def _as_maps(self, layer: Layer) -> Callable[[str], str]:
        """Of what an elementwise layer reads, features beside maps get a height and a width."""

        def tensor(source: str) -> str:
            if self.shape_4d[source] or not self.shape_4d[layer.inputs[0]]:
                return self.tensor[source]
            name = f"{layer.name}@unsqueeze_{source}"
            axes = self._constant(f"{name}@axes", np.array([2, 3], dtype=np.int64))
            return self.node("Unsqueeze", [self.tensor[source], axes], name, name)

        return tensor

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def _filled(self, name: str, shape: tuple[int, ...], value: float) -> str:
        return self._constant(name, np.full(shape, value, dtype=self.dtype))

    def _rarer(self, layer: Layer, spec: LayerSpec, source: str, name: str) -> str:
        """Written as PyTorch's exporter writes them."""
        channels, own = spec.in_channels, layer.name
        last = self.last[layer.inputs[0]]
        flat = not self.shape_4d[layer.inputs[0]]
        each = (channels,) if last or flat else (channels, 1, 1)
        numbers = partial(np.array, dtype=np.int64)
        match layer.kind:
            case "permute":
                order = (0, 3, 1, 2) if last else (0, 2, 3, 1)
                return self.node("Transpose", [source], name, name, perm=order)
            case "layer_norm":
                scale, shift = (self._filled(f"{own}@{k}", (channels,), 1.0) for k in "ab")
                return self.node("LayerNormalization", [source, scale, shift], name, name, axis=-1)
            case "group_norm":
                return self._group_norm(layer, spec, source, name)
            case "pad":
                up, left, down, right = _pads(spec)
                pads = self._constant(f"{own}@pads", numbers([0, 0, up, left, 0, 0, down, right]))
                return self.node("Pad", [source, pads], name, name)
            case "slice":
                end = layer.start + spec.out_channels
                places = {"start": [layer.start], "end": [end], "axes": [1]}
                given = [self._constant(f"{own}@{k}", numbers(v)) for k, v in places.items()]
                return self.node("Slice", [source, *given], name, name)
            case "channel_pad":
                behind = spec.out_channels - spec.in_channels - layer.start
                sides = numbers([0, layer.start, 0, 0, 0, behind, 0, 0])
                return self.node("Pad", [source, self._constant(f"{own}@pads", sides)], name, name)
            case "subsample":
                ends = {"start": (0, 0), "end": spec.in_size, "axes": (2, 3), "steps": spec.stride}
                given = [self._constant(f"{own}@{k}", numbers(v)) for k, v in ends.items()]
                return self.node("Slice", [source, *given], name, name)
            case "channel_shuffle":
                (height, width), groups = spec.in_size, spec.groups
                apart = numbers([0, groups, channels // groups, height, width])
                together = numbers([0, channels, height, width])
                at = [f"{own}@{k}" for k in ("apart", "turned")]
                source = self.node(
                    "Reshape", [source, self._constant(f"{at[0]}@shape", apart)], at[0], at[0]
                )
                source = self.node("Transpose", [source], at[1], at[1], perm=(0, 2, 1, 3, 4))
                shape = self._constant(f"{own}@shape", together)
                return self.node("Reshape", [source, shape], name, name)
            case "pixel_shuffle":
                return self.node(
                    "DepthToSpace", [source], name, name, blocksize=spec.stride[0], mode="CRD"
                )
            case "bilinear":
                factors = [b / a for a, b in zip(spec.in_size, spec.out_size, strict=True)]
                scales = np.array([1, 1, *factors], dtype=np.float32)
                given = [source, "", self._constant(f"{own}@scales", scales)]
                return self.node("Resize", given, name, name, mode="linear")
            case "scale" | "shift" | "channel_scale" | "channel_shift":
                op = "Mul" if layer.kind.endswith("scale") else "Add"
                sizes = each if layer.kind.startswith("channel") else ()
                return self.node(op, [source, self._filled(f"{own}@by", sizes, 1.01)], name, name)
        raise AssertionError(f"{layer.kind} has no ONNX form")

    def _batch_norm(self, layer: Layer, spec: LayerSpec, source: str, name: str) -> str:
        names = [f"{layer.name}@{part}" for part in ("scale", "shift", "mean", "variance")]
        for tensor, value in zip(names, (1.0, 0.1, 0.1, 1.0), strict=True):
            values = np.full(spec.out_channels, value, dtype=self.dtype)
            self.weights.append(numpy_helper.from_array(values, tensor))
        return self.node("BatchNormalization", [source, *names], name, name)

    def _group_norm(self, layer: Layer, spec: LayerSpec, source: str, name: str) -> str:
        own, channels = layer.name, spec.in_channels
        shapes = {
            "apart": [0, spec.groups, -1], "together": [0, channels, *spec.in_size],
        }  # fmt: skip
        for k, shape in shapes.items():
            self._constant(f"{own}@{k}_shape", np.array(shape, dtype=np.int64))
        ones = [self._filled(f"{own}@{k}_each", (spec.groups,), 1.0) for k in ("scale", "shift")]
        steps = [
            ("Reshape", "apart", [f"{own}@apart_shape"]),
            ("InstanceNormalization", "normed", ones),
            ("Reshape", "together", [f"{own}@together_shape"]),
            ("Mul", "scaled", [self._filled(f"{own}@scale", (channels, 1, 1), 1.0)]),
        ]
        for op, k, given in steps:
            source = self.node(op, [source, *given], f"{own}@{k}", f"{own}@{k}")
        shift = self._filled(f"{own}@shift", (channels, 1, 1), 0.1)
        return self.node("Add", [source, shift], name, name)

    def _activation(self, layer: Layer, spec: LayerSpec, tensor: str) -> str:
        name = f"{layer.name}@activation"
        if layer.activation == "none":
            return tensor
        if layer.activation == "relu6":
            bounds = [f"{layer.name}@low", f"{layer.name}@high"]
            for bound, value in zip(bounds, (0.0, 6.0), strict=True):
                values = np.array(value, dtype=self.dtype)
                self.weights.append(numpy_helper.from_array(values, bound))
            return self.node("Clip", [tensor, *bounds], name, name)
        if layer.activation in ("silu", "hard_swish"):  # written out: ORT would name it anew
            op, attributes = _ACTIVATION_OPS[_GATES[layer.activation]]
            gate = self.node(op, [tensor], f"{name}@gate", f"{name}@gate", **attributes)
            return self.node("Mul", [tensor, gate], name, name)
        if layer.activation == "gelu":  # by the error function, as opset 18 has it
            parts = {"root": 2**0.5, "one": 1.0, "half": 0.5}
            root, one, half = (self._filled(f"{name}@{k}", (), v) for k, v in parts.items())
            found = self.node("Div", [tensor, root], f"{name}@divided", f"{name}@divided")
            found = self.node("Erf", [found], f"{name}@erf", f"{name}@erf")
            found = self.node("Add", [found, one], f"{name}@plus", f"{name}@plus")
            found = self.node("Mul", [tensor, found], f"{name}@times", f"{name}@times")
            return self.node("Mul", [found, half], name, name)
        if layer.activation == "prelu":
            last = self.last[layer.name] or not self.shape_4d[layer.inputs[0]]
            shape = (spec.out_channels,) if last else (spec.out_channels, 1, 1)
            return self.node("PRelu", [tensor, self._filled(f"{name}@by", shape, 0.25)], name, name)
        op, attributes = _ACTIVATION_OPS[layer.activation]
        return self.node(op, [tensor], name, name, **attributes)


def _pads(spec: LayerSpec) -> tuple[int, ...]:
    return (*spec.padding, *(spec.padding if spec.padding_end is None else spec.padding_end))
