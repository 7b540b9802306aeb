"""Channel counts as linear forms in the groups' widths: what all architectures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lookup_tables.layer import Size


class Form(NamedTuple):
    """A channel count as a linear form in the group widths: constant + Σ factor · width."""

    constant: int
    factors: tuple[tuple[str, int], ...] = ()

    def __call__(self, widths: Mapping[str, int | np.ndarray]):
        return self.constant + sum(factor * widths[group] for group, factor in self.factors)

    def plus(self, other: Form) -> Form:
        return Form(self.constant + other.constant, self.factors + other.factors)

    def times(self, factor: int) -> Form:
        return Form(self.constant * factor, tuple((g, f * factor) for g, f in self.factors))


class Geometry(NamedTuple):
    """What every architecture's version of one layer has in common."""

    in_form: Form
    out_form: Form
    in_size: Size
    out_size: Size
