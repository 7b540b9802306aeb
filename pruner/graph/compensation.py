"""Reconstruction: what stays of a network takes over from what was pruned.

For every layer that reads pruned channels, the least-squares weights on the channels that stay,
so that its outputs change as little as possible on training images:

    W' = argmin E |W x − W' x_S|² = W H[:, S] (H[S, S] + λ I)⁻¹,   H = E x xᵀ

with x the layer's input patch and a constant 1, so that a lost mean goes into the bias where there
is one. H is measured once, on the dense network; a candidate then costs one small solve a layer and
no images (He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv
1707.06168, section 3.1, equation 2). Candidates that leave a layer the same inputs share its solve.

Where blocks were removed, the layer before them, their heir (`pruner/graph/shortcuts.py`), is
fitted to what it wrote and what they added to that:

    W' = argmin E |t − W' x_S|²,   t = W x + (sum behind the last block) − (what the first one read)

as the paper lets a branch make up for what its shortcut lost (section 3.3). The BatchNorm behind
the heir is set to the mean and the spread of what was fitted. Where plain layers were removed, the
layer before them is fitted to what the last of them wrote before its activation.

Where weights are left out, every block of a layer's filters is fitted to the same outputs by the
taps that it keeps: the first equation with its own S.

Deviations:
1. The paper feeds each layer the pruned network's own inputs, layer by layer; here they are the
   dense network's, so that one pass over the images serves all candidates.
2. The paper removes channels only, and a branch makes up for its own shortcut; here it takes over
   from whole blocks. What it wrote counts before its activation, what they read behind it: a line
   through what an activation had cut off fits worse (docs/decisions/score.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pruner.data.images import Images, at_once, batches
from pruner.graph.capture import first_call
from pruner.graph.masks import Thinning, Weighed
from pruner.graph.shortcuts import Heir, heirs
from pruner.graph.surgery import Kept, positions
from pruner.graph.trace import Trace
from pruner.train.compute import on_processor
from pruner.train.sparsity import keep_highest, places_of

IMAGES, BATCH = 1024, 128
PATCHES = 24  # of each image and layer, at random places
RIDGE = 1e-3  # of the mean diagonal
LARGEST = 6000  # inputs of one patch; larger layers keep their weights
REMEMBERED = 128e6  # fitted weights at most, half a gigabyte; those not asked for longest go first


Refittable = nn.Conv2d | nn.Linear
Places = tuple[Tensor, Tensor]  # rows and columns of a map, each (images, PATCHES)


class Reconstruction:
    """What layers read in the dense network, and what blocks added behind them, as moments."""

    def __init__(self, trace: Trace, images: Images, seed: int = 0, depth: bool = True) -> None:
        """Runs the traced network over IMAGES training images.

        Without `depth` nothing is measured that stands for removed blocks, and none is taken over.
        """
        self.trace = trace
        self._normalised = set(trace.batch_norms)  # what follows takes any mean away
        self._fitted: dict[tuple, Tensor] = {}  # (module path, what it reads, up to which block)
        self._heirs = [
            heir
            for heir in (heirs(trace) if depth else ())
            if _can_refit(trace.module.get_submodule(heir.path)) and heir.path not in trace.tied
        ]
        self._measure(images, torch.Generator().manual_seed(seed))

    def refit(
        self, kept: Kept, removed: Collection[str] = (), thinning: Thinning | None = None
    ) -> Trace:
        """The trace with weights refitted to what stays; cut it as the original.

        `removed` are blocks that go, `thinning` says how weights are left out of layers. Weights on
        channels that go, and those that are left out, are zero in it.
        """
        module = copy.deepcopy(self.trace.module)
        refitted = replace(self.trace, module=module)
        for path, moment in self._moments.items():
            reads = positions(self.trace.channels[path].reads, kept)
            layer = _refittable(module, path)
            if len(reads) < layer.weight.shape[1]:
                _put(layer, reads, self._fit(path, reads, moment))
        for heir in self._heirs:
            gone = self.trace.network.block_of.get(heir.path) in removed
            if not gone and (block := heir.last(removed)):
                self._take_over(refitted, heir, block, kept)
        if thinning is not None:
            for path in thinning.layers:
                if self.trace.network.block_of.get(path) in removed:
                    continue
                if path in self._moments:
                    self._thin(refitted, path, kept, removed, thinning)
                else:
                    leave_out(refitted, path, kept, thinning)
        return refitted

    def judged_as(
        self, scores: Mapping[str, Tensor], removed: Collection[str]
    ) -> dict[str, Tensor]:
        """Channels' scores, group → (width,), where a layer is fitted to a plain one behind it.

        What it then writes are the other's channels, and so are their scores.
        """
        network, found = self.trace.network, dict(scores)
        groups = [layer.group for layer in network.layers if layer.group]
        of = {layer.name: layer.group for layer in network.layers}
        for heir in self._heirs:
            gone = takewhile(lambda block: block in removed, heir.sums)
            tied = [network.ties[block][0] for block in gone if block in network.ties]
            group = of[heir.path]
            if tied and group and groups.count(group) == 1:
                found[group] = scores[tied[-1]]
        return found

    def _thin(
        self, refitted: Trace, path: str, kept: Kept, removed: Collection[str], thinning: Thinning
    ) -> None:
        """Leave weights out of a layer, and fit the others to what it is to write."""
        layer, moment = _refittable(refitted.module, path), self._moments[path]
        channels = refitted.channels[path]
        reads, writes = positions(channels.reads, kept), positions(channels.writes, kept)
        heir = next((each for each in self._heirs if each.path == path), None)
        block = heir.last(removed) if heir else None
        intercept = layer.bias is not None or path in self._normalised or block is not None

        key = (path, reads.numpy().tobytes(), writes.numpy().tobytes(), block, thinning.block)

        def fit() -> Tensor:
            inputs = _inputs(layer, reads)
            weighed = Weighed(
                path=path,
                weight=layer.weight.detach()[writes].flatten(1)[:, inputs],
                gram=moment[inputs][:, inputs],
                gain=_gain(refitted, path)[writes],
                filters=writes,
                inputs=inputs,
                places=places_of(layer.weight),
                block=thinning.block,
            )
            dense = _refittable(self.trace.module, path)
            wanted = self._wanted[heir, block] if heir and block else _as_it_is(dense, moment)
            scores = self._remembered((*key, "scores"), lambda: thinning.judge(weighed))
            density = thinning.density[path]
            return _thinned(weighed, scores, density, moment, wanted[:, writes], intercept)

        fitted = self._remembered((*key, thinning.density[path]), fit)
        _put(layer, reads, fitted, writes)
        if heir is not None and block is not None and heir.norm is not None:
            norm = refitted.module.get_submodule(heir.norm)
            assert isinstance(norm, nn.BatchNorm2d)
            constant = torch.zeros(len(layer.weight))  # of channels that go it does not matter
            constant[writes] = fitted[:, -1]
            _normalise(norm, layer, moment, constant)

    def _fit(self, path: str, reads: Tensor, moment: Tensor) -> Tensor:
        """(filters, inputs that stay): the layer's weights, its bias last if it may have one."""
        layer = _refittable(self.trace.module, path)
        intercept = layer.bias is not None or path in self._normalised
        return self._remembered(
            (path, reads.numpy().tobytes()),
            lambda: _least_squares(layer, reads, moment, _as_it_is(layer, moment), intercept),
        )

    def _take_over(self, refitted: Trace, heir: Heir, block: str, kept: Kept) -> None:
        """Fit a layer to the blocks that follow it, up to `block`."""
        moment, wanted = self._moments[heir.path], self._wanted[heir, block]
        layer = _refittable(refitted.module, heir.path)
        reads = positions(refitted.channels[heir.path].reads, kept)
        fitted = self._remembered(
            (heir.path, reads.numpy().tobytes(), block),
            lambda: _least_squares(layer, reads, moment, wanted, intercept=True),
        )
        _put(layer, reads, fitted)
        if heir.norm is not None:
            norm = refitted.module.get_submodule(heir.norm)
            assert isinstance(norm, nn.BatchNorm2d)
            _normalise(norm, layer, moment, fitted[:, -1])

    def _remembered(self, key: tuple, fit: Callable[[], Tensor]) -> Tensor:
        fitted = self._fitted.pop(key, None)
        if fitted is None:
            fitted = fit()
        self._fitted[key] = fitted  # now the last to be forgotten
        while sum(each.numel() for each in self._fitted.values()) > REMEMBERED:
            del self._fitted[next(iter(self._fitted))]
        return fitted

    def _measure(self, images: Images, generator: torch.Generator) -> None:
        """E x xᵀ of what layers read, by module path, and E x tᵀ of heirs, by heir and block."""
        measuring = _Measuring(self.trace, self._heirs, generator)
        count = 0
        with on_processor(self.trace.module.eval()) as here, torch.no_grad():
            for x, _ in batches(images, at_once(images, BATCH), IMAGES):
                measuring.see(here(x))
                count += len(x)
        self._moments = {path: moment / count for path, moment in measuring.moments.items()}
        self._wanted = {key: moment / count for key, moment in measuring.wanted.items()}


