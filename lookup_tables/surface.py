"""Surface: one layer family's measured cost over (input width, output width).

Measured points are answered as they are: the staircase is the signal, it is neither smoothed nor
forced to ascend. Between them a declared policy interpolates, and says so; outside the measured
range there is no answer.
"""

from __future__ import annotations

import numpy as np

_ANSWERED_AT_ONCE = 4096  # questions to scattered points: each looks at all of them
Point = tuple[int, int]  # input width, output width


class Surface:
    """Answers arrays of widths from a set of measured points."""

    def __init__(self, points: dict[Point, float]) -> None:
        widths = np.array(list(points), dtype=np.int64)
        self._values = np.array(list(points.values()))
        self._in, self._out = np.unique(widths[:, 0]), np.unique(widths[:, 1])
        self._widths = widths
        self._diagonal = bool((widths[:, 0] == widths[:, 1]).all())
        complete = len(points) == len(self._in) * len(self._out)
        self._grid = self._as_grid() if complete else None
        self._plane = None if complete or self._diagonal else self._fit_plane()

    def __call__(
        self, in_widths: np.ndarray, out_widths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values, interpolated) of the shape of the two arrays; NaN outside what was measured."""
        shape = np.broadcast(in_widths, out_widths).shape
        x = np.broadcast_to(in_widths, shape).ravel()
        y = np.broadcast_to(out_widths, shape).ravel()
        values = self._interpolate(x, y)
        inside = (self._in[0] <= x) & (x <= self._in[-1])
        inside &= (self._out[0] <= y) & (y <= self._out[-1])
        values = np.where(inside, values, np.nan)
        interpolated = ~self._is_measured(x, y)
        return values.reshape(shape), interpolated.reshape(shape)

    @property
    def measured_range(self) -> str:
        """The widths between which there are answers, in words."""
        return f"{self._in[0]} … {self._in[-1]} → {self._out[0]} … {self._out[-1]}"

    def interpolation_errors(self) -> list[float]:
        """Relative errors made at inner measured points when their neighbours must answer."""
        errors = []
        for axis, other in ((0, 1), (1, 0)):
            for fixed in np.unique(self._widths[:, other]):
                line = self._widths[:, other] == fixed
                order = np.argsort(self._widths[line, axis])
                x = self._widths[line, axis][order].astype(float)
                y = self._values[line][order]
                for i in range(1, len(x) - 1):
                    share = (x[i] - x[i - 1]) / (x[i + 1] - x[i - 1])
                    guess = y[i - 1] + share * (y[i + 1] - y[i - 1])
                    errors.append(float(guess / y[i] - 1))
        return errors

    def _is_measured(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        stride = int(self._out[-1]) + 1
        return np.isin(x * stride + y, self._widths[:, 0] * stride + self._widths[:, 1])

    def _as_grid(self) -> np.ndarray:
        grid = np.empty((len(self._in), len(self._out)))
        rows = np.searchsorted(self._in, self._widths[:, 0])
        grid[rows, np.searchsorted(self._out, self._widths[:, 1])] = self._values
        return grid

    def _interpolate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self._grid is not None:
            return _bilinear(self._in, self._out, self._grid, x, y)
        if self._diagonal:
            order = np.argsort(self._widths[:, 0])
            values = np.interp(x, self._widths[order, 0], self._values[order])
            return np.where(x == y, values, np.nan)
        return self._scattered(x, y)

    # Points off a grid (a layer behind a concatenation reads sums of widths): a bilinear surface
    # through all of them, and what it leaves over, weighted by inverse distance.

    def _basis(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = x / self._in[-1], y / self._out[-1]
        return np.stack([np.ones_like(u), u, v, u * v], axis=-1)

    def _fit_plane(self) -> tuple[np.ndarray, np.ndarray]:
        basis = self._basis(self._widths[:, 0], self._widths[:, 1])
        coefficients, *_ = np.linalg.lstsq(basis, self._values, rcond=None)
        return coefficients, self._values - basis @ coefficients

    def _scattered(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        starts = range(0, len(x), _ANSWERED_AT_ONCE)
        parts = [slice(start, start + _ANSWERED_AT_ONCE) for start in starts]
        return np.concatenate([self._scattered_part(x[p], y[p]) for p in parts])

    def _scattered_part(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        coefficients, residuals = self._plane
        scale = np.array([self._in[-1], self._out[-1]])
        here = np.stack([x, y], axis=-1)[:, None, :] / scale
        squared = ((here - self._widths[None] / scale) ** 2).sum(axis=-1)
        weights = 1 / (squared + 1e-9)
        left_over = (weights * residuals).sum(axis=1) / weights.sum(axis=1)
        values = self._basis(x, y) @ coefficients + left_over
        return np.maximum(values, self._values.min())  # an extrapolated corner is never free


def _bilinear(xs, ys, grid, x, y) -> np.ndarray:
    i, u = _cell(xs, x)
    j, v = _cell(ys, y)
    i1, j1 = np.minimum(i + 1, len(xs) - 1), np.minimum(j + 1, len(ys) - 1)
    low = grid[i, j] * (1 - v) + grid[i, j1] * v
    high = grid[i1, j] * (1 - v) + grid[i1, j1] * v
    return low * (1 - u) + high * u


def _cell(knots: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the knot at or below each x, and how far x is towards the next."""
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 1)
    after = np.minimum(i + 1, len(knots) - 1)
    span = np.maximum(knots[after] - knots[i], 1)
    return i, np.clip((x - knots[i]) / span, 0, 1)
