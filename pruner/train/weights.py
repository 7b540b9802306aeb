"""Weights from published checkpoints and from our own safetensors files."""

from __future__ import annotations

import argparse
import pickle
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lookup_tables.storage.files import write_whole
from pruner import ModelError
from pruner.train import darknet

SAFETENSORS = ".safetensors"
# Of checkpoints that hold more, in this order: a copy that follows the weights comes last.
STATE_UNDER = (
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "state_dict_ema",
    "model_ema", "ema",
)  # fmt: skip
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")  # before every name
COUNTERS = ("total_ops", "total_params")  # that a profiler left among the weights
# Beside the weights: the options of a training, and NumPy's numbers, under its old and new name.
HARMLESS = [
    argparse.Namespace,
    np.dtype,
    *(getattr(np.dtypes, f"{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32")),
    *((np.float64(0).__reduce__()[0], f"numpy.{c}.multiarray.scalar") for c in ("core", "_core")),
]
# What safetensors and torch.load raise for files that are something else or cut short.
UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, struct.error, RuntimeError, EOFError, LookupError,
    ValueError,
)  # fmt: skip


def load_weights(model: nn.Module, path: str | Path, but_head: bool = False) -> str:
    """Fill a model from a .safetensors, .th, .pt, .pth or Darknet's .weights file.

    Returns what form it has, in words.

    With `but_head` the file may tell other classes apart: the one layer that has another number of
    outputs stays as it is. Raises ModelError if the file is missing, broken or of another model.

    PyTorch files may hold a state dict, or a dictionary with one under a name of STATE_UNDER. What
    all names begin with is dropped where it is of WRAPPERS, and so are a profiler's counters.
    Half-precision weights are widened. No code of the file is run.
    """
    if darknet.is_one(Path(path)) and Path(path).is_file():
        return darknet.read_darknet(model, Path(path), part=but_head)
    read, form = _read(Path(path))
    every = model.state_dict()
    own = {name: every[name] for name in _names(model)}
    state, dropped = _unwrapped(read, own)
    form += f", without the prefix {dropped}" if dropped else ""
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    form += "".join(f", in {str(kind).removeprefix('torch.')}" for kind in sorted(kinds, key=str))
    if but_head:
        head = _only_misfit(state, own)
        state, own = ({n: v for n, v in some.items() if _layer(n) != head} for some in (state, own))
    optional = getattr(model, "absent_from_checkpoints", None)
    missing = [
        name
        for name in own
        if name not in state
        and not name.endswith("num_batches_tracked")
        and not (optional and name.endswith(optional))
    ]
    unexpected = [name for name in state if name not in own and name not in every]
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, but the model has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    for what, names in (
        ("misses", missing), ("has unknown entries:", unexpected), ("has other shapes:", misshapen)
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(
                f"{path} does not fit {type(model).__name__}: it {what} "
                f"{', '.join(names[:3])}{more}. "
                "Check that --model names the network these weights were trained for"
            )
    filled = {name: value.to(own[name].dtype) for name, value in state.items() if name in own}
    model.load_state_dict(filled, strict=False)
    return form


def _names(model: nn.Module) -> list[str]:
    """What a state dict holds, without second names of the same modules."""
    first = {path for path, _ in model.named_modules()}
    return [name for name in model.state_dict() if _layer(name) in first]


def _unwrapped(state: dict[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Without what wrappers wrote before every name, and without counters; and what was dropped."""
    state = {n: v for n, v in state.items() if n in own or n.rpartition(".")[2] not in COUNTERS}
    dropped = ""
    while prefix := next((w for w in WRAPPERS if state and _wraps(w, state, own)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        dropped += prefix
    return state, dropped


def _wraps(prefix: str, state: Iterable[str], own: Iterable[str]) -> bool:
    """Whether most names begin so, and none of the model's own does."""
    begin = [name.startswith(prefix) for name in state]
    return 2 * sum(begin) > len(begin) and not any(name.startswith(prefix) for name in own)


def _only_misfit(state: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """The layer that has another number of outputs, where no other layer differs."""
    misfits = [n for n in own if n in state and state[n].shape != own[n].shape]
    reads_the_same = all(state[n].shape[1:] == own[n].shape[1:] for n in misfits)
    layers = {_layer(name) for name in misfits}
    return layers.pop() if len(layers) == 1 and reads_the_same else None


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def save_weights(
    model: nn.Module, path: str | Path, half: bool = False, made_by: str | None = None
) -> None:
    """Write a safetensors file; `half` stores floats as fp16, `made_by` says of what it came."""
    values = model.state_dict()
    state = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in ((name, values[name]) for name in _names(model))
    }
    write_whole(path, save(state, {"made_by": made_by} if made_by else None))


def made_by(path: str | Path) -> str | None:
    """What `save_weights` was told; None of a file that does not say."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("made_by")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file by name, and in words where they were."""
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path), "safetensors"
        with torch.serialization.safe_globals(HARMLESS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, OSError) as error:
        if "Unsupported global" in str(error):
            raise ModelError(
                f"{path} holds Python objects beside weights, perhaps a whole model, and none of "
                "them is made. Save the weights alone: torch.save(model.state_dict(), FILE)"
            ) from None
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a readable weights file ({first})") from None
    found = _state_dict(state)
    if found is None:
        what = type(state).__name__
        if isinstance(state, dict):
            what = f"a dictionary of {', '.join(map(str, [*state][:5]))}"
        raise ModelError(
            f"{path}: expected a state dict, or one under {', '.join(STATE_UNDER)}; found {what}"
        )
    return found


def _state_dict(content: object) -> tuple[dict[str, Tensor], str] | None:
    places: dict[str, object] = {"a state dict": content}
    if isinstance(content, dict):
        places |= {f"a state dict under `{n}`": content.get(n) for n in STATE_UNDER}
    for form, state in places.items():
        if isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values()):
            return state, form
    return None