def leave_out(trace: Trace, path: str, kept: Kept, thinning: Thinning) -> None:
    """Leave weights out of a layer of this very trace; what stays is as it was."""
    layer, channels = _refittable(trace.module, path), trace.channels[path]
    reads, writes = positions(channels.reads, kept), positions(channels.writes, kept)
    inputs = _inputs(layer, reads)
    weight = layer.weight.detach().flatten(1)[writes][:, inputs]
    gain, places = _gain(trace, path)[writes], places_of(layer.weight)
    judged = Weighed(path, weight, None, gain, writes, inputs, places, thinning.block)
    block = thinning.block
    kept_taps = keep_highest(block.sums(thinning.judge(judged), places), thinning.density[path])
    mask = block.rows(kept_taps, len(writes), len(inputs), places)
    kept_weight = torch.zeros(len(writes), layer.weight[0].numel())
    kept_weight[:, inputs] = weight * mask
    with torch.no_grad():
        layer.weight[writes] = kept_weight.reshape(-1, *layer.weight.shape[1:])


class _Measuring(fx.Interpreter):
    """Runs the dense network, and adds up what its layers read beside what heirs are to write."""

    def __init__(self, trace: Trace, heirs: Collection[Heir], generator: torch.Generator) -> None:
        super().__init__(trace.module)
        self._generator = generator
        self.moments: dict[str, Tensor] = {}  # module path → (inputs + 1, inputs + 1)
        for path in trace.channels:
            layer = trace.module.get_submodule(path)
            if _can_refit(layer):
                size = layer.weight[0].numel() + 1
                self.moments[path] = torch.zeros(size, size)
        self.wanted: dict[tuple[Heir, str], Tensor] = {}  # (heir, block) → (inputs + 1, outputs)
        self._by_path = {heir.path: heir for heir in heirs}
        self._by_part = {heir.wrote: heir for heir in heirs}
        self._by_output = {heir.output: heir for heir in heirs}
        self._followed: dict[fx.Node, list[tuple[Heir, str]]] = {}  # by the sum behind a block
        for heir in heirs:
            for block, node in heir.sums.items():
                self._followed.setdefault(node, []).append((heir, block))

    def see(self, x: Tensor) -> None:
        """A batch of images."""
        self._images = len(x)
        self._read: dict[Heir, tuple[Tensor, Places]] = {}  # patches, and where they lie
        self._wrote: dict[Heir, Tensor] = {}  # at these places, as all that follows
        self._not_its_own: dict[Heir, Tensor] = {}  # what the first block reads, less that
        self.run(x)

    def run_node(self, node: fx.Node):
        """Runs as it is. What is overwritten in place later was seen before."""
        if node.op == "call_module" and (path := first_call(str(node.target))) in self.moments:
            (source,) = node.all_input_nodes
            self._see_input(path, self.env[source])
        value = super().run_node(node)
        if heir := self._by_part.get(node):
            self._wrote[heir] = self._at_places(heir, value)
        if heir := self._by_output.get(node):
            self._not_its_own[heir] = self._at_places(heir, value) - self._wrote[heir]
        for heir, block in self._followed.get(node, ()):
            self._see_wanted(heir, block, value)
        return value

    def _see_input(self, path: str, x: Tensor) -> None:
        layer, x = _refittable(self.module, path), x.float().cpu()
        places = _places(layer, x, self._generator)
        rows = F.pad(_patches(layer, x, places), (0, 1), value=1.0)
        self.moments[path].addmm_(rows.T, rows, alpha=self._images / len(rows))
        if path in self._by_path:
            assert places is not None  # heirs are convolutions
            self._read[self._by_path[path]] = rows, places

    def _see_wanted(self, heir: Heir, block: str, value: Tensor) -> None:
        rows, _ = self._read[heir]
        wanted = self._at_places(heir, value) - self._not_its_own[heir]
        moment = rows.T @ wanted * (self._images / len(rows))
        self.wanted[heir, block] = self.wanted.get((heir, block), 0.0) + moment

    def _at_places(self, heir: Heir, maps: Tensor) -> Tensor:
        return _at(maps, self._read[heir][1]).float().cpu()


