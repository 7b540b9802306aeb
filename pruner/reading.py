"""Images where reading them takes time: once for all candidates, and ahead of the training."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pruner.compute import processor
from pruner.data import Images, InMemory, Joined
from pruner.errors import DataError

MOST_BYTES = 1e9  # 1,600 images of 224×224
MOST_READERS = 8

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

    Where a GPU would wait for images, `readers` processes read ahead of it; a step's batch is the
    same however many they are. Raises DataError for an image that cannot be read.
    """
    readers = _readers(images) if readers is None else readers
    loader = DataLoader(
        _Steps(images, draw),
        batch_size=None,  # an item is a batch already
        sampler=steps,
        num_workers=readers,
        multiprocessing_context="fork" if readers else None,
        pin_memory=readers > 0 and processor().type == "cuda",
    )
    try:
        yield from loader
    except DataError as error:  # a reader's comes with its traceback in the message
        raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from None


class _Steps(Dataset):
    """Batches by their steps' numbers."""

    def __init__(self, images: Images, draw: Draw) -> None:
        self._images, self._draw = images, draw

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self._images.batch(*self._draw(step))


def _readers(images: Images) -> int:
    """None where training waits for itself, or where processes would need copies of the images."""
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if processor().type == "cpu" or not can_fork or _is_in_memory(images):
        return 0
    return max(1, min(MOST_READERS, len(os.sched_getaffinity(0)) - 1))


def _is_in_memory(images: Images) -> bool:
    if isinstance(images, Joined):
        return _is_in_memory(images.first) and _is_in_memory(images.second)
    return isinstance(images, InMemory)
