"""GraphReader: turns the nodes of a captured graph into fused layers and coupled channels.

What is fused and what is coupled, `lookup_tables/graph/assembly.py` decides; here is what PyTorch
calls each operation, and which channels each module's weights read and write.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx, nn

from lookup_tables.errors import NetworkError
from lookup_tables.graph.assembly import Assembly, Tensor
from lookup_tables.network import Network
from pruner import TraceError
from pruner.graph.capture import arguments, first_call, name_of, pair, where

_ACTIVATIONS = {
    "relu": "relu", "leaky_relu": "leaky_relu", "sigmoid": "sigmoid",
    "hardsigmoid": "hard_sigmoid", "hardswish": "hard_swish", "silu": "silu",
    "gelu": "gelu", "elu": "elu", "tanh": "tanh", "softplus": "softplus", "mish": "mish",
}  # fmt: skip
SPLITS = ("chunk", "split", "split_with_sizes")
_CLIPS = ("relu6", "hardtanh", "clamp")  # to 0 … 6: ReLU6
FLATTENS = ("flatten", "view", "reshape", "squeeze", "_unsafe_view")
PASSED_ON = (nn.Dropout, nn.Dropout2d)
_IMAGE_DIMS = {2, 3}


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive channels of one group; `repeat` features stand for each channel."""

    group: str | None
    width: int
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Channels:
    """Which channels a module's weights read and write, in order."""

    reads: tuple[Segment, ...]
    writes: tuple[Segment, ...]


