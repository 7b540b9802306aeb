"""An ONNX file becomes a Network: fused layers, coupled channels, removable blocks.

For networks that exist only as ONNX. Weights are not kept: latency does not depend on their values,
and the profiled variants have weights of their own.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import NodeProto, numpy_helper, shape_inference
from onnx.checker import ValidationError

from latprof.onnx.patterns import SHUFFLE, recognised
from lookup_tables.errors import NetworkError
from lookup_tables.graph.assembly import Assembly
from lookup_tables.network import Network

_ACTIVATIONS = {
    "Relu": "relu", "LeakyRelu": "leaky_relu", "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid", "HardSwish": "hard_swish", "Swish": "silu", "Clip": "relu6",
    "Elu": "elu", "Tanh": "tanh", "Softplus": "softplus", "Mish": "mish", "Gelu": "gelu",
    "PRelu": "prelu",
}  # fmt: skip
_QUANTISED = {
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "DynamicQuantizeLinear",
}  # fmt: skip
# Optimisations of ONNX Runtime's first level that would make other layers of these.
_FUSIONS = [
    "ConvAddFusion", "ConvMulFusion", "ConvBNFusion", "ConvActivationFusion", "PadFusion",
    "Pad_Fusion", "ReluClipFusion", "GemmActivationFusion", "MatMulBNFusion", "GemmSumFusion",
    "ConvAddActivationFusion", "MatMulAddFusion", "NoopElimination", "CastElimination",
    "ReshapeFusion", "EliminateIdentity", "EliminateDropout", "GemmTransposeFusion",
]  # fmt: skip
_STANDARD = ("", "ai.onnx")  # domains whose operators are ONNX's own
_PASSED_ON = {"Identity", "Dropout", "Cast"}
_READ_FLAT = {"Gemm", "MatMul", "Flatten", "Reshape", "Squeeze", *_PASSED_ON}
# What takes channels in the second place of maps and in the last.
_EITHER_LAYOUT = {
    "MatMul", "LayerNormalization", "Transpose", "Add", "Sub", "Mul", "Div", *_ACTIVATIONS,
    *_PASSED_ON,
}  # fmt: skip
_TO_LAST, _BACK = [0, 2, 3, 1], [0, 3, 1, 2]


def read_onnx(path: str | Path) -> Network:
    """The network in an ONNX file, named after it; raises NetworkError naming node and reason."""
    path = Path(path)
    try:
        model = onnx.load(str(path))
    except DecodeError:
        raise NetworkError(f"{path}: not a readable ONNX file") from None
    except (FileNotFoundError, ValidationError, ValueError) as error:
        if not path.exists():
            raise NetworkError(f"{path}: no such ONNX file") from None
        raise _damaged(path, error) from None
    return _Reader(path, model).network()


def is_half(path: str | Path) -> bool:
    """Whether an ONNX file computes in half precision, wholly or in part."""
    graph = onnx.load(str(path), load_external_data=False).graph
    half = onnx.TensorProto.FLOAT16
    casts = [n for n in graph.node if n.op_type == "Cast" and _attributes(n)["to"] == half]
    return bool(casts) or any(tensor.data_type == half for tensor in graph.initializer)


def _damaged(path: Path, error: Exception) -> NetworkError:
    """What to raise for weights that are not there, or cut short."""
    return NetworkError(
        f"{path}: its weights are missing or damaged: {error}. Copy the files that the "
        "exporter wrote beside it as well"
    )


class _Reader:
    """Walks the graph once, in the file's (topological) order."""

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self.path = path
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [entry for entry in model.graph.input if entry.name not in weights]
        if len(inputs) != 1:
            raise NetworkError(
                f"{path}: {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); only one "
                "image input is supported"
            )
        (self.input,) = inputs
        for node in model.graph.node:
            name = f"{path}: {node.op_type} {node.name or node.output[0]}"
            if node.domain not in _STANDARD:
                hint = "; give the file from before the runtime optimised it"
                raise NetworkError(
                    f"{name} is of the domain {node.domain!r}; only ONNX's own operators are "
                    f"supported{hint if node.domain.startswith('com.microsoft') else ''}"
                )
            if node.op_type in _QUANTISED:
                raise NetworkError(
                    f"{name}: the file is quantised. Give the one from before: `latprof profile "
                    "--precision int8` quantises it itself"
                )
        model = self._with_shapes(model)
        self.graph = model.graph
        try:
            self.constants = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        except ValueError as error:  # of a file beside it that was cut short
            raise _damaged(path, error) from None
        self.shapes = {
            entry.name: tuple(d.dim_value for d in entry.type.tensor_type.shape.dim)
            for entry in (*self.graph.input, *self.graph.value_info, *self.graph.output)
        }
        opset = next(each.version for each in model.opset_import if each.domain in _STANDARD)
        self.nodes = recognised(self.graph, opset, self.constants, self.shapes)
        uses = Counter(name for node in self.nodes for name in {*node.input})
        uses.update(output.name for output in self.graph.output)
        self.assembly = Assembly(uses)
        self.products: set[str] = set()  # of linear layers that have no bias yet

    def _with_shapes(self, model: onnx.ModelProto) -> onnx.ModelProto:
        shape = self.input.type.tensor_type.shape
        if len(shape.dim) != 4:
            raise NetworkError(
                f"{self.path}: input {self.input.name} has {len(shape.dim)} dimensions; expected "
                "(batch, channels, height, width)"
            )
        if any(d.dim_value == 0 for d in shape.dim[1:]):
            raise NetworkError(
                f"{self.path}: input {self.input.name} leaves channels, height or width open; "
                "export it for one size"
            )
        shape.dim[0].dim_value = 1  # also for a file made for another batch: geometry is the same
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        if any(node.op_type in ("Shape", "If") for node in model.graph.node):
            model = self._folded(model)
        try:
            return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except shape_inference.InferenceError as error:
            reason = str(error).splitlines()[0]
            raise NetworkError(f"{self.path}: shapes cannot be inferred: {reason}") from None

    def _folded(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """With what follows from constants and sizes computed, by ONNX Runtime."""
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
            try:
                ort.InferenceSession(
                    model.SerializeToString(), options, providers=["CPUExecutionProvider"],
                    disabled_optimizers=_FUSIONS,
                )  # fmt: skip
            except Exception as error:  # the runtime's own kinds, which have no common name
                reason = str(error).splitlines()[0]
                raise NetworkError(f"{self.path}: ONNX Runtime cannot open it: {reason}") from None
            return onnx.load(options.optimized_model_filepath)

    def network(self) -> Network:
        _, *input_shape = self.shapes[self.input.name]
        self.assembly.input(self.input.name, input_shape[0])
        for node in self.nodes:
            self._read(node)
        for output in self.graph.output:
            if output.name not in self.assembly.tensors:
                raise NetworkError(f"{self.path}: output {output.name} depends on no layer")
            self.assembly.output(output.name)
        name = re.sub(r"[^a-z0-9]+", "_", self.path.stem.lower()).strip("_") or "network"
        try:
            return self.assembly.network(name, tuple(input_shape))
        except NetworkError as error:
            raise NetworkError(f"{self.path}: {error}") from None

    def _read(self, node: NodeProto) -> None:
        if node.op_type == "Constant":
            (value,) = (a for a in node.attribute if a.name.startswith("value"))
            self.constants[node.output[0]] = np.asarray(_value(value))
            return
        if all(name in self.constants for name in node.input if name):
            self._fold(node)
            return
        if node.op_type not in _READ_FLAT:
            for name in node.input:
                tensor = self.assembly.tensors.get(name)
                if tensor and tensor.flattened > 1:
                    raise self._refused(node, "reads flattened maps; only linear layers may")
        if node.op_type not in _EITHER_LAYOUT and any(map(self._is_last, node.input)):
            raise self._refused(node, "reads maps whose channels lie last; transpose them back")
        if node.op_type in _ACTIVATIONS:
            self._activation(node)
        elif node.op_type in _PASSED_ON:
            self.assembly.pass_on(node.output[0], node.input[0])
        elif node.op_type in _READERS:
            _READERS[node.op_type](self, node)
        else:
            supported = sorted({*_ACTIVATIONS, *_PASSED_ON, *_READERS} - {SHUFFLE})
            raise self._refused(node, f"is not supported. Supported: {', '.join(supported)}")

    def _is_last(self, name: str) -> bool:
        return name in self.assembly.tensors and self.assembly.tensors[name].last

    def _fold(self, node: NodeProto) -> None:
        """A node of constants only."""
        if node.op_type in ("Identity", "Cast"):
            self.constants[node.output[0]] = self.constants[node.input[0]]
            return
        raise self._refused(node, "computes with constants; simplify the file first")

    def _refused(self, node: NodeProto, why: str) -> NetworkError:
        return NetworkError(f"{self.path}: {node.op_type} {self._name(node)} {why}")

    def _name(self, node: NodeProto) -> str:
        """The node's name, without the mark behind which the profiler puts a node's part."""
        name = (node.name or node.output[0]).strip("/").replace("@", "_")
        return self.assembly.layer_name(name, f"{name}_{node.output[0]}".replace("@", "_"))

    # -- one reader per kind of node -----------------------------------------------------------

    def _conv(self, node: NodeProto) -> None:
        options = _attributes(node)
        weight = self._constant(node, 1)
        kernel = weight.shape[2:]
        groups, kind = options.get("group", 1), "conv"
        channels, window = weight.shape[0], self._window(node, options, kernel)
        if node.op_type == "ConvTranspose":
            kind, channels = "conv_transpose", weight.shape[1] * groups
            window["output_padding"] = tuple(options.get("output_padding", (0, 0)))
            if options.get("output_shape"):
                raise self._refused(node, "names its output's size; its padding is needed")
        name = self._name(node)
        self.assembly.conv(name, node.output[0], node.input[0], channels, groups, kind, **window)

    def _window(self, node: NodeProto, options: dict, kernel) -> dict:
        """What a convolution or pool reads at a time, in the words of a layer."""
        window = {
            "kernel": tuple(kernel), "stride": tuple(options.get("strides", (1, 1)))
        }  # fmt: skip
        dilation = tuple(options.get("dilations", (1, 1)))
        if dilation != (1, 1):
            window["dilation"] = dilation
        before, after = self._padding(node, options, window["stride"], kernel, dilation)
        window["padding"] = before
        if before != after:
            window["padding_end"] = after
        return window

    def _padding(self, node: NodeProto, options: dict, stride, kernel, dilation):
        """What is added above and left, and below and right."""
        auto = options.get("auto_pad", b"NOTSET").decode()
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            if node.op_type == "ConvTranspose":
                raise self._refused(node, f"pads by {auto}; numbers are needed")
            sizes = self._shape(node, 0)[2:]
            whole = [
                max(0, (-(-size // step) - 1) * step + d * (k - 1) + 1 - size)
                for size, step, k, d in zip(sizes, stride, kernel, dilation, strict=True)
            ]
            less, more = tuple(n // 2 for n in whole), tuple(n - n // 2 for n in whole)
            return (less, more) if auto == "SAME_UPPER" else (more, less)
        top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
        return (top, left), (bottom, right)

    def _gemm(self, node: NodeProto) -> None:
        options = _attributes(node)
        weight = self._constant(node, 1)
        if options.get("transA"):
            raise self._refused(node, "transposes its input")
        channels = weight.shape[0 if options.get("transB") else 1]
        self.assembly.linear(self._name(node), node.output[0], node.input[0], channels)

    def _matmul(self, node: NodeProto) -> None:
        weight = self._constant(node, 1)
        source, rank = node.input[0], len(self._shape(node, 0))
        if weight.ndim == 2 and rank == 2:
            self.assembly.linear(self._name(node), node.output[0], source, weight.shape[1])
        elif weight.ndim == 2 and rank == 4 and self._is_last(source):
            self.assembly.pointwise(self._name(node), node.output[0], source, weight.shape[1])
        else:
            raise self._refused(
                node,
                "is not a linear layer on (batch, features), or on maps whose channels lie last",
            )
        self.products.add(node.output[0])

    def _batch_norm(self, node: NodeProto) -> None:
        self.assembly.batch_norm(self._name(node), node.output[0], node.input[0])

    def _activation(self, node: NodeProto) -> None:
        if node.op_type == "Clip":
            options = _attributes(node)  # before opset 11
            bounds = [options.get("min"), options.get("max")]
            if len(node.input) > 2:
                bounds = [float(self._constant(node, i)) for i in (1, 2)]
            if bounds != [0.0, 6.0]:
                raise self._refused(node, f"clips to {bounds}; only 0 … 6 (ReLU6) is supported")
        kind = _ACTIVATIONS[node.op_type]
        self.assembly.activation(self._name(node), node.output[0], node.input[0], kind)

    def _add(self, node: NodeProto) -> None:
        self._elementwise(node, "add", "shift")

    def _multiply(self, node: NodeProto) -> None:
        self._elementwise(node, "multiply", "scale")

    def _elementwise(self, node: NodeProto, together: str, by_constant: str) -> None:
        if self._by_constant(node, by_constant):
            return
        if node.op_type == "Div":
            raise self._refused(node, "divides by what is computed")
        first, second = sorted(node.input, key=lambda name: -math.prod(self.shapes[name]))
        if together == "add" and self.shapes[first] == self.shapes[second]:
            self.assembly.add(self._name(node), node.output[0], list(node.input))
            return
        large, small = self.shapes[first], self.shapes[second]
        in_place = self._is_last(first) == self._is_last(second) or small[1:].count(1) == 2
        if self.shapes[node.output[0]] != large or len(large) != len(small) or not in_place:
            raise self._refused(
                node,
                f"takes tensors of {large[1:]} and {small[1:]}; supported are equal shapes, one "
                "number a channel, and one a place",
            )
        self.assembly.meet(self._name(node), together, node.output[0], [first, second])

    def _by_constant(self, node: NodeProto, kind: str) -> bool:
        """Read a sum or product with a constant; whether it is one.

        Behind a linear layer without a bias of its own it is that bias.
        """
        constant = [name for name in node.input if name in self.constants]
        if not constant:
            return False
        (source,) = (name for name in node.input if name not in self.constants)
        value, tensor = self.constants[constant[0]], self.assembly.tensors[source]
        behind = 1 if tensor.last else len(self.shapes[source]) - 1  # from the channels' on
        each = value.size == tensor.channels == (value.shape[-behind:] or (1,))[0]
        if value.size != 1 and not each:
            raise self._refused(
                node,
                f"takes a constant of {value.shape}; one number, or one a channel, may be",
            )
        if kind == "shift" and source in self.products and each:
            self.assembly.pass_on(node.output[0], source)
            return True
        kind = f"channel_{kind}" if value.size > 1 else kind
        self.assembly.each_channel(self._name(node), kind, node.output[0], source)
        return True

    def _concat(self, node: NodeProto) -> None:
        unknown = [name for name in node.input if name not in self.assembly.tensors]
        if unknown:
            raise self._refused(node, f"concatenates {unknown[0]}, which no layer writes")
        rank = len(self._shape(node, 0))
        if _attributes(node)["axis"] % rank != 1:
            raise self._refused(node, "does not concatenate channels")
        self.assembly.concat(self._name(node), node.output[0], list(node.input))

    def _pool(self, node: NodeProto) -> None:
        options = _attributes(node)
        window = self._window(node, options, options["kernel_shape"])
        if options.get("ceil_mode"):
            window["ceil_mode"] = True
        kind = "max_pool" if node.op_type == "MaxPool" else "avg_pool"
        self.assembly.each_channel(self._name(node), kind, node.output[0], node.input[0], **window)

    def _pad(self, node: NodeProto) -> None:
        options = _attributes(node)  # before opset 11
        pads = options.get("pads")
        if pads is None:
            pads = [int(size) for size in self._constant(node, 1)]
        mode = options.get("mode", b"constant").decode()
        spatial = len(pads) == 8 and any(pads[i] for i in (2, 3, 6, 7))
        beside = len(pads) == 8 and any(pads[i] for i in (1, 5))
        if len(pads) != 8 or mode != "constant" or pads[0] or pads[4] or min(pads) < 0:
            raise self._refused(
                node, f"pads by {pads}, {mode}; only constants around maps or channels may be"
            )
        if spatial and beside:
            raise self._refused(node, "pads maps and channels at once")
        if beside:
            channels = self.shapes[node.output[0]][1]
            name = self._name(node)
            self.assembly.channel_pad(name, node.output[0], node.input[0], pads[1], channels)
            return
        window = {"padding": tuple(pads[2:4])}
        if pads[2:4] != pads[6:8]:
            window["padding_end"] = tuple(pads[6:8])
        self.assembly.each_channel(self._name(node), "pad", node.output[0], node.input[0], **window)

    def _global_pool(self, node: NodeProto) -> None:
        if math.prod(self._shape(node, 0)[2:]) == 1:
            self.assembly.pass_on(node.output[0], node.input[0])
            return
        after = self.shapes.get(node.output[0], ())
        if math.prod(after) != self._shape(node, 0)[1]:
            raise self._refused(node, f"reduces to {after}; only a mean over each map is supported")
        self.assembly.each_channel(
            self._name(node), "global_avg_pool", node.output[0], node.input[0]
        )

    def _upsample(self, node: NodeProto) -> None:
        mode = _attributes(node).get("mode", b"nearest").decode()
        before, after = self._shape(node, 0), self.shapes[node.output[0]]
        name, out, source = self._name(node), node.output[0], node.input[0]
        if mode == "linear" and before[:2] == after[:2]:
            self.assembly.each_channel(name, "bilinear", out, source, out_size_given=after[2:])
            return
        if mode != "nearest":
            raise self._refused(node, f"resizes by {mode}; only nearest and linear are supported")
        factors = tuple(b // a for a, b in zip(before[2:], after[2:], strict=True))
        if (
            before[:2] != after[:2]
            or tuple(a * f for a, f in zip(before[2:], factors, strict=True)) != after[2:]
        ):
            raise self._refused(
                node, f"resizes {before} to {after}; only upsampling by whole factors is supported"
            )
        self.assembly.each_channel(name, "upsample", out, source, stride=factors)

    def _slice(self, node: NodeProto) -> None:
        """A part of the channels, or every nth place."""
        before, after = self._shape(node, 0), self.shapes[node.output[0]]
        options = _attributes(node)  # before opset 10
        given = [options.get(name) or [] for name in ("starts", "ends", "axes", "steps")]
        for place, name in enumerate(node.input[1:]):
            given[place] = [int(n) for n in self._constant(node, place + 1)] if name else []
        starts, _, axes, steps = given
        axes = [axis % len(before) for axis in axes or range(len(starts))]
        steps = steps or [1] * len(axes)
        places = [(start + before[axis]) % before[axis] if start < before[axis] else start
                  for start, axis in zip(starts, axes, strict=True)]  # fmt: skip
        name, out, source = self._name(node), node.output[0], node.input[0]
        stride = tuple(dict(zip(axes, steps, strict=True)).get(axis, 1) for axis in (2, 3))
        if before == after and not any(places):
            self.assembly.pass_on(out, source)
        elif axes == [1] and steps == [1]:
            self.assembly.slice(name, out, source, places[0], after[1])
        elif (
            len(before) == 4
            and {*axes} <= {2, 3}
            and not any(places)
            and min(stride) > 0
            and after[2:] == tuple(-(-n // s) for n, s in zip(before[2:], stride, strict=True))
        ):
            self.assembly.each_channel(name, "subsample", out, source, stride=stride)
        else:
            raise self._refused(
                node,
                f"takes a part of {before[1:]} along {axes}; parts of the channels and every nth "
                "place are supported",
            )

    def _split(self, node: NodeProto) -> None:
        source, rank = node.input[0], len(self._shape(node, 0))
        if _attributes(node).get("axis", 0) % rank != 1:
            raise self._refused(node, "does not split channels")
        start = 0
        for number, out in enumerate(node.output):
            channels = self.shapes[out][1]
            self.assembly.slice(f"{self._name(node)}_{number}", out, source, start, channels)
            start += channels

    def _transpose(self, node: NodeProto) -> None:
        backwards = range(len(self._shape(node, 0)) - 1, -1, -1)  # what ONNX does unless told
        order, last = list(_attributes(node).get("perm", backwards)), self._is_last(node.input[0])
        if order != (_BACK if last else _TO_LAST):
            raise self._refused(
                node,
                f"transposes to {order}; only channels to the last place of maps, {_TO_LAST}, and "
                f"back, {_BACK}, are supported",
            )
        self.assembly.permute(self._name(node), node.output[0], node.input[0])

    def _layer_norm(self, node: NodeProto) -> None:
        rank, source = len(self._shape(node, 0)), node.input[0]
        over = _attributes(node).get("axis", -1) % rank
        if over != rank - 1 or not (rank == 2 or self._is_last(source)):
            raise self._refused(node, "is not over channels that lie last")
        self.assembly.averaged(self._name(node), "layer_norm", node.output[0], source)

    def _group_norm(self, node: NodeProto) -> None:
        groups = _attributes(node)["num_groups"]
        name = self._name(node)
        self.assembly.averaged(name, "group_norm", node.output[0], node.input[0], groups)

    def _shuffle(self, node: NodeProto) -> None:
        name, groups = self._name(node), _attributes(node)["group"]
        self.assembly.in_groups(name, "channel_shuffle", node.output[0], node.input[0], groups)

    def _pixel_shuffle(self, node: NodeProto) -> None:
        factor = _attributes(node)["blocksize"]
        self.assembly.pixel_shuffle(self._name(node), node.output[0], node.input[0], factor)

    def _expand(self, node: NodeProto) -> None:
        """One number a channel or a place for all: what reads it does that by itself."""
        readers = {user.op_type for user in self.nodes if node.output[0] in user.input}
        if not readers <= {"Add", "Mul"}:
            raise self._refused(node, f"is read by {', '.join(sorted(readers))}, which needs it")
        self.shapes[node.output[0]] = self._shape(node, 0)
        self.assembly.pass_on(node.output[0], node.input[0])

    def _as_maps(self, node: NodeProto) -> None:
        """(images, features) with a height and a width of 1."""
        before, after = self._shape(node, 0), self.shapes[node.output[0]]
        if len(before) > 2 or after[:2] != before or math.prod(after) != math.prod(before):
            raise self._refused(node, f"makes {after} of {before}; only maps of features may be")
        self.assembly.flatten(node.output[0], node.input[0], None)

    def _flatten(self, node: NodeProto) -> None:
        before, after = self._shape(node, 0), self.shapes[node.output[0]]
        if before == after:
            self.assembly.pass_on(node.output[0], node.input[0])
        elif len(before) == 2 and after == (*before, 1, 1):
            self._as_maps(node)
        elif len(after) == 2 and math.prod(before[1:]) == after[1]:
            self.assembly.flatten(node.output[0], node.input[0], after[1])
        else:
            raise self._refused(node, f"reshapes {before} to {after}; only flattening is supported")

    def _constant(self, node: NodeProto, index: int) -> np.ndarray:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.constants:
            raise self._refused(
                node, f"has a computed input {index}; only constant weights are supported"
            )
        return self.constants[name]

    def _shape(self, node: NodeProto, index: int) -> tuple[int, ...]:
        return self.shapes[node.input[index]]


_READERS: dict[str, Callable[[_Reader, NodeProto], None]] = {
    "Conv": _Reader._conv,
    "ConvTranspose": _Reader._conv,
    "Pad": _Reader._pad,
    "Sub": _Reader._add,
    "Div": _Reader._multiply,
    "Gemm": _Reader._gemm,
    "MatMul": _Reader._matmul,
    "BatchNormalization": _Reader._batch_norm,
    "Add": _Reader._add,
    "Mul": _Reader._multiply,
    "Concat": _Reader._concat,
    "MaxPool": _Reader._pool,
    "AveragePool": _Reader._pool,
    "GlobalAveragePool": _Reader._global_pool,
    "ReduceMean": _Reader._global_pool,
    "Resize": _Reader._upsample,
    "Upsample": _Reader._upsample,
    "Flatten": _Reader._flatten,
    "Reshape": _Reader._flatten,
    "Squeeze": _Reader._flatten,
    "Unsqueeze": _Reader._as_maps,
    "Expand": _Reader._expand,
    "Slice": _Reader._slice,
    "Split": _Reader._split,
    "Transpose": _Reader._transpose,
    "LayerNormalization": _Reader._layer_norm,
    "GroupNormalization": _Reader._group_norm,
    "DepthToSpace": _Reader._pixel_shuffle,
    SHUFFLE: _Reader._shuffle,
}


def _attributes(node: NodeProto) -> dict:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _value(attribute: onnx.AttributeProto):
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
