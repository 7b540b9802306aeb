"""Network, ChannelGroup, Block, Architecture: choices in, LayerSpecs out.

A Network is a traced CNN without its weights: fused layers in execution order, the groups of
channels that must shrink together, and the blocks that a shortcut lets one remove. Both the
profiler and the pruner turn an Architecture into LayerSpecs through `Network.layer_specs`, so
the pruner cannot ask a table for a key that the profiler would not write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cached_property
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lookup_tables.architecture import Architecture
from lookup_tables.errors import ArchitectureError, NetworkError
from lookup_tables.geometry import Form, Geometry
from lookup_tables.layer import (
    WEIGHTED,
    WRITES_CHANNELS,
    Activation,
    Kind,
    LayerSpec,
    Padding,
    Positive,
    Size,
    macs,
    output_size,
)
from lookup_tables.storage.files import first_fault, refuse_newer, write_whole
from lookup_tables.storage.manifest import FILE_NAME, read_sealed

T = TypeVar("T")

FORMAT = 1
INPUT = "input"  # the name by which layers refer to the network's input
NETWORKS = Path(__file__).parent / "networks"
BESIDE_ROWS = ".network.json"  # how a network's file beside its rows ends
MOST_BYTES = 200  # of a name: it becomes a file's

# What a fingerprint covers: the fields that layers and blocks had when the first table was
# measured. A field that is added later is covered too, but only where it differs from its default,
# so that no table loses its network.
_FINGERPRINTED = {
    "blocks": {"name", "input", "output", "layers"},
    "layers": {
        "name", "kind", "inputs", "channels", "group", "kernel", "stride", "padding", "groups",
        "activation", "residual",
    },
}  # fmt: skip


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChannelGroup(_Frozen):
    """Channels that must shrink together, and the widths worth choosing."""

    name: str
    width: Positive  # of the dense network
    choices: tuple[Positive, ...]  # the menu: ascending, the full width last

    @model_validator(mode="after")
    def _choices_ascend_to_the_full_width(self):
        if not self.choices or self.choices[-1] != self.width:
            raise ValueError(f"group {self.name}: choices {self.choices} must end at {self.width}")
        if any(a >= b for a, b in pairwise(self.choices)):
            raise ValueError(f"group {self.name}: choices must ascend, got {self.choices}")
        return self


class Layer(_Frozen):
    """One fused layer: where it reads from, and which group its output channels belong to."""

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    channels: Positive | None = None  # written by a weighted layer; the others pass theirs on
    group: str | None = None  # whose width replaces `channels`; None: never pruned
    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Padding = (0, 0)
    groups: Positive = 1
    activation: Activation = "none"
    residual: str | None = None  # the layer whose output is added before the activation
    dilation: Size = (1, 1)
    padding_end: Padding | None = None  # at the bottom and right, where it is another
    ceil_mode: bool = False
    output_padding: Padding = (0, 0)
    out_size_given: Size | None = None
    start: Annotated[int, Field(ge=0)] = 0  # of a slice: its first channel


class Block(_Frozen):
    """Layers that can be removed together: readers of `output` then read `input`.

    Inside an identity shortcut, or a plain layer that keeps shape (`Network.is_plain`).
    """

    name: str
    input: str
    output: str
    layers: tuple[str, ...]


class Network(_Frozen):
    """A traced network. `input_shape` is (channels, height, width)."""

    format: int = FORMAT
    name: Annotated[str, Field(pattern=f"^{FILE_NAME}$")]
    input_shape: tuple[Positive, Positive, Positive]
    groups: tuple[ChannelGroup, ...]
    blocks: tuple[Block, ...] = ()
    layers: tuple[Layer, ...]

    # -- birth ---------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _is_consistent(self):
        if len(self.name.encode()) > MOST_BYTES:
            raise ValueError(
                f"name: {len(self.name.encode())} bytes; at most {MOST_BYTES} are allowed"
            )
        _unique("group", [group.name for group in self.groups])
        _unique("layer", [INPUT, *(layer.name for layer in self.layers)])
        _unique("block", [block.name for block in self.blocks])
        self._check_wiring()
        self._check_blocks()
        return self

    def _check_wiring(self) -> None:
        seen, groups = {INPUT}, {group.name: group for group in self.groups}
        for layer in self.layers:
            for source in (*layer.inputs, *([layer.residual] if layer.residual else [])):
                if source not in seen:
                    raise ValueError(
                        f"layer {layer.name} reads {source}, but no earlier layer has that name"
                    )
            if not layer.inputs:
                raise ValueError(f"layer {layer.name} has no input")
            if (layer.channels is None) is (layer.kind in WRITES_CHANNELS):
                raise ValueError(
                    f"layer {layer.name}: `channels` is for {', '.join(sorted(WRITES_CHANNELS))} "
                    "layers, and for all of them"
                )
            if layer.group is not None and layer.group not in groups:
                raise ValueError(f"layer {layer.name} belongs to no known group: {layer.group}")
            if layer.group is not None and groups[layer.group].width != layer.channels:
                raise ValueError(
                    f"layer {layer.name} writes {layer.channels} channels, its group "
                    f"{layer.group} has {groups[layer.group].width}"
                )
            seen.add(layer.name)
        for layer in self.layers:
            size = self._outputs[layer.name][1]
            if min(size) < 1:
                raise ValueError(
                    f"layer {layer.name} would write maps of {size[0]}×{size[1]}: what it reads is "
                    "too small for its kernel"
                )
            if layer.residual and (self._outputs[layer.residual] != self._outputs[layer.name]):
                raise ValueError(
                    f"layer {layer.name} adds {layer.residual}, which has another shape"
                )

    def _check_blocks(self) -> None:
        known = {INPUT, *self._layer}
        _unique("a layer in blocks", [name for block in self.blocks for name in block.layers])
        for block in self.blocks:
            for name in (*block.layers, block.output, block.input):
                if name not in known:
                    raise ValueError(f"block {block.name} names an unknown layer: {name}")
            (reads, before), (writes, after) = (
                self._outputs[name] for name in (block.input, block.output)
            )
            wide = {group.name: group.width for group in self.groups}
            same = reads(wide) == writes(wide) if self.is_plain(block) else reads == writes
            if not same or before != after:
                raise ValueError(f"block {block.name} changes shape and cannot be removed")

    @classmethod
    def load(cls, name_or_path: str | Path) -> Network:
        """A shipped network by name, or a network file by path; raises NetworkError."""
        path = Path(name_or_path)
        shipped = path.suffix != ".json"
        if shipped:
            path = NETWORKS / f"{name_or_path}.json"
            if not path.exists():
                known = ", ".join(network_names())
                raise NetworkError(
                    f"no shipped network is called {name_or_path!r}. Known: {known}. For your own: "
                    "pruner trace --model FILE.py:FACTORY --out net.json, then --network net.json"
                )
        try:
            beside_rows = path.name.endswith(BESIDE_ROWS)
            text = read_sealed(path) if beside_rows else path.read_bytes()
            refuse_newer(path, text, FORMAT, NetworkError)
            found = cls.model_validate_json(text)
        except FileNotFoundError:
            raise NetworkError(f"{path}: no such network file") from None
        except ValidationError as error:
            raise NetworkError(f"{path}: not a valid network: {first_fault(error)}") from None
        told = path.name.removesuffix(BESIDE_ROWS if beside_rows else ".json")
        is_of_rows = beside_rows and path.with_name(f"{told}.jsonl").exists()
        if (shipped or is_of_rows) and found.name != told:
            raise NetworkError(
                f"{path} holds a network called {found.name!r}, not {told!r}: the file was "
                "renamed or edited. Copy it again from its source"
            )
        return found

    def save(self, path: str | Path) -> None:
        """Write the network file: one line a layer, so that a diff reads well."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        lines = [f' "format": {self.format}', f' "name": {json.dumps(self.name)}']
        lines.append(f' "input_shape": {json.dumps(data["input_shape"])}')
        for key in ("groups", "blocks", "layers"):
            rows = ",\n  ".join(json.dumps(row) for row in data.get(key, []))
            lines.append(f' "{key}": [\n  {rows}\n ]' if rows else f' "{key}": []')
        write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what is computed: the layers and how they are coupled; not name or menu.

        It covers _FINGERPRINTED, and what was added since only where it is not as it always was.
        Plain layers that can be removed change nothing of what is computed, and are left out.
        """
        data = {
            "input_shape": list(self.input_shape),
            "blocks": [_decisive(block, "blocks") for block in self.shortcuts],
            "layers": [_decisive(layer, "layers") for layer in self.layers],
        }
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def tells_more_apart(self, other: Network) -> bool:
        """Whether this network is another one but for the last layers, which have more outputs."""
        if (self.input_shape, self.shortcuts) != (other.input_shape, other.shortcuts):
            return False
        read = {name for layer in self.layers for name in (*layer.inputs, layer.residual)}
        widened = False
        for mine, its in zip_longest(self.layers, other.layers):
            if mine == its:
                continue
            if None in (mine, its) or mine.name in read or mine.group is not None:
                return False
            more = (mine.channels or 0) > (its.channels or 0)
            if not more or mine.model_copy(update={"channels": its.channels}) != its:
                return False
            widened = True
        return widened

    # -- geometry ------------------------------------------------------------------------------

    @cached_property
    def _layer(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def group(self) -> dict[str, ChannelGroup]:
        return {group.name: group for group in self.groups}

    @cached_property
    def block_of(self) -> dict[str, str]:
        """Layer name → the removable block it belongs to."""
        return {layer: block.name for block in self.blocks for layer in block.layers}

    @cached_property
    def shortcuts(self) -> tuple[Block, ...]:
        """The blocks inside identity shortcuts."""
        return tuple(block for block in self.blocks if not self.is_plain(block))

    def is_plain(self, block: Block) -> bool:
        """Whether a block is a layer that keeps shape, without a shortcut around it."""
        last = self._layer[block.output]
        return block.layers == (last.name,) and last.residual is None and last.kind != "add"

    def key_of(self, block: str) -> str:
        """A block's key beside those of groups: a plain layer and its own group have one name."""
        return f"block {block}" if block in self.group else block

    @cached_property
    def ties(self) -> dict[str, tuple[str, str]]:
        """Plain layers that can be removed → (its own group, the group it reads), in their order.

        Without the layer the former's channels are the latter's.
        """
        found = {}
        for block in self.blocks:
            reads, writes = (self._outputs[name][0] for name in (block.input, block.output))
            if reads != writes:
                ((own, _),), ((read, _),) = writes.factors, reads.factors
                found[block.name] = own, read
        order = {layer.name: i for i, layer in enumerate(self.layers)}
        return dict(sorted(found.items(), key=lambda entry: order[entry[0]]))

    def tied(self, of_groups: Mapping[str, T], removed: Collection[str]) -> dict[str, T]:
        """What groups have, where layers are removed: their groups have what the layers read."""
        found = dict(of_groups)
        for layer, (own, read) in self.ties.items():
            if layer in removed:
                found[own] = found[read]
        return found

    @cached_property
    def sparse_layers(self) -> tuple[str, ...]:
        """The layers whose weights may be sparse: convolutions of one group, but the image's.

        A depthwise one has too few weights to gain by it, and the first one reads few channels.
        """
        return tuple(
            layer.name
            for layer in self.layers
            if layer.kind == "conv"
            and layer.groups == 1
            and layer.inputs[0] != INPUT
            and (layer.dilation, layer.padding_end) == ((1, 1), None)
        )

    @cached_property
    def _outputs(self) -> dict[str, tuple[Form, Size]]:
        channels, height, width = self.input_shape
        outputs: dict[str, tuple[Form, Size]] = {INPUT: (Form(channels), (height, width))}
        for layer in self.layers:
            outputs[layer.name] = _output(layer, [outputs[source] for source in layer.inputs])
        return outputs

    @cached_property
    def geometry(self) -> dict[str, Geometry]:
        """Layer name → channel forms and sizes; removing a block never changes those of others."""
        table = {}
        for layer in self.layers:
            out_form, out_size = self._outputs[layer.name]
            in_form, in_size = self._outputs[layer.inputs[0]]
            if layer.kind == "concat":
                in_form = out_form
            if layer.kind == "linear":  # reads its input flattened
                in_form, in_size = in_form.times(in_size[0] * in_size[1]), (1, 1)
            table[layer.name] = Geometry(in_form, out_form, in_size, out_size)
        return table

    def with_blocks(self, blocks: tuple[Block, ...]) -> Network:
        """The same network with other blocks that can be removed."""
        return Network.model_validate(self.model_dump() | {"blocks": blocks})

    def with_menu(self, menu: Mapping[str, tuple[int, ...]]) -> Network:
        """The same network with other widths to choose from, group → ascending widths."""
        data = self.model_dump()
        for group in data["groups"]:
            group["choices"] = menu[group["name"]]
        return Network.model_validate(data)  # a copy would keep what was derived from the old menu

    # -- architectures -------------------------------------------------------------------------

    @property
    def dense(self) -> Architecture:
        return Architecture(widths={group.name: group.width for group in self.groups})

    def widths(self, architecture: Architecture) -> dict[str, int]:
        """Every group's width, the full one where the architecture names none.

        A group whose only writer is removed has the width of what is read instead.
        """
        widths = {g.name: architecture.widths.get(g.name, g.width) for g in self.groups}
        return self.tied(widths, architecture.removed)

    def check(self, architecture: Architecture) -> None:
        """Raise ArchitectureError unless this network can be built so."""
        for name, width in architecture.widths.items():
            if name not in self.group:
                raise ArchitectureError(
                    f"network {self.name} has no group {name!r}; it has {_some(self.group)}"
                )
            full = self.group[name].width
            if not 1 <= width <= full:
                raise ArchitectureError(f"group {name}: width {width} is outside 1 … {full}")
        blocks = {block.name for block in self.blocks}
        for name in architecture.removed:
            if name not in blocks:
                raise ArchitectureError(
                    f"network {self.name} has no removable block {name!r}; it has {_some(blocks)}"
                )
        for name in architecture.density:
            if name not in self._layer:
                raise ArchitectureError(f"network {self.name} has no layer {name!r}")
            if architecture.density[name] < 1 and name not in self.sparse_layers:
                raise ArchitectureError(
                    f"layer {name} cannot be sparse; those that can are {_some(self.sparse_layers)}"
                )
        if not any(layer.kind in WEIGHTED for layer in self.kept_layers(architecture)):
            raise ArchitectureError(
                f"removing {', '.join(architecture.removed)} removes every layer with weights of "
                f"{self.name}; keep at least one block"
            )

    def kept_layers(self, architecture: Architecture) -> list[Layer]:
        """The layers that remain, rewired around the removed blocks."""
        removed = set(architecture.removed)
        bypass = {block.output: block.input for block in self.blocks if block.name in removed}

        def source(name: str) -> str:
            while name in bypass:
                name = bypass[name]
            return name

        return [
            layer.model_copy(
                update={
                    "inputs": tuple(source(name) for name in layer.inputs),
                    "residual": source(layer.residual) if layer.residual else None,
                }
            )
            if bypass
            else layer
            for layer in self.layers
            if self.block_of.get(layer.name) not in removed
        ]

    def outputs(self, architecture: Architecture) -> list[str]:
        """The layers that no other layer reads, after removals: the network's outputs."""
        layers = self.kept_layers(architecture)
        read = {source for layer in layers for source in (*layer.inputs, layer.residual)}
        return [layer.name for layer in layers if layer.name not in read]

    def layer_specs(self, architecture: Architecture) -> list[tuple[Layer, LayerSpec]]:
        """The layers of an architecture in execution order; raises ArchitectureError."""
        self.check(architecture)
        widths = self.widths(architecture)
        return [
            (layer, self.spec(layer, widths, architecture.density.get(layer.name, 1.0)))
            for layer in self.kept_layers(architecture)
        ]

    def spec(self, layer: Layer, widths: dict[str, int], density: float = 1.0) -> LayerSpec:
        """One layer's shape at the given widths of all groups."""
        geometry = self.geometry[layer.name]
        return LayerSpec(
            kind=layer.kind,
            in_channels=geometry.in_form(widths),
            out_channels=geometry.out_form(widths),
            in_size=geometry.in_size,
            kernel=layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            activation=layer.activation,
            residual=layer.residual is not None,
            dilation=layer.dilation,
            padding_end=layer.padding_end,
            ceil_mode=layer.ceil_mode,
            output_padding=layer.output_padding,
            out_size_given=layer.out_size_given,
            density=density,
        )

    def macs(self, widths: Mapping[str, int | np.ndarray], removed=None, density=None):
        """Multiply-accumulates of one or many width choices (arrays of shape (n,)).

        `removed` maps a block's name to a bool or an array (n,) of them, `density` a layer's name
        to its share of weights kept.
        """
        total, widths = 0, dict(widths)
        for name, (own, read) in self.ties.items():
            if removed is not None and name in removed:
                widths[own] = np.where(removed[name], widths[read], widths[own])
        for layer in self.layers:
            geometry = self.geometry[layer.name]
            here = macs(
                layer, geometry.in_form(widths), geometry.out_form(widths), geometry.in_size
            )
            block = self.block_of.get(layer.name)
            if removed is not None and block in removed:
                here = here * (1 - np.asarray(removed[block], dtype=np.int64))
            if density is not None and layer.name in density:
                here = here * density[layer.name]
            total = total + here
        return total

    def macs_of(self, architecture: Architecture) -> int:
        """Multiply-accumulates of one architecture, without removed blocks and dropped weights."""
        removed = dict.fromkeys(architecture.removed, True)
        return int(self.macs(self.widths(architecture), removed, architecture.density))


def network_names() -> list[str]:
    """The networks shipped with this package."""
    return sorted(path.stem for path in NETWORKS.glob("*.json"))


def _decisive(part: Layer | Block, kind: str) -> dict:
    """The fields of a layer or block that its network's fingerprint covers."""
    first = part.model_dump(mode="json", include=_FINGERPRINTED[kind])
    return first | part.model_dump(mode="json", exclude=_FINGERPRINTED[kind], exclude_defaults=True)


def _output(layer: Layer, sources: list[tuple[Form, Size]]) -> tuple[Form, Size]:
    form, in_size = sources[0]
    size = output_size(layer, in_size)
    if layer.kind in WRITES_CHANNELS:
        assert layer.channels is not None, "_check_wiring asks for them"
        form = Form(0, ((layer.group, 1),)) if layer.group else Form(layer.channels)
    elif layer.kind == "concat":
        for other, _ in sources[1:]:
            form = form.plus(other)
        size = in_size
    return form, size


def _unique(noun: str, names: list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{noun} named twice: {', '.join(sorted(twice))}")


def _some(names, limit: int = 6) -> str:
    names = list(names)
    return (", ".join(names[:limit]) + (", …" if len(names) > limit else "")) or "none"