def _can_refit(layer: nn.Module) -> TypeGuard[Refittable]:
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.padding_mode == "zeros"
        return plain and layer.weight[0].numel() <= LARGEST
    return isinstance(layer, nn.Linear) and layer.in_features <= LARGEST


def _refittable(module: nn.Module, path: str) -> Refittable:
    layer = module.get_submodule(path)
    assert isinstance(layer, Refittable)
    return layer


def _places(layer: Refittable, x: Tensor, generator: torch.Generator) -> Places | None:
    """Which outputs of a convolution are looked at, for each image; None for a linear layer."""
    if isinstance(layer, nn.Linear):
        return None
    assert not isinstance(layer.padding, str)  # tracing refuses it
    sizes = zip(
        x.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True
    )
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    shape = (len(x), PATCHES)
    top = torch.randint(height, shape, generator=generator)
    return top, torch.randint(width, shape, generator=generator)


def _patches(layer: Refittable, x: Tensor, places: Places | None) -> Tensor:
    """What single outputs read: (patches, inputs), in the order of the weights."""
    if places is None:
        return x.flatten(0, -2) if x.dim() > 2 else x
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    ph, pw = layer.padding
    x = F.pad(x, (pw, pw, ph, ph))
    rows = (places[0] * sh)[..., None, None] + (torch.arange(kh) * dh)[:, None]
    columns = (places[1] * sw)[..., None, None] + torch.arange(kw) * dw
    image = torch.arange(len(x))[:, None, None, None]
    # (n, patches, kh, kw, channels) → channels first, as the weights are.
    taken = x.permute(0, 2, 3, 1)[image, rows, columns]
    return taken.permute(0, 1, 4, 2, 3).reshape(len(x) * PATCHES, -1)