class GraphReader:
    """Walks the graph once; each `_read_…` tells the assembly about one node."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.assembly = Assembly({node: len(node.users) for node in module.graph.nodes})
        self.module_channels: dict[str, tuple] = {}
        self.batch_norms: dict[str, str] = {}
        self.constants: dict[str, tuple[int, tuple]] = {}  # path → dimension and channels

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.assembly.input(node, _known_shape(node)[1])
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.assembly.output(source)
        elif shape_of(node) is not None and node.op != "get_attr":
            self._read_operation(node)
        elif "shapes" in node.meta and name_of(node) not in SPLITS:  # several tensors
            raise self._unsupported(node)

    def _read_operation(self, node: fx.Node) -> None:
        kind, module = self._operation(node)
        if not (isinstance(module, (nn.Linear, *PASSED_ON)) or kind in FLATTENS):
            for source in node.all_input_nodes:
                tensor = self.assembly.tensors.get(source)
                if tensor and tensor.flattened > 1:
                    raise TraceError(
                        f"layer {self._name(node)} reads flattened maps; only linear layers may"
                    )
        key = type(module) if module is not None else kind
        read = _READERS.get(key)
        if read is None:
            raise self._unsupported(node)
        if key not in _EITHER_LAYOUT:
            for source in node.all_input_nodes:
                tensor = self.assembly.tensors.get(source)
                if tensor and tensor.last:
                    raise TraceError(
                        f"layer {self._name(node)}{where(node)}: {kind} reads maps whose channels "
                        "lie last; permute them back before, (0, 3, 1, 2)"
                    )
        read(self, node, module)

    def _unsupported(self, node: fx.Node) -> TraceError:
        kind, _ = self._operation(node)
        return TraceError(
            f"layer {self._name(node)}{where(node)}: {kind} is not supported. What is: "
            '"What can be pruned" in docs/guide.md'
        )

    def _operation(self, node: fx.Node) -> tuple[str, nn.Module | None]:
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            return type(module).__name__, module
        return name_of(node), None

    def _name(self, node: fx.Node) -> str:
        """A module's path; a module without weights may be called again and again."""
        path = node.meta.get("layer")
        if path is None:
            return node.name
        return self.assembly.layer_name(path, node.name)

    def _tensor(self, node: fx.Node) -> Tensor:
        return self.assembly.tensors[node]

    # One reader per kind of node.

    def _claim(self, node: fx.Node, reads, writes) -> None:
        """Note which channels a module's weights read and write; the same ones at every call."""
        path = first_call(str(node.target))
        before = self.module_channels.setdefault(path, (reads, writes))
        for first, again in zip(before, (reads, writes), strict=True):
            if again is not first:
                self.assembly.tie(first, again, f"{path} is called again on others")

    def _read_conv(self, node: fx.Node, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        source = node.all_input_nodes[0]
        path = str(node.target)
        own: dict[str, tuple[int, int]] = {}
        kind = "conv"
        if isinstance(conv, nn.ConvTranspose2d):
            kind, own["output_padding"] = "conv_transpose", pair(conv.output_padding)
        if pair(conv.dilation) != (1, 1):
            own["dilation"] = pair(conv.dilation)
        assert not isinstance(conv.padding, str), "written as numbers when it was captured"
        self.assembly.conv(
            path,
            node,
            source,
            conv.out_channels,
            conv.groups,
            kind,
            kernel=pair(conv.kernel_size),
            stride=pair(conv.stride),
            padding=pair(conv.padding),
            **own,
        )
        self._claim(node, self._tensor(source).segments, self._tensor(node).segments)

    def _read_linear(self, node: fx.Node, linear: nn.Linear) -> None:
        source = node.all_input_nodes[0]
        rank, path = len(_known_shape(source)), str(node.target)
        if rank == 4 and self._tensor(source).last:
            self.assembly.pointwise(path, node, source, linear.out_features)
        elif rank == 2:
            self.assembly.linear(path, node, source, linear.out_features)
        else:
            raise TraceError(
                f"layer {path}{where(node)}: a linear layer over the last of {rank} dimensions; "
                "only (batch, features) and maps whose channels lie last are supported"
            )
        self._claim(node, self._tensor(source).segments, self._tensor(node).segments)

    def _read_batch_norm(self, node: fx.Node, module: nn.Module) -> None:
        source = node.all_input_nodes[0]
        segments = self._tensor(source).segments
        self._claim(node, segments, segments)
        fused = self.assembly.batch_norm(str(node.target), node, source)
        if fused is not None:
            self.batch_norms[fused] = str(node.target)

    def _read_activation(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        self._activate(node, _ACTIVATIONS[kind])

    def _read_clip(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        bounds = [0, 6] if kind == "relu6" else list(node.args[1:3])
        if bounds != [0, 6]:
            raise TraceError(
                f"layer {self._name(node)}{where(node)} clips to {bounds}; only 0 … 6 (ReLU6) is "
                "supported"
            )
        self._activate(node, "relu6")

    def _activate(self, node: fx.Node, activation: str) -> None:
        self.assembly.activation(self._name(node), node, node.all_input_nodes[0], activation)

    def _read_add(self, node: fx.Node, module: nn.Module | None) -> None:
        self._elementwise(node, "add", "shift")

    def _read_multiply(self, node: fx.Node, module: nn.Module | None) -> None:
        self._elementwise(node, "multiply", "scale")

    def _read_divide(self, node: fx.Node, module: nn.Module | None) -> None:
        if isinstance(node.args[1], fx.Node) and node.args[1] in self.assembly.tensors:
            raise self._unsupported(node)
        self._elementwise(node, "multiply", "scale")

    def _elementwise(self, node: fx.Node, together: str, by_constant: str) -> None:
        """Two tensors meet, or one and a constant: a number, or a weight of the model's own."""
        name, both = self._name(node), node.args[:2]
        computed = [one for one in both if isinstance(one, fx.Node) and one.op != "get_attr"]
        if any(one not in self.assembly.tensors for one in computed):
            raise TraceError(
                f"layer {name}{where(node)} computes with the number of images, which is not "
                "supported"
            )
        if len(computed) == 1:
            (other,) = (one for one in both if one is not computed[0])
            each = self._claim_constant(node, computed[0], other)
            kind = f"channel_{by_constant}" if each else by_constant
            self.assembly.each_channel(name, kind, node, computed[0])
            return
        shapes = [_known_shape(source) for source in computed]
        if together == "add" and shapes[0] == shapes[1]:
            self.assembly.add(name, node, computed)
            return
        first, second = sorted(computed, key=lambda one: -math.prod(_known_shape(one)))
        if _known_shape(node) != _known_shape(first) or not self._broadcasts(first, second):
            raise TraceError(
                f"layer {name}{where(node)}: tensors of {shapes[0][1:]} and {shapes[1][1:]} meet; "
                "supported are equal shapes, one number a channel, and one a place"
            )
        self.assembly.meet(name, together, node, [first, second])

    def _broadcasts(self, first: fx.Node, second: fx.Node) -> bool:
        large, small = _known_shape(first), _known_shape(second)
        if len(large) != len(small):
            return False
        return self._tensor(first).last == self._tensor(second).last or small[1:].count(1) == 2

    def _claim_constant(self, node: fx.Node, source: fx.Node, constant) -> bool:
        """Whether a constant has a number for each channel; it is cut with them then."""
        if not isinstance(constant, fx.Node):
            return False
        shape, tensor = _known_shape(source), self._tensor(source)
        own = shape_of(constant) or ()
        behind = 1 if tensor.last else len(shape) - 1  # dimensions from the channels' on
        dim = len(own) - behind
        if dim < 0 or own[dim] == 1:
            return False
        if own[dim] != tensor.channels or math.prod(own[:dim]) != 1:
            raise TraceError(
                f"layer {self._name(node)}{where(node)}: {constant.target} of shape {own} meets "
                f"maps of {shape[1:]}; one number a channel, (channels, 1, 1), is supported"
            )
        path = str(constant.target)
        known = self.constants.setdefault(path, (dim, tensor.segments))
        if known != (dim, tensor.segments):
            raise TraceError(
                f"{path}{where(node)} is used twice; weights used in two places cannot be pruned"
            )
        return True

    def _read_concat(self, node: fx.Node, module: nn.Module | None) -> None:
        parts, dim = arguments(node, ("tensors", "dim"), (None, 0))
        if dim % len(_known_shape(node)) != 1:
            raise TraceError(
                f"layer {self._name(node)}{where(node)} concatenates along dimension {dim}; only "
                "channels are supported"
            )
        self.assembly.concat(self._name(node), node, list(parts))

    def _read_pool(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        names: tuple[str, ...]
        if kind == "max_pool2d":
            names = ("x", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
            _, kernel, stride, padding, dilation, ceils = arguments(
                node, names, (None, None, (), 0, 1, False)
            )
        else:
            names = ("x", "kernel_size", "stride", "padding", "ceil_mode")
            _, kernel, stride, padding, ceils = arguments(node, names, (None, None, (), 0, False))
            dilation = 1
        own: dict[str, object] = {}
        if pair(dilation) != (1, 1):
            own["dilation"] = pair(dilation)
        if ceils and self._ends_outside(node, pair(kernel), pair(stride or kernel), pair(padding)):
            own["ceil_mode"] = True
        self.assembly.each_channel(
            self._name(node),
            "max_pool" if kind == "max_pool2d" else "avg_pool",
            node,
            node.all_input_nodes[0],
            kernel=pair(kernel),
            stride=pair(stride or kernel),
            padding=pair(padding),
            **own,
        )

    def _ends_outside(self, node: fx.Node, kernel, stride, padding) -> bool:
        """Whether ceil_mode makes a difference."""
        before = _known_shape(node.all_input_nodes[0])[2:]
        down = tuple(
            (size + 2 * pad - k) // step + 1
            for size, k, step, pad in zip(before, kernel, stride, padding, strict=True)
        )
        return down != _known_shape(node)[2:]

    def _read_mean(self, node: fx.Node, module: nn.Module | None) -> None:
        source, dims = arguments(node, ("x", "dim"), (None, None))
        of_rank = len(_known_shape(source))
        over = {dim % of_rank for dim in dims} if dims is not None else set()
        if of_rank == 4 and over == _IMAGE_DIMS:
            self.assembly.each_channel(self._name(node), "global_avg_pool", node, source)
        elif (
            of_rank == 4 and len(over & _IMAGE_DIMS) == len(over) == 1 and self._mean_follows(node)
        ):
            self.assembly.pass_on(node, source)  # x.mean(3).mean(2)
        elif name_of(source) == "mean" and over in ({2}, {3}):
            first = source.all_input_nodes[0]
            self.assembly.each_channel(self._name(node), "global_avg_pool", node, first)
        else:
            raise TraceError(
                f"layer {self._name(node)}{where(node)}: a mean over dimensions {dims} of "
                f"{of_rank}; only one over height and width, (2, 3), is supported"
            )

    def _mean_follows(self, node: fx.Node) -> bool:
        """Whether all that reads a mean over one of height and width is the mean over the other."""
        sizes = {math.prod((shape_of(user) or (0, 0))[2:]) for user in node.users}
        return {name_of(user) for user in node.users} == {"mean"} and sizes == {1}

    def _read_adaptive_pool(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        before, shape = _known_shape(source), _known_shape(node)
        if shape == before:  # an adaptive pool to the size it finds
            self.assembly.pass_on(node, source)
            return
        if shape[2:] == (1, 1):
            self.assembly.each_channel(self._name(node), "global_avg_pool", node, source)
            return
        if any(a % b for a, b in zip(before[2:], shape[2:], strict=True)):
            raise TraceError(
                f"layer {self._name(node)}{where(node)}: pools {before[2:]} to {shape[2:]}; only "
                "1×1 (global) and sizes that divide what is pooled are supported"
            )
        size = tuple(a // b for a, b in zip(before[2:], shape[2:], strict=True))
        fields = {"kernel": size, "stride": size}
        self.assembly.each_channel(self._name(node), "avg_pool", node, source, **fields)

    def _read_upsample(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        before, after = _known_shape(source), _known_shape(node)
        factors = [b / a for a, b in zip(before[2:], after[2:], strict=True)]
        if any(f != int(f) for f in factors):
            raise self._only_nearest(node)
        down, across = (int(factor) for factor in factors)
        fields = {"stride": (down, across)}
        self.assembly.each_channel(self._name(node), "upsample", node, source, **fields)

    def _read_bilinear(self, node: fx.Node, module: nn.Module | None) -> None:
        size = _known_shape(node)[2:]
        source = node.all_input_nodes[0]
        self.assembly.each_channel(self._name(node), "bilinear", node, source, out_size_given=size)

    def _read_pad(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, source = name_of(node), node.all_input_nodes[0]
        _, given, *rest = node.args
        assert isinstance(given, list | tuple)
        pads = [size for size in given if isinstance(size, int)]
        mode = rest[0] if kind == "pad" and rest else "constant"
        left, right, up, down, *others = (*pads, *[0] * (4 - len(pads)))
        before, behind = (*others, 0, 0)[:2]
        spatial = any((left, right, up, down))
        if mode != "constant" or min(pads) < 0 or any(others[2:]):
            raise TraceError(
                f"layer {self._name(node)}{where(node)} pads by {pads}, {mode}; only "
                "constants around maps or channels are supported"
            )
        if (before or behind) and spatial:
            raise self._unsupported(node)
        if before or behind:
            channels = _known_shape(node)[1]
            self.assembly.channel_pad(self._name(node), node, source, before, channels)
            return
        ends = {} if (up, left) == (down, right) else {"padding_end": (down, right)}
        self.assembly.each_channel(
            self._name(node), "pad", node, source, padding=(up, left), **ends
        )

    def _read_slice(self, node: fx.Node, module: nn.Module | None) -> None:
        names = ("x", "dim", "start", "end", "step")
        source, dim, start, _, step = arguments(node, names, (None, 0, None, None, 1))
        before, after = _known_shape(source), _known_shape(node)
        dim, start = dim % len(before), (start or 0) % before[dim]
        if before == after and not start:
            self.assembly.pass_on(node, source)
        elif dim == 1 and step == 1 and not self._tensor(source).last:
            self.assembly.slice(self._name(node), node, source, start, after[1])
        elif dim in _IMAGE_DIMS and not start and after[dim] == -(-before[dim] // step):
            stride = (step, 1) if dim == 2 else (1, step)
            self.assembly.each_channel(self._name(node), "subsample", node, source, stride=stride)
        else:
            raise TraceError(
                f"layer {self._name(node)}{where(node)} takes a part of {before[1:]} along "
                f"dimension {dim}; parts of the channels and every nth place are supported"
            )

    def _read_part(self, node: fx.Node, module: nn.Module | None) -> None:
        """One of the tensors that a split gives."""
        split, number = node.args
        assert isinstance(split, fx.Node)
        assert isinstance(number, int)
        source = split.all_input_nodes[0]
        _, _, dim = arguments(split, ("x", "parts", "dim"), (None, None, 0))
        if name_of(split) not in SPLITS or dim % 4 != 1 or self._tensor(source).last:
            raise self._unsupported(split)
        widths = [shape[1] for shape in split.meta["shapes"]]
        number %= len(widths)
        start = sum(widths[:number])
        self.assembly.slice(self._name(node), node, source, start, widths[number])

    def _read_shuffle(self, node: fx.Node, module: nn.Module | None) -> None:
        source, groups = arguments(node, ("x", "groups"), (None, 1))
        self.assembly.in_groups(self._name(node), "channel_shuffle", node, source, groups)

    def _read_pixel_shuffle(self, node: fx.Node, module: nn.Module | None) -> None:
        source, factor = arguments(node, ("x", "factor"), (None, 1))
        self.assembly.pixel_shuffle(self._name(node), node, source, factor)

    def _read_permute(self, node: fx.Node, module: nn.Module | None) -> None:
        source, order = arguments(node, ("x", "dims"), (None, ()))
        last = self._tensor(source).last
        wanted = [0, 3, 1, 2] if last else [0, 2, 3, 1]
        rank = len(_known_shape(source))
        if [dim % rank for dim in order] != wanted:
            raise TraceError(
                f"layer {self._name(node)}{where(node)} permutes {order}; only channels to the "
                "last place, (0, 2, 3, 1), and back, (0, 3, 1, 2), are supported"
            )
        self.assembly.permute(self._name(node), node, source)

    def _read_layer_norm(self, node: fx.Node, module: nn.LayerNorm) -> None:
        source = node.all_input_nodes[0]
        tensor, shape = self._tensor(source), _known_shape(source)
        if tuple(module.normalized_shape) != shape[-1:] or not (tensor.last or len(shape) == 2):
            raise TraceError(
                f"layer {node.target}{where(node)}: LayerNorm over {module.normalized_shape} of "
                f"{shape[1:]}; only one over channels that lie last is supported"
            )
        self.assembly.averaged(str(node.target), "layer_norm", node, source)
        self._claim(node, tensor.segments, tensor.segments)

    def _read_group_norm(self, node: fx.Node, module: nn.GroupNorm) -> None:
        source = node.all_input_nodes[0]
        self.assembly.averaged(
            str(node.target), "group_norm", node, source, groups=module.num_groups
        )
        self._claim(node, self._tensor(source).segments, self._tensor(source).segments)

    def _read_prelu(self, node: fx.Node, module: nn.PReLU) -> None:
        source = node.all_input_nodes[0]
        self.assembly.activation(str(node.target), node, source, "prelu")
        if module.num_parameters > 1:
            self._claim(node, self._tensor(source).segments, self._tensor(source).segments)

    def _only_nearest(self, node: fx.Node) -> TraceError:
        return TraceError(
            f"layer {self._name(node)}{where(node)}: only nearest-neighbour upsampling by whole "
            "factors is supported"
        )

    def _read_flatten(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        before, after = _known_shape(source), _known_shape(node)
        if before != after and not flattens(node):
            raise TraceError(
                f"layer {self._name(node)}{where(node)} reshapes {before[1:]} to {after[1:]}; only "
                "flattening to (batch, features) is supported"
            )
        self.assembly.flatten(node, source, after[1] if len(after) == 2 else None)

    def _read_as_maps(self, node: fx.Node, module: nn.Module | None) -> None:
        self.assembly.flatten(node, node.all_input_nodes[0], None)

    def _read_passed_on(self, node: fx.Node, module: nn.Module | None) -> None:
        self.assembly.pass_on(node, node.all_input_nodes[0])

    # The result.

    def network(self, name: str, input_shape: tuple[int, int, int]) -> Network:
        """The layers read so far as a Network; raises TraceError."""
        try:
            return self.assembly.network(name, input_shape)
        except NetworkError as error:
            raise TraceError(str(error)) from None

    def node_of(self) -> dict[str, str]:
        """Layer → name of the node that holds its output."""
        found = {}
        for layer, node in self.assembly.written.items():
            assert isinstance(node, fx.Node)
            found[layer] = node.name
        return found

    def channels(self) -> dict[str, Channels]:
        """Module path → the channels its weights read and write."""
        return {
            path: Channels(
                self._segments(reads, self.module.get_submodule(path)), self._segments(writes)
            )
            for path, (reads, writes) in self.module_channels.items()
        }

    def constant_channels(self) -> dict[str, tuple[int, tuple[Segment, ...]]]:
        """Path of a weight without a module → its channels' dimension, and which they are."""
        return {
            path: (dim, self._segments(segments))
            for path, (dim, segments) in self.constants.items()
        }

    def _segments(self, segments, module: nn.Module | None = None) -> tuple[Segment, ...]:
        repeat = 1
        if isinstance(module, nn.Linear):
            repeat = module.in_features // sum(width for _, width in segments)
        return tuple(Segment(self.assembly.group(name), width, repeat) for name, width in segments)


_READERS: dict[object, Callable] = {
    nn.Conv2d: GraphReader._read_conv,
    nn.Linear: GraphReader._read_linear,
    nn.ConvTranspose2d: GraphReader._read_conv,
    nn.BatchNorm2d: GraphReader._read_batch_norm,
    nn.BatchNorm1d: GraphReader._read_batch_norm,
    nn.LayerNorm: GraphReader._read_layer_norm,
    nn.GroupNorm: GraphReader._read_group_norm,
    nn.PReLU: GraphReader._read_prelu,
    "add": GraphReader._read_add,
    "sub": GraphReader._read_add,
    "mul": GraphReader._read_multiply,
    "div": GraphReader._read_divide,
    "pad": GraphReader._read_pad,
    "constant_pad_nd": GraphReader._read_pad,
    "slice": GraphReader._read_slice,
    "getitem": GraphReader._read_part,
    "channel_shuffle": GraphReader._read_shuffle,
    "pixel_shuffle": GraphReader._read_pixel_shuffle,
    "permute": GraphReader._read_permute,
    "as_maps": GraphReader._read_as_maps,
    "upsample_bilinear2d": GraphReader._read_bilinear,
    "cat": GraphReader._read_concat,
    "max_pool2d": GraphReader._read_pool,
    "avg_pool2d": GraphReader._read_pool,
    "mean": GraphReader._read_mean,
    "adaptive_avg_pool2d": GraphReader._read_adaptive_pool,
    "upsample_nearest2d": GraphReader._read_upsample,
    **dict.fromkeys(_ACTIVATIONS, GraphReader._read_activation),
    **dict.fromkeys(_CLIPS, GraphReader._read_clip),
    **dict.fromkeys(FLATTENS, GraphReader._read_flatten),
    **dict.fromkeys(PASSED_ON, GraphReader._read_passed_on),
}


# What takes channels in the second place and in the last.
_EITHER_LAYOUT = {
    nn.Linear, nn.LayerNorm, "permute", "add", "sub", "mul", "div", *_ACTIVATIONS, *_CLIPS,
    *PASSED_ON,
}  # fmt: skip


def flattens(node: fx.Node) -> bool:
    """Whether an operation turns maps into as many features an image."""
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if before is None or after is None or len(before) < 2 or len(after) != 2:
        return False
    return before[0] == after[0] and math.prod(before[1:]) == after[1]


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's output, for the example's images; None where it is no single tensor."""
    return node.meta.get("shape")


def _known_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's output that is a single tensor."""
    shape = shape_of(node)
    assert shape is not None
    return shape
