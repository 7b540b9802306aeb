"""Blocks: layers that can go, inside an identity shortcut or plain ones that keep shape."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lookup_tables.geometry import Form
from lookup_tables.network import INPUT, Block, Layer, Network


def find_blocks(layers: tuple[Layer, ...], outputs: Collection[str] = ()) -> tuple[Block, ...]:
    """The blocks that an identity shortcut lets one remove, in execution order.

    Of blocks within blocks the inner ones are offered: no layer is in two. What the network
    answers stays: `outputs` names layers that somebody outside reads, beside those that no layer
    reads.
    """
    by_name = {layer.name: layer for layer in layers}
    readers: dict[str, set[str]] = {}
    for layer in layers:
        for source in _reads(layer):
            readers.setdefault(source, set()).add(layer.name)
    stays = {*outputs, *(layer.name for layer in layers if layer.name not in readers)}
    blocks: dict[str, Block] = {}
    taken: set[str] = set()
    for layer in layers:
        if not (layer.residual or layer.kind == "add"):
            continue
        for shortcut in [layer.residual] if layer.residual else layer.inputs:
            inside = _between(shortcut, layer, by_name, readers)
            if inside and not (taken | stays) & {*inside}:
                taken |= set(inside)
                name = _common_path(inside) or layer.name
                name = layer.name if name in blocks else name
                blocks[name] = Block(
                    name=name, input=shortcut, output=layer.name, layers=tuple(inside)
                )
                break
    return tuple(blocks.values())


def plain_layers(network: Network, outputs: Collection[str] = ()) -> tuple[Block, ...]:
    """Layers outside the network's blocks that can be removed alone, in execution order.

    Convolutions that keep shape, as in VGG: whoever read one then reads what it read. Its channels
    are then those of the layer before it (`Network.ties`), so none is offered whose channels
    another layer writes too. `outputs`: as of `find_blocks`.
    """
    writers: dict[str, set[str]] = {}
    read: set[str] = set()
    for layer in network.layers:
        read |= {*_reads(layer)}
        if layer.group is not None:
            writers.setdefault(layer.group, set()).add(layer.name)
    inside, known = network.block_of, {block.name for block in network.blocks}
    return tuple(
        Block(name=layer.name, input=layer.inputs[0], output=layer.name, layers=(layer.name,))
        for layer in network.layers
        if layer.kind in ("conv", "depthwise")
        and layer.residual is None
        and layer.inputs[0] != INPUT
        and layer.name in read - {*outputs}
        and layer.name not in {*inside, *known}
        and _keeps_shape(network, layer, writers)
    )


def _keeps_shape(network: Network, layer: Layer, writers: Mapping[str, Collection[str]]) -> bool:
    geometry = network.geometry[layer.name]
    wide = network.widths(network.dense)
    reads, writes = geometry.in_form, geometry.out_form
    if geometry.in_size != geometry.out_size or reads(wide) != writes(wide):
        return False
    if reads == writes:
        return True
    own = _group(writes)
    return bool(own and _group(reads)) and [*writers[str(own)]] == [layer.name]


def _group(form: Form) -> str | None:
    """The group whose channels these are, one by one."""
    if form.constant or len(form.factors) != 1:
        return None
    ((group, factor),) = form.factors
    return group if factor == 1 else None


def _reads(layer: Layer) -> tuple[str, ...]:
    return (*layer.inputs, layer.residual) if layer.residual else layer.inputs


def _between(shortcut: str, output: Layer, by_name, readers) -> list[str] | None:
    """The layers from `shortcut` (not included) to `output`, if nothing else enters or leaves."""
    inside, open_ = {output.name}, [output]
    while open_:
        for source in _reads(open_.pop()):
            if source == shortcut or source in inside:
                continue
            if source == INPUT:
                return None
            inside.add(source)
            open_.append(by_name[source])
    leaves = any(readers[name] - inside for name in inside - {output.name})
    if leaves or shortcut == INPUT:
        return None
    return [name for name in by_name if name in inside]


def _common_path(names: list[str]) -> str:
    paths = [name.split(".")[:-1] for name in names]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)
