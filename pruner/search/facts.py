"""Facts: what an agent sees of a decision, and what it may know of it beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookup_tables.layer import WEIGHTED
from lookup_tables.network import Network
from pruner.search.space import Decision, Kind

# A state's features, each in [0, 1]; those before `time_saved` are `static_features`.
STATE = (
    "index", "is_block", "is_depthwise", "in_channels", "out_channels", "kernel", "stride",
    "parameters",
    "time_saved", "time_open", "previous_action", "latency_sensitivity", "local_slope",
    "remaining_parameters",
)  # fmt: skip


def static_features(network: Network, decisions: Sequence[Decision]) -> np.ndarray:
    """(decisions, 8): index, kind and shape of the first layer that each one decides, scaled."""
    specs = {layer.name: spec for layer, spec in network.layer_specs(network.dense)}
    blocks = {block.name: block.layers for block in network.blocks}
    rows = []
    for index, decision in enumerate(decisions):
        if decision.is_block:
            inside = [layer for layer in network.layers if layer.name in blocks[decision.name]]
            layer = next((layer for layer in inside if layer.kind in WEIGHTED), inside[0])
        elif decision.kind is Kind.DENSITY:
            layer = next(layer for layer in network.layers if layer.name == decision.name)
        else:
            layer = next(layer for layer in network.layers if layer.group == decision.name)
        spec = specs[layer.name]
        feeds_depthwise = any(
            other.kind == "depthwise" and layer.name in other.inputs for other in network.layers
        )
        parameters = spec.in_channels * spec.out_channels * spec.kernel[0] * spec.kernel[1]
        rows.append(
            [
                index,
                float(decision.is_block),
                float(feeds_depthwise),
                spec.in_channels,
                spec.out_channels,
                spec.kernel[0],
                spec.stride[0],
                parameters,
            ]
        )
    table = np.array(rows, dtype=float)
    return table / np.maximum(table.max(axis=0), 1.0)
