"""One run for every network: the median of what was not disturbed."""

from __future__ import annotations

import numpy as np

from lookup_tables.noise import attempts_that_count, networks_that_count
from lookup_tables.table.rows import Run


def undisturbed(runs: list[Run]) -> list[Run]:
    """The settled runs that met a quiet moment: at least three quarters of them.

    What never did is dropped, as a GPU's throttled samples are.
    """
    if not runs:
        return runs
    corners = {("design", 0), ("design", 1)}  # the dense and the narrowest: they span the table
    kept = networks_that_count([run.dense_s for run in runs], [run.loudest_s for run in runs])
    return [
        run for run, k in zip(runs, kept, strict=True) if k or (run.purpose, run.run) in corners
    ]


def settle(attempts: list[Run]) -> Run:
    """The median of one architecture's undisturbed attempts."""
    counted = attempts_that_count([attempt.loudest_s for attempt in attempts])
    kept = [attempt for attempt, counts in zip(attempts, counted, strict=True) if counts]
    first = kept[0]
    if len(kept) == 1:
        return first
    dense_s = float(np.median([attempt.dense_s for attempt in kept]))
    ratio = float(np.median([attempt.ratio for attempt in kept]))
    shares = [[entry.seconds / a.dense_s for entry in a.layers] for a in kept]
    layers = [
        entry.model_copy(update={"seconds": float(share) * dense_s})
        for entry, share in zip(first.layers, np.median(shares, axis=0), strict=True)
    ]
    return first.model_copy(
        update={
            "dense_s": dense_s,
            "ratio": ratio,
            "whole_s": ratio * dense_s,
            "layers": tuple(layers),
        }
    )
