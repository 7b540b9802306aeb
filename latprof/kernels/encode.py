"""A convolution's weights as the kernels take them: kept taps, by blocks of output channels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Encoded(NamedTuple):
    """What a sparse convolution reads beside its input; `kept` taps in all."""

    weights: np.ndarray  # (kept, block) float32: one row a tap, one block after the other
    taps: np.ndarray  # (kept,) int32: channel · kernel height · kernel width + y · width + x
    starts: np.ndarray  # (blocks + 1,) int32: where the taps of a block begin

    @property
    def kept(self) -> int:
        return len(self.taps)


def encode(weight: np.ndarray, groups: int, block: int, planar: bool = False) -> Encoded:
    """The taps of which any weight is not 0, in the order in which their inputs lie in memory.

    `weight`: (out channels, in channels / groups, height, width); channels that fill up the last
    block have weights of 0. `planar`: the input's channels lie one after the other, not in blocks.
    """
    whole = ungrouped(weight, groups)
    channels, places = whole.shape[1], whole.shape[2] * whole.shape[3]
    blocks = -(-len(whole) // block)
    padded = np.zeros((blocks * block, channels * places), dtype=np.float32)
    padded[: len(whole)] = whole.reshape(len(whole), -1)
    padded = padded.reshape(blocks, block, -1)
    order = memory_order(channels, places, 1 if planar else block)
    kept = (padded != 0).any(axis=1)[:, order]
    taps = [order[of_block] for of_block in kept]
    weights = [padded[b][:, each].T for b, each in enumerate(taps)]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in taps])])
    return Encoded(
        np.ascontiguousarray(np.concatenate(weights)),
        np.concatenate(taps).astype(np.int32),
        starts.astype(np.int32),
    )


INPUTS = 4  # neighbouring input channels of a tap, in INT8
BYTES_BLOCK = 16  # output channels of a block, in INT8


def encode_bytes(weight: np.ndarray, groups: int, planar: bool = False) -> Encoded:
    """The same of INT8 weights, whose taps are INPUTS neighbouring input channels at a place.

    `weights` are (kept, BYTES_BLOCK, INPUTS) int8, `taps` INPUTS-fold channel · kernel height ·
    kernel width + y · kernel width + x.
    """
    whole = ungrouped(weight, groups)
    outputs, channels = whole.shape[:2]
    blocks, fours = -(-outputs // BYTES_BLOCK), -(-channels // INPUTS)
    places = whole.shape[2] * whole.shape[3]
    padded = np.zeros((blocks * BYTES_BLOCK, fours * INPUTS, places), dtype=np.int8)
    padded[:outputs, :channels] = whole.reshape(outputs, channels, places)
    # (blocks, taps, outputs, inputs)
    taps = padded.reshape(blocks, BYTES_BLOCK, fours, INPUTS, places).transpose(0, 2, 4, 1, 3)
    taps = taps.reshape(blocks, fours * places, BYTES_BLOCK, INPUTS)
    order = memory_order(fours, places, 1 if planar else BYTES_BLOCK // INPUTS)
    kept = (taps != 0).any(axis=(2, 3))[:, order]
    chosen = [order[of_block] for of_block in kept]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in chosen])])
    return Encoded(
        np.ascontiguousarray(np.concatenate([taps[b][each] for b, each in enumerate(chosen)])),
        np.concatenate(chosen).astype(np.int32),
        starts.astype(np.int32),
    )


def memory_order(channels: int, places: int, lanes: int) -> np.ndarray:
    """All taps, (channels · places,), by where a pixel's input of theirs lies.

    First come the places of the first `lanes` channels, and of a place those channels in turn.
    """
    taps = np.arange(channels * places)
    channel, place = np.divmod(taps, places)
    return np.lexsort((channel % lanes, place, channel // lanes))


def ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The same convolution with one group: (out channels, in channels, height, width)."""
    if groups == 1:
        return weight
    out_channels, of_group = weight.shape[:2]
    whole = np.zeros((out_channels, of_group * groups, *weight.shape[2:]), dtype=weight.dtype)
    each = out_channels // groups
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        whole[rows, group * of_group : (group + 1) * of_group] = weight[rows]
    return whole


def density(weight: np.ndarray, block: int) -> float:
    """Share of a convolution's taps that are kept, counted by blocks of output channels.

    `weight`: (out channels, …); the last block may be smaller.
    """
    flat = weight.reshape(len(weight), -1) != 0
    kept = sum(int(flat[i : i + block].any(axis=0).sum()) for i in range(0, len(flat), block))
    return kept / (-(-len(flat) // block) * flat.shape[1])