def _at(maps: Tensor, places: Places) -> Tensor:
    """(patches, channels): the maps' values at the places, in the order of `_patches`."""
    image = torch.arange(len(maps))[:, None]
    return maps.permute(0, 2, 3, 1)[image, places[0], places[1]].flatten(0, 1)


def _as_it_is(layer: Refittable, moment: Tensor) -> Tensor:
    """(inputs + 1, filters): moments of what the layer reads with what it writes."""
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
    return moment @ torch.cat([layer.weight.detach().flatten(1), bias[:, None]], dim=1).T


def _least_squares(
    layer: Refittable, reads: Tensor, moment: Tensor, wanted: Tensor, intercept: bool
) -> Tensor:
    """(filters, inputs that stay, and a constant with `intercept`): W' of the file's equations.

    `moment`: (inputs + 1, inputs + 1), `wanted`: (inputs + 1, filters).
    """
    return _solve(_inputs(layer, reads), moment, wanted, intercept)


def _solve(inputs: Tensor, moment: Tensor, wanted: Tensor, intercept: bool) -> Tensor:
    """(filters, inputs, and a constant with `intercept`).

    The ridge holds the weights back, never the constant: it would draw the outputs towards 0, the
    more the larger inputs are.
    """
    ridge = RIDGE * moment.diagonal()[inputs].mean() if len(inputs) else torch.zeros(())
    ridge = ridge.expand(len(inputs))
    if intercept:
        inputs = torch.cat([inputs, torch.tensor([len(moment) - 1])])
        ridge = F.pad(ridge, (0, 1))
    gram = moment[inputs][:, inputs] + torch.diag(ridge)
    return torch.linalg.solve(gram, wanted[inputs]).T


