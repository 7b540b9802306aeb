"""Where PyTorch computes, and how: on a GPU if there is one, in half precision if that is fast."""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

T = TypeVar("T")


class Here(Protocol):
    """Brings a batch to where the models are: a tensor, or a structure of them."""

    def __call__(self, batch: T) -> T: ...


BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")  # without them it is emulated, and slower
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def processor() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def on_processor(*models: nn.Module | None) -> Iterator[Here]:
    """The models on the processor, in the layout that its convolutions like; then back again."""
    device = processor()
    came_from = {model: _device(model) for model in models if model is not None}
    with ExitStack() as back:
        for model, before in came_from.items():
            model.to(  # type: ignore[call-overload] # PyTorch does not declare these two at once
                device, memory_format=torch.channels_last
            )
            back.callback(model.to, before)
            if device.type == "cpu":
                back.enter_context(_depthwise_in_single_precision(model))
        yield lambda batch: tree_map(lambda part: _placed(part, device), batch)


@contextmanager
def own_random_state() -> Iterator[None]:
    """What is drawn inside leaves the caller's generators as they were."""
    on_gpu = processor().type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        yield


@cache
def keep_freed_memory() -> bool:
    """Let this process use the memory of freed tensors again; returns whether its C library can.

    By default glibc hands large tensors back to the system when they are freed, and it must fill
    their pages with zeros again at the next training step: on two cores of an AMD EPYC a quarter
    of MobileNet-V1's, a tenth of ResNet-56's. Up to 2 GB at the heap's end are kept instead.
    It changes the whole process, so only commands call it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (TypeError, OSError, AttributeError):  # Windows, macOS and musl have none
        return False
    is_set = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 32 << 20)  # old glibc
    return bool(is_set and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))


@contextmanager
def _depthwise_in_single_precision(model: nn.Module) -> Iterator[None]:
    """Depthwise convolutions that learn leave autocast while this lasts.

    On CPU the bfloat16 gradient of a strided one takes six times what float32 takes (PyTorch 2.15,
    oneDNN's AVX-512 code), a quarter of MobileNet-V1's training step.
    """
    changed = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and "_conv_forward" not in vars(module)  # of a call around this one
    ]
    for conv in changed:
        forward = partial(_single_precision_convolution, conv)
        conv._conv_forward = forward  # type: ignore[method-assign] # of this layer, for a while
    try:
        yield
    finally:
        for conv in changed:
            del conv._conv_forward


def _single_precision_convolution(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias) -> Tensor:
    """`conv` of x in float32, handed on in autocast's precision, where both matter."""
    if not (torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()):
        return nn.Conv2d._conv_forward(conv, x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        result = nn.Conv2d._conv_forward(conv, x.float(), weight, bias)
    return result.to(torch.get_autocast_dtype("cpu"))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _placed(x: object, device: torch.device) -> object:
    if not isinstance(x, Tensor):
        return x
    if x.dim() != 4:
        return x.to(device, non_blocking=True)
    return x.to(device, non_blocking=True, memory_format=torch.channels_last)


def fast_arithmetic(wanted: bool = True) -> torch.autocast:
    """Half precision where the processor multiplies it in hardware: on GPUs, and on CPUs that
    have one of BFLOAT16_UNITS.

    For training and for search scores; what a user is told is computed in single precision.
    """
    device = processor().type
    if device == "cuda":
        return torch.autocast("cuda", half_precision(), enabled=wanted)
    # PyTorch 2.10 cannot be asked yet.
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    has_units = any(can.get(unit, False) for unit in BFLOAT16_UNITS)
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted and has_units)


def compiled(model: nn.Module, frozen: bool = False) -> Callable[[Tensor], Tensor]:
    """The same model as fused code, where training on CPU waits for memory: worth a minute once.

    A `frozen` model does not learn: its BatchNorm is folded into its convolutions, and it is to be
    called without gradients. Needs a C++ compiler; without one, where compiling fails, and on GPUs,
    the model runs as it is.
    """
    if processor().type != "cpu" or not any(map(shutil.which, ("g++", "clang++"))):
        return model
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA
    fused = torch.compile(model, options={"freezing": frozen})

    def run(x: Tensor) -> Tensor:
        with torch._dynamo.config.patch(suppress_errors=True):  # what cannot be compiled runs as is
            return fused(x)

    return run


def half_precision() -> torch.dtype:
    """bfloat16, which needs no loss scaling; float16 on GPUs that only emulate it."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def loss_scaler() -> torch.amp.GradScaler:
    """Keeps float16 gradients from vanishing; does nothing where bfloat16 is used."""
    return torch.amp.GradScaler(processor().type, enabled=half_precision() == torch.float16)
