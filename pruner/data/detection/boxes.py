"""Boxes: what a picture shows and where; they move with it when it is cropped or flipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SIDE = 2.0  # pixels: a narrower rest of a box is no object any more
LEAST_SHARE = 0.25  # of its area: a box that is cut off further shows too little of its object


@dataclass(frozen=True, eq=False)
class Boxes:
    """One picture's objects: corners (n, 4) as x1, y1, x2, y2 in pixels, classes (n,) int64."""

    corners: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def __str__(self) -> str:
        """Enough to tell two pictures' objects apart."""
        return f"{len(self)} boxes of classes {sorted(self.classes.tolist())}"

    @classmethod
    def none(cls) -> Boxes:
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    @property
    def sides(self) -> Tensor:
        """(n, 2): width and height."""
        return self.corners[:, 2:] - self.corners[:, :2]

    def scaled(self, x: float, y: float) -> Boxes:
        return Boxes(self.corners * torch.tensor([x, y, x, y]), self.classes)

    def moved(self, x: float, y: float) -> Boxes:
        return Boxes(self.corners + torch.tensor([x, y, x, y]), self.classes)

    def mirrored(self, width: float) -> Boxes:
        """Left and right changed places, in a picture of that width."""
        x1, y1, x2, y2 = self.corners.unbind(1)
        return Boxes(torch.stack([width - x2, y1, width - x1, y2], dim=1), self.classes)

    def seen_in(self, width: float, height: float) -> Boxes:
        """What a picture of that size shows of the boxes; those mostly cut off are gone."""
        most = torch.tensor([width, height, width, height])
        inside = Boxes(torch.minimum(self.corners.clamp(min=0), most), self.classes)
        before, after = self.sides.prod(1), inside.sides.clamp(min=0).prod(1)
        stays = (inside.sides >= LEAST_SIDE).all(1) & (after >= LEAST_SHARE * before)
        return Boxes(inside.corners[stays], self.classes[stays])


def together(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of several pictures as those of one."""
    return Boxes(
        torch.cat([part.corners for part in parts]), torch.cat([part.classes for part in parts])
    )
