"""Surface: one layer family's cost over (input width, output width).

Measured points are answered as they are: the staircase is the signal, it is neither smoothed nor
forced to ascend. Between them a Gaussian process answers, and says so; outside the measured range
there is no answer.

What a runtime does with a width is not a smooth function of it. ONNX Runtime on x86 runs widths
that are multiples of 4 in blocks of 16 channels, and any other by another kernel that may take
three times as long; GPUs have tiles. So widths that are aligned are compared with aligned ones, and
cost may climb in steps of a block (`ChannelStep`): the trend counts aligned widths in whole blocks,
or a search would find the widths that it prices below their block. Which block and which alignment
a device has is found from its measurements (`find_step`), not assumed.

The process is `gp.py`'s. Smearing back from logarithms: Duan, JASA 78 (1983).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lookup_tables.model.gp import Conditioned

Point = tuple[int, int]  # input width, output width

# All relative: the process models the logarithm of (cost / a bilinear trend).
# docs/decisions/interpolation.md says how much each matters.
_SPREAD = 0.4  # of costs around the trend
_CLASS_SPREAD = 0.3  # of one class of widths as a whole
_NOISE = 0.05  # of one measured point
_LENGTH = 1.0  # over which costs resemble each other, as a share of the full width
_ALIKE = 0.3  # correlation of widths of different classes
_LARGEST_TABLE = 1 << 21  # cells; larger families are answered point by point
_EVIDENCE = 5.0  # by which a step's log density must be better than a simpler one's
MIXING = ("conv", "linear")  # kinds whose every output channel reads many input channels
_ENOUGH_POINTS = 150  # of one family, to find the step
_MOST_POINTS = 700  # that a process is fitted to; the others are only answered as they are


class ChannelStep(NamedTuple):
    """How a device takes widths: in blocks, if they are multiples of the alignment."""

    block: int = 1
    alignment: int = 1

    def classes(self, widths: np.ndarray) -> np.ndarray:
        """0: less than a block, 1: aligned, 2: neither."""
        return np.where(widths < self.block, 0, np.where(widths % self.alignment == 0, 1, 2))

    def blocks(self, widths: np.ndarray) -> np.ndarray:
        """Channels after rounding up to whole blocks."""
        return -(-widths // self.block) * self.block


# Every candidate's alignment divides its block.
STEPS = (
    ChannelStep(1, 1),
    *(ChannelStep(block, a) for block in (4, 8, 16, 32, 64) for a in (1, 2, 4, 8, 16, 32)
      if a <= block),
)  # fmt: skip


class Surface:
    """Answers arrays of widths from a set of measured points."""

    def __init__(
        self,
        points: Mapping[Point, float],
        step: ChannelStep = STEPS[0],
        mixes: bool = False,
        inferred: Iterable[Point] = (),
    ) -> None:
        """`mixes`: each output channel reads many, so that the two widths are independent even
        where all points measured so far have equal ones. `inferred`: points that were not measured
        but are to be answered as they are; they count as interpolated."""
        self.step = step
        self._widths = np.array(list(points), dtype=np.int64)
        self._values = np.array(list(points.values()))
        self._low, self._high = self._widths.min(axis=0), self._widths.max(axis=0)
        self._diagonal = not mixes and bool((self._widths[:, 0] == self._widths[:, 1]).all())
        self._known = np.sort(self._flat(self._widths[:, 0], self._widths[:, 1]))
        order = np.argsort(self._flat(self._widths[:, 0], self._widths[:, 1]))
        self._known_values = self._values[order]
        told = np.array([*inferred], dtype=np.int64).reshape(-1, 2)
        self._inferred = np.isin(self._known, self._flat(told[:, 0], told[:, 1]))

    def __call__(
        self, in_widths: np.ndarray, out_widths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values, interpolated) of the shape of the two arrays; NaN outside what was measured."""
        shape = np.broadcast(in_widths, out_widths).shape
        x = np.broadcast_to(in_widths, shape).ravel()
        y = np.broadcast_to(out_widths, shape).ravel()
        inside = (self._low[0] <= x) & (x <= self._high[0])
        inside &= (self._low[1] <= y) & (y <= self._high[1])
        if self._diagonal:
            inside &= x == y
        position = np.searchsorted(self._known, self._flat(x, y))
        position = np.minimum(position, len(self._known) - 1)
        measured = inside & (self._known[position] == self._flat(x, y))
        values = np.where(measured, self._known_values[position], np.nan)
        open_ = inside & ~measured
        if open_.any():
            values[open_] = self._between(x[open_], y[open_])
        measured &= ~self._inferred[position]
        return values.reshape(shape), ~measured.reshape(shape)

    @property
    def measured_range(self) -> str:
        """The widths between which there are answers, in words."""
        (a, b), (c, d) = zip(self._low, self._high, strict=True)
        return f"{a} … {b} → {c} … {d} channels"

    def relative_spread(self, in_widths: np.ndarray, out_widths: np.ndarray) -> np.ndarray:
        """Relative standard deviation of each answer: (n,); 0 at measured points."""
        across = self._kernel(self._fitted, np.stack([in_widths, out_widths], axis=-1))
        variance = _SPREAD**2 + _CLASS_SPREAD**2 - self._process.explained(across)
        _, interpolated = self(in_widths, out_widths)
        return np.where(interpolated, np.sqrt(np.maximum(variance, 1e-6)), 0.0)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Every fitted point predicted from the others: (relative error, log density), (n,)."""
        errors, variances = self._process.left_out()
        density = -0.5 * (errors**2 / variances + np.log(2 * np.pi * variances))
        return np.expm1(errors), density

    # -- the process ---------------------------------------------------------------------------

    def _flat(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x * (int(self._high[1]) + 1) + y

    def _between(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self._diagonal:
            return self._line[x]
        if np.prod(self._high + 1) <= _LARGEST_TABLE:
            return self._table[x, y]
        return self._answer(np.stack([x, y], axis=-1))

    @cached_property
    def _line(self) -> np.ndarray:
        widths = np.arange(self._high[0] + 1)
        return self._answer(np.stack([widths, widths], axis=-1))

    @cached_property
    def _table(self) -> np.ndarray:
        """Every answer up to the largest widths; the kernel is a product over the two axes."""
        weights = self._process.weights
        xs, ys = (np.arange(high + 1) for high in self._high)
        smooth = self._axis_kernel(0, xs) * weights @ self._axis_kernel(1, ys).T * _SPREAD**2
        same = self._axis_class(0, xs) * weights @ self._axis_class(1, ys).T * _CLASS_SPREAD**2
        mesh = np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1)
        return self._trend(mesh) * np.exp(smooth + same) * self._smearing

    def _answer(self, widths: np.ndarray) -> np.ndarray:
        count = max(1, len(widths) * len(self._fitted) // 4_000_000)
        parts = np.array_split(widths, count)
        logs = [self._process.mean(self._kernel(self._fitted, part)) for part in parts]
        return self._trend(widths) * np.exp(np.concatenate(logs)) * self._smearing

    @cached_property
    def _fitted(self) -> np.ndarray:
        if len(self._widths) <= _MOST_POINTS:
            return self._widths
        kept = np.random.default_rng(0).choice(len(self._widths), _MOST_POINTS, replace=False)
        return self._widths[np.sort(kept)]

    @cached_property
    def _fitted_values(self) -> np.ndarray:
        return self(self._fitted[:, 0], self._fitted[:, 1])[0]

    @cached_property
    def _process(self) -> Conditioned:
        """Logarithms of what the trend leaves of the fitted points."""
        rest = np.log(self._fitted_values / self._trend(self._fitted))
        return Conditioned(self._kernel(self._fitted, self._fitted), _NOISE**2, rest)

    @cached_property
    def _smearing(self) -> float:
        """The exponential of a mean logarithm is a median, and sums need means."""
        errors, _ = self._process.left_out()
        predicted = self._fitted_values * np.exp(errors)
        return float(np.clip(self._fitted_values.sum() / predicted.sum(), 0.8, 1.25))

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        (left_x, left_y), (right_x, right_y) = left.T, right.T
        smooth = _SPREAD**2 * self._alike(0, left_x, right_x) * self._alike(1, left_y, right_y)
        same_class = self._same_class
        same = _CLASS_SPREAD**2 * same_class(left_x, right_x) * same_class(left_y, right_y)
        return smooth + same

    def _axis_kernel(self, axis: int, widths: np.ndarray) -> np.ndarray:
        return self._alike(axis, widths, self._fitted[:, axis])

    def _axis_class(self, axis: int, widths: np.ndarray) -> np.ndarray:
        return self._same_class(widths, self._fitted[:, axis])

    def _alike(self, axis: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        scale = _LENGTH * self._high[axis]
        apart = (left[:, None] - right) / scale
        steps = (self.step.blocks(left)[:, None] - self.step.blocks(right)) / scale
        near = np.exp(-0.5 * (apart**2 + steps**2))
        return near * np.where(self._same_class(left, right), 1.0, _ALIKE)

    def _same_class(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self.step.classes(left)[:, None] == self.step.classes(right)

    # -- the trend -----------------------------------------------------------------------------

    def _trend(self, widths: np.ndarray) -> np.ndarray:
        coefficients, lowest = self._bilinear
        return np.maximum(self._basis(widths) @ coefficients, lowest)

    def _basis(self, widths: np.ndarray) -> np.ndarray:
        aligned = self.step.classes(widths) == 1
        counted = np.where(aligned, self.step.blocks(widths), widths)
        u, v = np.moveaxis(counted / self._high, -1, 0)
        return np.stack([np.ones_like(u), u, v, u * v], axis=-1)

    @cached_property
    def _bilinear(self) -> tuple[np.ndarray, float]:
        """Least squares of relative errors, and the floor below which the trend never goes."""
        relative = self._basis(self._widths) / self._values[:, None]
        gram = relative.T @ relative
        gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
        coefficients = np.linalg.solve(gram, relative.sum(axis=0))
        return coefficients, 0.3 * float(self._values.min())


def find_step(families: Iterable[Mapping[Point, float]]) -> ChannelStep:
    """The channel step under which the families' points predict each other best.

    The score is the leave-one-out log density, summed over all points; of equal scores the
    simpler step wins. Too few points, or none off one grid, tell nothing: then 1.
    """
    measured = [dict(points) for points in families if len(points) >= 8]
    if not measured:
        return STEPS[0]
    seen: dict[tuple, float] = {}  # candidates that these widths cannot tell apart
    best, best_score = STEPS[0], -np.inf
    widths = np.unique(np.concatenate([np.array(list(points)).ravel() for points in measured]))
    measured = [_thinned(points) for points in measured]
    for step in STEPS:
        alike = (tuple(step.classes(widths)), tuple(step.blocks(widths)))
        if alike not in seen:
            seen[alike] = sum(Surface(points, step).left_out()[1].sum() for points in measured)
        if seen[alike] > best_score + _EVIDENCE:
            best, best_score = step, seen[alike]
    return best


def _thinned(points: dict[Point, float]) -> dict[Point, float]:
    if len(points) <= _ENOUGH_POINTS:
        return points
    kept = np.random.default_rng(0).choice(len(points), _ENOUGH_POINTS, replace=False)
    listed = list(points.items())
    return dict(listed[i] for i in sorted(kept))
