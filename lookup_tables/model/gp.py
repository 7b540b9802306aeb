"""Conditioned: a Gaussian process that has seen values; surfaces, priors and searches share it.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006): prediction, equations
2.25 and 2.26; evidence, 2.30; leave one out, 5.10 to 5.12. The kernel is whoever asks' own.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np


class Conditioned:
    """A zero-mean process, conditioned on noisy values at n points."""

    def __init__(
        self, gram: np.ndarray, noise_variance: np.ndarray | float, values: np.ndarray
    ) -> None:
        """`gram`: (n, n) covariance of the points; `noise_variance`: (n,) or one for all;
        `values`: (n,) what was seen, less the mean."""
        self.values = values
        noise = np.broadcast_to(noise_variance, len(values))
        self._lower = np.linalg.cholesky(gram + np.diag(noise))

    @cached_property
    def inverse(self) -> np.ndarray:
        """(n, n): of the covariance, noise included."""
        half = np.linalg.solve(self._lower, np.eye(len(self.values)))
        return half.T @ half

    @cached_property
    def weights(self) -> np.ndarray:
        """(n,): the mean at other points is the weighted sum of their covariances with these."""
        return self.inverse @ self.values

    def mean(self, across: np.ndarray) -> np.ndarray:
        """(m,) at m points; `across`: (n, m), the covariance of the seen ones with them."""
        return self.weights @ across

    def explained(self, across: np.ndarray) -> np.ndarray:
        """(m,) variance that seeing the values takes away, at m points; `across`: (n, m)."""
        return (across * (self.inverse @ across)).sum(axis=0)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every point, predicted from the others: its error (n,), and that error's variance."""
        variances = 1 / np.diag(self.inverse)
        return -self.weights * variances, variances

    def log_evidence(self) -> float:
        """How likely the values are, as a logarithm, but for a constant."""
        white = np.linalg.solve(self._lower, self.values)
        return -0.5 * float(white @ white) - float(np.log(np.diag(self._lower)).sum())
