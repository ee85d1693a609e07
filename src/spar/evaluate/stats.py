"""Means with 95 % bootstrap intervals over seeds and episodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile interval of the mean of `values`, (S, E) or (E,).

    Two-level: seeds are resampled, then episodes within each (Agarwal et al. 2021 resample runs likewise). With one seed the interval
    covers the episodes only, not the spread between seeds.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    rng, (seeds, episodes) = np.random.default_rng(seed), table.shape
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 1000):
        rows = rng.integers(seeds, size=(1000, seeds, 1))
        columns = rng.integers(episodes, size=(1000, seeds, episodes))
        means[start : start + 1000] = table[rows, columns].mean((1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(table.mean()), float(low), float(high))


def paired_gain(policy: np.ndarray, anchor: np.ndarray) -> Interval:
    """The gain of `policy` over `anchor`, both (S, E) with equal start states at equal places."""
    return bootstrap(np.asarray(policy) - np.asarray(anchor))
