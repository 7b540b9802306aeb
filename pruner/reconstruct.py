"""Reconstruction: a layer's remaining inputs take over from the ones that were pruned.

For every layer that reads pruned channels, the least-squares weights on the channels that stay,
so that its outputs change as little as possible on training images:

    W' = argmin E |W x − W' x_S|² = W H[:, S] (H[S, S] + λ I)⁻¹,   H = E x xᵀ

with x the layer's input patch and a constant 1, so that a lost mean goes into the bias where there
is one. H is measured once, on the dense network; a candidate then costs one small solve a layer and
no images (He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv
1707.06168, section 3.1, equation 2). Candidates that leave a layer the same inputs share its solve.

Deviations:
1. The paper feeds each layer the pruned network's own inputs, layer by layer; here they are the
   dense network's, so that one pass over the images serves all candidates.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruner.compute import on_processor
from pruner.data import Images, batches
from pruner.surgery import Kept, positions
from pruner.trace import Trace

IMAGES, BATCH = 1024, 128
PATCHES = 24  # of each image and layer, at random places
RIDGE = 1e-3  # of the mean diagonal
LARGEST = 6000  # inputs of one patch; larger layers keep their weights
REMEMBERED = 128e6  # fitted weights at most, half a gigabyte; those not asked for longest go first


class Reconstruction:
    """Input moments of every layer that may lose inputs."""

    def __init__(self, trace: Trace, images: Images, seed: int = 0) -> None:
        """Runs the traced network over IMAGES training images."""
        self.trace = trace
        self._normalised = set(trace.batch_norms)  # what follows takes any mean away
        self._moments: dict[str, Tensor] = {}  # module path → (inputs + 1, inputs + 1)
        self._fitted: dict[tuple[str, bytes], Tensor] = {}  # (module path, what it reads)
        self._measure(images, torch.Generator().manual_seed(seed))

    def refit(self, kept: Kept) -> Trace:
        """The trace with weights refitted to what stays; cut it as the original.

        Weights on channels that go are zero in it.
        """
        module = copy.deepcopy(self.trace.module)
        for path, moment in self._moments.items():
            reads = positions(self.trace.channels[path].reads, kept)
            layer = module.get_submodule(path)
            if len(reads) < layer.weight.shape[1]:
                _put(layer, reads, self._fit(path, reads, moment))
        return replace(self.trace, module=module)

    def _fit(self, path: str, reads: Tensor, moment: Tensor) -> Tensor:
        """(filters, inputs that stay): the layer's weights, its bias last if it may have one."""
        key = path, reads.numpy().tobytes()
        fitted = self._fitted.pop(key, None)
        if fitted is None:
            layer = self.trace.module.get_submodule(path)
            intercept = layer.bias is not None or path in self._normalised
            fitted = _least_squares(layer, reads, moment, intercept)
        self._fitted[key] = fitted  # now the last to be forgotten
        while sum(each.numel() for each in self._fitted.values()) > REMEMBERED:
            del self._fitted[next(iter(self._fitted))]
        return fitted

    def _measure(self, images: Images, generator: torch.Generator) -> None:
        model = self.trace.module.eval()
        hooks = []
        for path in self.trace.channels:
            layer = model.get_submodule(path)
            if _can_refit(layer):
                size = layer.weight[0].numel() + 1
                self._moments[path] = torch.zeros(size, size)
                hooks.append(layer.register_forward_pre_hook(self._hook(path, generator)))
        count = 0
        with on_processor(model) as here, torch.no_grad():
            for x, _ in batches(images, BATCH, IMAGES):
                model(here(x))
                count += len(x)
        for hook in hooks:
            hook.remove()
        for moment in self._moments.values():
            moment /= count

    def _hook(self, path: str, generator: torch.Generator):
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            patches = _patches(layer, inputs[0].float().cpu(), generator)
            rows = F.pad(patches, (0, 1), value=1.0)
            self._moments[path].addmm_(rows.T, rows, alpha=len(inputs[0]) / len(rows))

        return add


def _can_refit(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.padding_mode == "zeros"
        return plain and layer.weight[0].numel() <= LARGEST
    return isinstance(layer, nn.Linear) and layer.in_features <= LARGEST


def _patches(layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """What single outputs read: (patches, inputs), in the order of the weights."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2) if x.dim() > 2 else x
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    ph, pw = layer.padding
    x = F.pad(x, (pw, pw, ph, ph))
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    shape = (len(x), PATCHES)
    top = torch.randint(height, shape, generator=generator) * sh
    left = torch.randint(width, shape, generator=generator) * sw
    rows = top[..., None, None] + (torch.arange(kh) * dh)[:, None]
    columns = left[..., None, None] + torch.arange(kw) * dw
    image = torch.arange(len(x))[:, None, None, None]
    # (n, patches, kh, kw, channels) → channels first, as the weights are.
    taken = x.permute(0, 2, 3, 1)[image, rows, columns]
    return taken.permute(0, 1, 4, 2, 3).reshape(len(x) * PATCHES, -1)


def _least_squares(layer: nn.Module, reads: Tensor, moment: Tensor, intercept: bool) -> Tensor:
    """(filters, inputs that stay, and a constant with `intercept`): W' of the file's equation."""
    rows, inputs = layer.weight.detach().flatten(1), _inputs(layer, reads)
    if intercept:
        inputs = torch.cat([inputs, torch.tensor([rows.shape[1]])])
    bias = torch.zeros(len(rows), 1) if layer.bias is None else layer.bias.detach()[:, None]
    wanted = torch.cat([rows, bias], dim=1) @ moment[:, inputs]
    gram = moment[inputs][:, inputs]
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram, wanted.T).T


def _put(layer: nn.Module, reads: Tensor, fitted: Tensor) -> None:
    """Set the layer's weights on the channels that stay, 0 on the others, and its bias."""
    inputs = _inputs(layer, reads)
    weight = torch.zeros(len(fitted), layer.weight[0].numel())
    weight[:, inputs] = fitted[:, : len(inputs)]
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(fitted[:, len(inputs)])


def _inputs(layer: nn.Module, reads: Tensor) -> Tensor:
    """Columns of the layer's weights that belong to the channels it reads."""
    each = layer.weight[0, 0].numel()
    return (reads[:, None] * each + torch.arange(each)).flatten()
