"""What every option costs in accuracy, learned from whole networks: an additive Gaussian model.

log accuracy = log dense accuracy − Σ losses of the options taken. Before anything was scored a loss
is Gaussian, its mean proportional to the importance that the option gives up; a decision's losses
vary together (its importance may be wrong as a whole) and step by step (so may its shape). This is
a Gaussian process with an additive kernel (Duvenaud et al. 2011, "Additive Gaussian Processes",
arXiv 1112.4394), small enough to be conditioned exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag, cholesky, solve_triangular

from pruner.completion import Completion

LEAST = 1e-3  # an accuracy below this is taken for it: its logarithm would drown the others
DENSE_LOSS = 0.1  # about the log of the dense network's accuracy
FLOOR = 0.1  # of a decision's mean importance: by so much every option is in doubt


class Spreads(NamedTuple):
    """Relative: of a decision's importance as a whole, of its steps, and of all that is left."""

    together: float
    stepwise: float
    noise: float


RELATIVE, NOISE = (0.25, 0.5, 1.0, 2.0, 4.0), (0.01, 0.03, 0.1, 0.3)
GRID = [Spreads(*spreads) for spreads in product(RELATIVE, RELATIVE, NOISE)]


class AdditiveLosses:
    """Losses of all options, decision after decision; the last entry is the dense network's."""

    def __init__(self, completion: Completion, values: Sequence[np.ndarray]) -> None:
        """`values`: for every decision the importance of its options, as `knapsack.worth` gives."""
        self._completion = completion
        self._starts = np.cumsum([0, *(len(value) for value in values)])
        given_up = [value[-1] - value for value in values]
        for index, choice in enumerate(completion.choices):
            if choice.inside is not None:  # a removed block gives up what is inside of it
                given_up[choice.inside][0] += values[index][-1]
        self._given_up = np.append(np.concatenate(given_up), 0.0)
        together, stepwise = zip(*map(_doubts, given_up), strict=True)
        self._together = block_diag(*together, 0.0)
        self._stepwise = block_diag(*stepwise, 0.0)
        self._rows: list[np.ndarray] = []
        self._losses: list[float] = []
        self._spreads = Spreads(1.0, 1.0, 0.1)

    def observe(self, positions: Sequence[int], accuracy: float) -> None:
        """An architecture was scored."""
        row = np.zeros(len(self._given_up))
        for index, position in enumerate(positions):
            row[self._starts[index] + position] = not self._completion.is_gone(index, positions)
        row[-1] = 1.0
        self._rows.append(row)
        self._losses.append(-float(np.log(max(accuracy, LEAST))))

    def fit(self) -> None:
        """Choose the spreads under which what was observed is likeliest."""
        rows = np.array(self._rows)
        together, stepwise = (rows @ p @ rows.T for p in (self._together, self._stepwise))
        surprise = self._surprise()

        def log_likelihood(spreads: Spreads) -> float:
            varied = self._mixed(spreads, together, stepwise) + DENSE_LOSS**2
            lower = cholesky(varied + self._noise(spreads), lower=True)
            white = solve_triangular(lower, surprise, lower=True)
            return -0.5 * float(white @ white) - float(np.log(np.diag(lower)).sum())

        self._spreads = max(GRID, key=log_likelihood)

    def draw(self, rng: np.random.Generator, temperature: float) -> list[np.ndarray]:
        """What options may be worth, given what was observed: for every decision (options,).

        A draw from the posterior, its distance from the mean times `temperature`.
        """
        rows, prior = np.array(self._rows), self._prior()
        lower = cholesky(rows @ prior @ rows.T + self._noise(self._spreads), lower=True)
        white = solve_triangular(lower, rows @ prior, lower=True)
        gain = solve_triangular(lower, self._surprise(), lower=True)
        losses = self._scale() * self._given_up + white.T @ gain
        size, vectors = np.linalg.eigh(prior - white.T @ white)
        away = np.sqrt(np.maximum(size, 0.0)) * rng.standard_normal(len(size))
        return self._values(losses + temperature * vectors @ away)

    def _values(self, losses: np.ndarray) -> list[np.ndarray]:
        """Losses as worth: never below 0, never smaller where less is kept."""
        parts = np.split(losses[:-1], self._starts[1:-1])
        parts = [np.maximum.accumulate(np.maximum(part, 0.0)[::-1])[::-1] for part in parts]
        values = [part.max() - part for part in parts]
        for index, choice in enumerate(self._completion.choices):
            if choice.inside is not None:  # it counts only where the block stays
                values[choice.inside][1] -= values[index][-1]
        return values

    def _scale(self) -> float:
        """Loss for a unit of importance: least squares over what was observed."""
        expected = np.array(self._rows) @ self._given_up
        return float(expected @ self._losses / max(expected @ expected, 1e-12))

    def _surprise(self) -> np.ndarray:
        """Losses observed, less what the importance given up lets one expect."""
        return np.array(self._losses) - self._scale() * np.array(self._rows) @ self._given_up

    def _prior(self) -> np.ndarray:
        covariance = self._mixed(self._spreads, self._together, self._stepwise)
        covariance[-1, -1] = DENSE_LOSS**2
        return covariance

    def _mixed(self, spreads: Spreads, together: np.ndarray, stepwise: np.ndarray) -> np.ndarray:
        relative = spreads.together**2 * together + spreads.stepwise**2 * stepwise
        return self._scale() ** 2 * relative

    def _noise(self, spreads: Spreads) -> np.ndarray:
        unit = max(float(np.mean(self._losses)), 1e-3)
        return (spreads.noise * unit) ** 2 * np.eye(len(self._losses))


def _doubts(given_up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of one decision's losses (options, options): as a whole, and step by step."""
    doubt = given_up + FLOOR * given_up.mean()
    doubt[-1] = 0.0
    steps = np.append(np.diff(doubt), 0.0) ** 2  # from every option to the next wider one
    shared = np.cumsum(steps[::-1])[::-1]  # by the losses of two options: all steps above both
    positions = np.arange(len(doubt))
    return np.outer(doubt, doubt), shared[np.maximum.outer(positions, positions)]
