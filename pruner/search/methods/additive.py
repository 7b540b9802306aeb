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
from scipy.linalg import block_diag

from lookup_tables.model.gp import Conditioned
from pruner.search.completion import Completion
from pruner.search.problem import log_accuracy

DENSE_DOUBT = 0.1  # about the dense network's own loss
FLOOR = 0.1  # of a decision's mean importance: by so much every option is in doubt
LEAST_SCALE = 1e-3  # where nothing was lost yet, what is important still is
RIDGE = (1e-6, 1e-2)  # on the scale and on the dense network's loss


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
        for index in range(len(completion.decisions)):
            block = completion.space.block_around(index)
            if block is not None:  # a removed block gives up what is inside of it
                given_up[block][0] += values[index][-1]
        self._given_up = np.append(np.concatenate(given_up), 0.0)
        # Losses = expected + scale · (together · whole @ z + stepwise · steps @ z'), z, z' normal.
        whole, steps = zip(*map(_doubts, given_up), strict=True)
        self._whole = block_diag(*whole, np.zeros((1, 0)))
        self._steps = block_diag(*steps, np.zeros((1, 0)))
        self._rows: list[np.ndarray] = []
        self._losses: list[float] = []
        self._spreads = Spreads(1.0, 1.0, 0.1)

    def observe(self, positions: Sequence[int], accuracy: float) -> None:
        """An architecture was scored; to be told once."""
        row = np.zeros(len(self._given_up))
        for index, position in enumerate(positions):
            row[self._starts[index] + position] = not self._completion.is_gone(index, positions)
        row[-1] = 1.0
        self._rows.append(row)
        self._losses.append(-log_accuracy(accuracy))

    def fit(self) -> None:
        """Choose the spreads under which what was observed is likeliest."""
        rows = np.array(self._rows)
        whole, steps = ((rows @ p) @ (rows @ p).T for p in (self._whole, self._steps))
        scale, surprise = self._scale_and_dense()[0], self._surprise()

        def log_likelihood(spreads: Spreads) -> float:
            varied = spreads.together**2 * whole + spreads.stepwise**2 * steps
            varied = scale**2 * varied + DENSE_DOUBT**2
            return Conditioned(varied, self._noise_variance(spreads), surprise).log_evidence()

        self._spreads = max(GRID, key=log_likelihood)

    def draw(self, rng: np.random.Generator, temperature: float) -> list[np.ndarray]:
        """What options may be worth, given what was observed: for every decision (options,)."""
        losses, _ = self.draw_losses(rng, temperature)
        return self.worth_of(losses)

    def draw_losses(
        self, rng: np.random.Generator, temperature: float
    ) -> tuple[list[np.ndarray], float]:
        """What options may lose of log accuracy, for every decision (options,), and the dense
        network's own loss. Losses are never below 0, never smaller where less is kept.

        The posterior's mean and, `temperature` times, a draw's distance from it. The draw is one
        from the prior, corrected by what it gets wrong where something was observed (Wilson et
        al. 2021, "Pathwise Conditioning of Gaussian Processes", arXiv 2011.04026, equation 4).
        """
        rows, roots = np.array(self._rows), self._prior_roots()
        seen = rows @ roots
        away = roots @ rng.standard_normal(roots.shape[1])
        noise_variance = self._noise_variance(self._spreads)
        wrong = rows @ away + np.sqrt(noise_variance) * rng.standard_normal(len(rows))
        right = self._surprise() - temperature * wrong
        expected = self._expected() + temperature * away
        weights = Conditioned(seen @ seen.T, noise_variance, right).weights
        *losses, dense = expected + roots @ (seen.T @ weights)
        parts = np.split(np.array(losses), self._starts[1:-1])
        return [np.maximum.accumulate(np.maximum(p, 0.0)[::-1])[::-1] for p in parts], float(dense)

    def worth_of(self, losses: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Losses as worth, all of it about 1: for every decision (options,)."""
        total = max(sum(part.max() for part in losses), 1e-12)
        values = [(part.max() - part) / total for part in losses]
        for index in range(len(values)):
            block = self._completion.space.block_around(index)
            if block is not None:  # it counts only where the block stays
                values[block][1] -= values[index][-1]
        return values

    def _scale_and_dense(self) -> tuple[float, float]:
        """(loss for a unit of importance, the dense network's own loss), by least squares."""
        rows = np.array(self._rows)
        columns = np.column_stack([rows @ self._given_up, np.ones(len(rows))])
        scale, dense = np.linalg.solve(
            columns.T @ columns + np.diag(RIDGE), columns.T @ self._losses
        )
        return max(float(scale), LEAST_SCALE), float(dense)

    def _expected(self) -> np.ndarray:
        """Every option's loss if importance were all there is to know."""
        scale, dense = self._scale_and_dense()
        return np.append(scale * self._given_up[:-1], dense)

    def _surprise(self) -> np.ndarray:
        """What was observed, less what was expected."""
        return np.array(self._losses) - np.array(self._rows) @ self._expected()

    def _prior_roots(self) -> np.ndarray:
        """A square root of the prior covariance: (entries, unknowns)."""
        scale, _ = self._scale_and_dense()
        dense = np.zeros((len(self._given_up), 1))
        dense[-1] = DENSE_DOUBT
        whole, steps = scale * self._spreads.together, scale * self._spreads.stepwise
        return np.hstack([whole * self._whole, steps * self._steps, dense])

    def _noise_variance(self, spreads: Spreads) -> float:
        return (spreads.noise * max(float(np.mean(self._losses)), LEAST_SCALE)) ** 2


def _doubts(given_up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How one decision's losses vary: as a whole (options, 1), and by steps (options, steps)."""
    doubt = given_up + FLOOR * given_up.mean()
    doubt[-1] = 0.0
    steps = -np.diff(doubt)  # from every option to the next wider one
    return doubt[:, None], np.triu(np.tile(steps, (len(doubt), 1)))
