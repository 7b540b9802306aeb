"""Quantisation-aware training: a network that learns with the roundings of INT8.

Weights and activations are rounded in the forward pass and learn as if they were not (Jacob et al.
2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", arXiv 1712.05877, section 3), by PyTorch's own fake quantisation. Rounded is what ONNX
Runtime's quantiser rounds: what every layer writes, behind BatchNorm and activation, and every
weight.

Deviations:
1. BatchNorm is not folded into the weights while they learn (section 3.2). Weights have a scale
   for every output channel, and a factor for every channel only multiplies it: the integers are the
   same.
2. What a convolution hands to the addition behind it is not rounded; the sum is.
3. The ranges that were followed are not kept. Calibration measures them anew.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lookup_tables.layer import WEIGHTED
from pruner.graph.trace import Trace

# Written as they were read: rounding once more would only add to the error.
_SAME = ("max_pool", "upsample")
PREFIX = "rounded_"
SMALLEST = 1e-8  # scale
FOLLOWS = 0.01  # share of a batch in a range


def quantisation_aware(traced: Trace) -> fx.GraphModule:
    """A copy of the traced network that rounds as INT8 does; `learned` reads its weights."""
    module = copy.deepcopy(traced.module)
    nodes = {node.name: node for node in module.graph.nodes}
    written = [node for node in module.graph.nodes if node.op == "placeholder"]
    for layer in traced.network.layers:
        if layer.kind not in _SAME:
            written.append(nodes[traced.node_of[layer.name]])
    for number, node in enumerate(dict.fromkeys(written)):
        _round(module, node, f"{PREFIX}{number}", _RoundedMaps())
    for layer in traced.network.layers:
        if layer.kind in WEIGHTED:
            _round_weights(module, layer.name)
    module.recompile()
    return module


def learned(module: fx.GraphModule) -> dict[str, Tensor]:
    """The state of the plain network, from a quantisation-aware one."""
    state = module.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}


class _RoundedMaps(nn.Module):
    """To one of 256 numbers, 0 among them, of a range that follows what is seen in training."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            whole = x.float()
            if self.training:
                self._follow(whole.detach())
            scale = ((self.high - self.low) / 255).clamp_min(SMALLEST)
            zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
            return torch.fake_quantize_per_tensor_affine(whole, scale, zero, 0, 255).to(x.dtype)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        low, high = x.aminmax()
        for kept, now in ((self.low, low.clamp_max(0)), (self.high, high.clamp_min(0))):
            kept.copy_(torch.where(self.seen, kept + FOLLOWS * (now - kept), now))
        self.seen.fill_(True)


class _RoundedWeights(nn.Module):
    """To one of 255 numbers of every output channel's own range."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            scale = (weight.detach().flatten(1).abs().amax(dim=1) / 127).clamp_min(SMALLEST)
            zero = torch.zeros_like(scale, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def _round(module: fx.GraphModule, node: fx.Node, name: str, rounded: nn.Module) -> None:
    module.add_submodule(name, rounded)
    with module.graph.inserting_after(node):
        after = module.graph.call_module(name, (node,))
    node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)


def _round_weights(module: fx.GraphModule, path: str) -> None:
    """Let a layer compute with its weights rounded; they stay where they are."""
    layer = module.get_submodule(path)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    name = f"{PREFIX}{path.replace('.', '_')}"
    module.add_submodule(name, _RoundedWeights())
    for node in [n for n in module.graph.nodes if n.op == "call_module" and n.target == path]:
        with module.graph.inserting_before(node):
            weight = module.graph.call_module(name, (module.graph.get_attr(f"{path}.weight"),))
            bias = None if layer.bias is None else module.graph.get_attr(f"{path}.bias")
            if isinstance(layer, nn.Linear):
                made = module.graph.call_function(F.linear, (node.args[0], weight, bias))
            else:
                options = layer.stride, layer.padding, layer.dilation, layer.groups
                made = module.graph.call_function(F.conv2d, (node.args[0], weight, bias, *options))
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
