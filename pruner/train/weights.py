"""Weights from published checkpoints and from our own safetensors files."""

from __future__ import annotations

import argparse
import pickle
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lookup_tables.storage.files import write_whole
from pruner import ModelError

SAFETENSORS = ".safetensors"
STATE_UNDER = ("state_dict", "model_state_dict", "model")  # of checkpoints that hold more
# What safetensors and torch.load raise for files that are something else or cut short.
UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, struct.error, RuntimeError, EOFError, LookupError,
    ValueError,
)  # fmt: skip


def load_weights(model: nn.Module, path: str | Path, but_head: bool = False) -> None:
    """Fill a model from a .safetensors, .th, .pt or .pth file.

    With `but_head` the file may tell other classes apart: the one layer that has another number of
    outputs stays as it is. Raises ModelError if the file is missing, broken or of another model.

    PyTorch files may hold a state dict, or a dictionary with one under `state_dict`,
    `model_state_dict` or `model`; a leading `module.` is dropped. Half-precision weights are
    widened.
    """
    state = _read(Path(path))
    own = model.state_dict()
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
    unexpected = [name for name in state if name not in own]
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
    filled = own | {name: value.to(own[name].dtype) for name, value in state.items()}
    model.load_state_dict(model.state_dict() | filled)


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
    state = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    write_whole(path, save(state, {"made_by": made_by} if made_by else None))


def made_by(path: str | Path) -> str | None:
    """What `save_weights` was told; None of a file that does not say."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("made_by")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of a training
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
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
    return {name.removeprefix("module."): value for name, value in found.items()}


def _state_dict(content: object) -> dict[str, Tensor] | None:
    inside = (content.get(name) for name in STATE_UNDER) if isinstance(content, dict) else ()
    for state in (content, *inside):
        if isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values()):
            return state
    return None
