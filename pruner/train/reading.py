"""Images where reading them takes time: once for all candidates, and ahead of the training."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pruner.data.folders import FromFolder
from pruner.data.images import Images, Joined
from pruner.train.compute import processor

MOST_BYTES = 1e9  # 1,600 images of 224×224
MOST_READERS = 8
BATCHES_AHEAD = 2  # of every reader
SHARED_MEMORY = "/dev/shm"  # what readers hand over lies there; a container's may be small

Draw = Callable[[int], tuple[Tensor, int]]  # step → (indices, seed of their augmentation)


@dataclass(frozen=True)
class ReadOnce:
    """Images whose batches without augmentation are kept once they were read.

    As many as fit into `most_bytes`; the others are read again.
    """

    source: Images
    most_bytes: float = MOST_BYTES
    _kept: dict[bytes, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        if seed is not None:
            return self.source.batch(indices, seed)
        key = indices.numpy().tobytes()
        read = self._kept.get(key) or self.source.batch(indices)
        if key not in self._kept and self._bytes() + read[0].nbytes <= self.most_bytes:
            self._kept[key] = read
        pixels, labels = read
        return pixels.clone(), labels  # a model may work in place

    def _bytes(self) -> int:
        return sum(pixels.nbytes for pixels, _ in self._kept.values())


def ahead(
    images: Images, draw: Draw, steps: range, readers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch of every step, in order: (images (n, c, h, w), labels (n,)).

    Where a GPU would wait for files to be decoded, `readers` processes read ahead of it; a step's
    batch is the same however many they are. Raises what reading raises.
    """
    if readers is None:
        readers = readers_for(images, draw, steps)
    loader = DataLoader(
        _Steps(images, draw),
        batch_size=None,  # an item is a batch already
        sampler=steps,
        num_workers=readers,
        prefetch_factor=BATCHES_AHEAD if readers else None,
        multiprocessing_context="fork" if readers else None,
        pin_memory=readers > 0 and processor().type == "cuda",
    )
    for read in loader:
        if isinstance(read, Exception):
            raise read
        yield read


class _Steps(Dataset):
    """Batches by their steps' numbers."""

    def __init__(self, images: Images, draw: Draw) -> None:
        self._images, self._draw = images, draw

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor] | Exception:
        try:
            return self._images.batch(*self._draw(step))
        except Exception as error:  # raised where the batch is wanted, not in another process
            return error


def readers_for(images: Images, draw: Draw, steps: range) -> int:
    """How many processes should read ahead: 0 unless a GPU waits for files to be decoded.

    A user's own images are read by the process that trains: an open file or a GPU's memory would
    not outlive a fork. Fewer where the memory that processes share is small.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if processor().type == "cpu" or not can_fork or not steps or not _are_files(images):
        return 0
    indices, seed = draw(steps[0])
    one, _ = images.batch(indices[:1], seed)
    each = BATCHES_AHEAD * len(indices) * one.nbytes
    fit = shutil.disk_usage(SHARED_MEMORY).free // each if os.path.exists(SHARED_MEMORY) else 0
    return min(MOST_READERS, max(1, len(os.sched_getaffinity(0)) - 1), fit)


def _are_files(images: Images) -> bool:
    if isinstance(images, Joined):
        return _are_files(images.first) and _are_files(images.second)
    return isinstance(images, FromFolder)
