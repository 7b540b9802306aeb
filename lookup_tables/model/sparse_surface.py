"""What one family of sparse layers costs, as a function of its two widths and its density.

A convolution that leaves out weights takes a time for being called, one for every output that it
writes and one for every weight that it keeps: a straight line in (1, y, x · y · d) for x channels
in, y channels out in whole blocks, and the density d. What is left of that, a few percent, follows
a Gaussian process over the three (`gp.py`). Layers of one family were measured in many networks at
many densities, so an answer is that of the process and not of a single noisy measurement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from lookup_tables.model.gp import Conditioned

Point = tuple[int, int, float]  # input width, output width, density

# Relative: the process models cost / the line − 1, not its logarithm, because the smallest layers
# are measured with as much noise as time, and the mean of logarithms is not that of what adds up.
_SPREAD = 0.15  # of costs around the line
_NOISE, _NOISE_S = 0.03, 0.5e-6  # of one measured point: a share, and what its clock resolves
_LEAST = 0.05  # of the line: no answer is less
_LENGTHS = np.array([1.0, 1.0, 0.7])  # in shares of the full widths, and of density
_OF_A_GRID = 4  # points that have a value, before it counts as one that was meant to be measured
_MOST_POINTS = 700  # that the process is fitted to
_AT_ONCE = 4_000_000  # entries of a kernel


class SparseSurface:
    """Answers arrays of widths and densities from a set of measured points."""

    def __init__(self, points: Mapping[Point, float], block: int) -> None:
        """`points`: seconds, which may be 0 or less for what a clock hardly saw.

        `block`: output channels whose weights are kept together.
        """
        self._block = block
        self._points = np.array([*points], dtype=float)
        self._values = np.array([*points.values()])
        self._low, self._high = self._points.min(axis=0), self._points.max(axis=0)
        self._grid = [
            np.array([v for v, n in Counter(column).items() if n >= _OF_A_GRID])
            for column in self._points.T.tolist()
        ]

    def __call__(
        self, in_widths: np.ndarray, out_widths: np.ndarray, density: np.ndarray | float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values, interpolated) of the arrays' shape; NaN outside what was measured."""
        columns = np.broadcast_arrays(in_widths, out_widths, density)
        shape = columns[0].shape
        asked = np.stack([column.ravel() for column in columns], axis=-1).astype(float)
        inside = ((self._low - 1e-9 <= asked) & (asked <= self._high + 1e-9)).all(axis=-1)
        values = np.full(len(asked), np.nan)
        if inside.any():
            values[inside] = self._answer(asked[inside])
        on_grid = np.all(
            [np.isin(column, grid) for column, grid in zip(asked.T, self._grid, strict=True)],
            axis=0,
        )
        return values.reshape(shape), ~on_grid.reshape(shape)

    @property
    def measured_range(self) -> str:
        """Between which widths and densities there are answers, in words."""
        (a, c, e), (b, d, f) = self._low, self._high
        return f"{a:.0f} … {b:.0f} → {c:.0f} … {d:.0f} channels at densities {e:.2g} … {f:.2g}"

    def relative_spread(
        self, in_widths: np.ndarray, out_widths: np.ndarray, density: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Relative standard deviation of each answer: (n,)."""
        asked = np.stack(np.broadcast_arrays(in_widths, out_widths, density), axis=-1).astype(float)
        variance = _SPREAD**2 - self._process.explained(self._kernel(self._fitted, asked))
        return np.sqrt(np.maximum(variance, 1e-6))

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Every fitted point predicted from the others: (relative error, log density), (n,)."""
        errors, variances = self._process.left_out()
        likely = -0.5 * (errors**2 / variances + np.log(2 * np.pi * variances))
        return errors, likely

    # -- the line and the process --------------------------------------------------------------

    def _answer(self, asked: np.ndarray) -> np.ndarray:
        parts = np.array_split(asked, max(1, len(asked) * len(self._fitted) // _AT_ONCE))
        rest = [self._process.mean(self._kernel(self._fitted, part)) for part in parts]
        return self._line(asked) * np.maximum(1 + np.concatenate(rest), _LEAST)

    def _features(self, points: np.ndarray) -> np.ndarray:
        """Widths as shares of the widest, the output's in whole blocks; and densities."""
        x, y, density = points.T
        whole = np.ceil(y / self._block) * self._block
        top = np.ceil(self._high[1] / self._block) * self._block
        return np.stack([x / self._high[0], whole / top, density], axis=-1)

    def _line(self, points: np.ndarray) -> np.ndarray:
        coefficients, lowest = self._fit
        return np.maximum(self._basis(points) @ coefficients, lowest)

    def _basis(self, points: np.ndarray) -> np.ndarray:
        u, v, d = self._features(points).T
        return np.stack([np.ones_like(u), v, u * v * d], axis=-1)

    @cached_property
    def _fit(self) -> tuple[np.ndarray, float]:
        """Least squares, each point by its noise, and the floor below which the line never goes."""
        basis = self._basis(self._points)
        usual = max(float(np.median(self._values)), _NOISE_S)
        lowest = _LEAST * usual
        line = np.full(len(basis), usual)
        for _ in range(4):  # the noise depends on the line
            weighted = basis / _noise_s(line)[:, None]
            gram = weighted.T @ weighted
            gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
            target = weighted.T @ (self._values / _noise_s(line))
            coefficients = np.linalg.solve(gram, target)
            line = np.maximum(basis @ coefficients, lowest)
        return coefficients, lowest

    @cached_property
    def _chosen(self) -> np.ndarray:
        if len(self._points) <= _MOST_POINTS:
            return np.arange(len(self._points))
        rng = np.random.default_rng(0)
        return np.sort(rng.choice(len(self._points), _MOST_POINTS, replace=False))

    @property
    def _fitted(self) -> np.ndarray:
        return self._points[self._chosen]

    @cached_property
    def _process(self) -> Conditioned:
        """What the line leaves of the fitted points, as a share of it."""
        line = self._line(self._fitted)
        rest = self._values[self._chosen] / line - 1
        noise = (_noise_s(line) / line) ** 2
        return Conditioned(self._kernel(self._fitted, self._fitted), noise, rest)

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        a, b = (self._features(points) / _LENGTHS for points in (left, right))
        apart = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
        return _SPREAD**2 * np.exp(-0.5 * apart)


def _noise_s(line: np.ndarray) -> np.ndarray:
    """Standard deviation of one measured point, by what it should have been."""
    return np.hypot(_NOISE * line, _NOISE_S)