def _put(layer: Refittable, reads: Tensor, fitted: Tensor, writes: Tensor | None = None) -> None:
    """Set the layer's weights on the channels that stay, 0 on the others, and its bias.

    `writes`: the filters that `fitted` is of, all by default; the others are left as they are.
    """
    inputs = _inputs(layer, reads)
    writes = torch.arange(len(layer.weight)) if writes is None else writes
    weight = torch.zeros(len(fitted), layer.weight[0].numel())
    weight[:, inputs] = fitted[:, : len(inputs)]
    with torch.no_grad():
        layer.weight[writes] = weight.reshape(-1, *layer.weight.shape[1:])
        if layer.bias is not None:
            layer.bias[writes] = fitted[:, len(inputs)]


def _thinned(
    layer: Weighed,
    scores: Tensor,
    density: float,
    moment: Tensor,
    wanted: Tensor,
    intercept: bool,
) -> Tensor:
    """(filters that stay, inputs that stay, and a constant with `intercept`), 0 where left out.

    `scores`: (filters that stay, inputs that stay), by which weights stay. `moment`: (inputs + 1,
    inputs + 1) of the dense layer, `wanted`: (inputs + 1, filters).
    """
    block = layer.block
    kept = keep_highest(block.sums(scores, layer.places), density)
    masks = block.widened(kept, len(layer.inputs), layer.places)
    fitted = torch.zeros(len(layer.weight), len(layer.inputs) + intercept)
    for number, mask in enumerate(masks):
        rows = slice(number * block.outputs, (number + 1) * block.outputs)
        taps = layer.inputs[mask]
        solved = _solve(taps, moment, wanted[:, rows], intercept)
        fitted[rows, : len(layer.inputs)][:, mask] = solved[:, : len(taps)]
        if intercept:
            fitted[rows, -1] = solved[:, -1]
    return fitted


def _gain(trace: Trace, path: str) -> Tensor:
    """(filters,): by how much a BatchNorm behind a layer multiplies what it writes; else 1."""
    layer = _refittable(trace.module, path)
    if path not in trace.batch_norms:
        return torch.ones(len(layer.weight))
    norm = trace.module.get_submodule(trace.batch_norms[path])
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.running_var is None:
        return torch.ones(len(layer.weight))
    scale = torch.ones(len(layer.weight)) if norm.weight is None else norm.weight.detach()
    return scale.abs() / (norm.running_var + norm.eps).sqrt()


def _normalise(norm: nn.BatchNorm2d, layer: Refittable, moment: Tensor, constant: Tensor) -> None:
    """Let BatchNorm hand on what a layer that was fitted to outputs behind it writes, + constant.

    Its statistics and its scale are those of the layer's outputs, its shift their mean.
    """
    weight, mean = layer.weight.flatten(1), moment[-1, :-1]
    covariance = moment[:-1, :-1] - mean[:, None] * mean
    written = weight @ mean
    variance = ((weight @ covariance) * weight).sum(dim=1).clamp_min(0)
    bias = 0.0 if layer.bias is None else layer.bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(written + bias)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(written + constant)


def _inputs(layer: Refittable, reads: Tensor) -> Tensor:
    """Columns of the layer's weights that belong to the channels it reads."""
    each = layer.weight[0, 0].numel()
    return (reads[:, None] * each + torch.arange(each)).flatten()
