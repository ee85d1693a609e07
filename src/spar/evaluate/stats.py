"""What returns over seeds and episodes say: means, interquartile means, probabilities of improvement and performance profiles (Agarwal et
al. 2021), with 95 % bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

RESAMPLES, BLOCK = 10_000, 1000


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


class Profile(NamedTuple):
    """Shares of episodes with a return above each threshold, all (T,)."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return values.mean(-1)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: the mean of what is left when a quarter, rounded down, is cut from each end."""
    count = values.shape[-1]
    return np.sort(values, axis=-1)[..., count // 4 : count - count // 4].mean(-1)


def bootstrap(values: np.ndarray, level: float = 0.95, seed: int = 0, statistic: Callable[[np.ndarray], np.ndarray] = mean) -> Interval:
    """Percentile interval of a statistic, by default the mean, of `values`, (S, E) or (E,); the field `mean` is the statistic itself.

    Seeds are resampled, and start states, the same for all seeds: equal places in the rows began alike (Agarwal et al. 2021 resample
    runs likewise). With one seed the interval covers the start states only, not the spread between seeds.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    found = np.concatenate([statistic(table.ravel()[index]) for index in _resampled(table.shape, seed)])
    low, high = _limits(found, level)
    return Interval(float(statistic(table.ravel())), float(low), float(high))


def paired_gain(policy: np.ndarray, anchor: np.ndarray) -> Interval:
    """The gain of `policy` over `anchor`, both (S, E) with equal start states at equal places: the bootstrap's interval or Student's, over
    seeds and start states, where that is wider. Of three seeds that agree by chance every resample agrees."""
    gain = np.atleast_2d(np.asarray(policy, np.float64) - np.asarray(anchor, np.float64))
    found, (half, _) = bootstrap(gain), student(gain.mean(1), float(gain.mean()), starts=gain.mean(0))
    return Interval(found.mean, min(found.low, found.mean - half), max(found.high, found.mean + half))


def student(seeds: np.ndarray, mean: float, error: float = 0.05, starts: np.ndarray | None = None) -> tuple[float, float]:
    """Half the interval of `mean` by Student's t from one value a seed (S,), and the one-sided p-value of its being below 0; of one
    seed, or of values that are all equal, 0 and 0: they say nothing of their spread.

    With `starts`, one value a start state (E,), the wider of that and of the interval whose variance is the sum of both means' variances,
    its degrees of freedom after Welch and Satterthwaite: a few start states that all seeds share are a small sample too. Where seeds or
    start states scatter, alone or together, 3 x 10 returns then cover their mean 94 to 96 times in a hundred, one seed's ten alike.
    """
    over_seeds, over_starts = (
        [(float(np.var(group, ddof=1)) / len(group), len(group) - 1)] if group is not None and len(group) > 1 else []
        for group in (seeds, starts)
    )
    found = [_t(variances, mean, error) for variances in (over_seeds, [*over_seeds, *over_starts])]
    return max(half for half, _ in found), max(tail for _, tail in found)


def _t(variances: list[tuple[float, int]], mean: float, error: float) -> tuple[float, float]:
    """From variances of means, each with its degrees of freedom."""
    from scipy.stats import t

    scale = sum(variance for variance, _ in variances) ** 0.5
    if scale <= 1e-12 * max(1.0, abs(mean)):
        return 0.0, 0.0
    freedom = scale**4 / sum(variance**2 / freedom for variance, freedom in variances)
    return float(t.ppf(1 - error / 2, freedom)) * scale, float(t.sf(-mean / scale, freedom))


def probability_of_improvement(policy: np.ndarray, base: np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """P(X > Y) + P(X = Y) / 2 for an episode X of `policy`, (S, E), and Y of `base`, (S', E'): the Mann-Whitney statistic over its
    maximum. Above 1/2: `policy` returns more, more often. Both are resampled, alike where they have equal seeds and start states, as
    their equal shapes say."""
    ours, theirs = (np.atleast_2d(np.asarray(table, np.float64)) for table in (policy, base))
    difference = ours.reshape(-1, 1) - theirs.reshape(1, -1)
    wins = (np.sign(difference) + 1) / 2
    found = ((_counts(ours.shape, seed) @ wins) * _counts(theirs.shape, seed + (ours.shape != theirs.shape))).sum(1)
    low, high = _limits(found / wins.size, level)
    return Interval(float(wins.mean()), float(low), float(high))


def performance_profile(values: np.ndarray, thresholds: np.ndarray, level: float = 0.95, seed: int = 0) -> Profile:
    """The share of episodes of `values`, (S, E) or (E,), that return more than each of `thresholds`, (T,), with pointwise intervals."""
    table = np.atleast_2d(np.asarray(values, np.float64))
    above = (table.reshape(-1, 1) > np.asarray(thresholds)).astype(np.float64)
    return Profile(above.mean(0), *_limits(_counts(table.shape, seed) @ above / table.size, level))


def _resampled(shape: tuple[int, ...], seed: int) -> Iterator[np.ndarray]:
    """RESAMPLES resamples of a table (S, E), rows and columns drawn apart, in blocks: indices (BLOCK, S * E) into the flat table."""
    rng, (seeds, episodes) = np.random.default_rng(seed), shape
    for _ in range(RESAMPLES // BLOCK):
        rows = rng.integers(seeds, size=(BLOCK, seeds, 1))
        columns = rng.integers(episodes, size=(BLOCK, 1, episodes))
        yield (rows * episodes + columns).reshape(BLOCK, -1)


def _counts(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(RESAMPLES, S * E): how often each entry of a table (S, E) is in each resample."""
    size = shape[0] * shape[1]
    first = np.arange(BLOCK)[:, None] * size
    counts = [np.bincount((first + index).ravel(), minlength=BLOCK * size) for index in _resampled(shape, seed)]
    return np.concatenate(counts).reshape(-1, size).astype(np.float64)


def _limits(found: np.ndarray, level: float) -> np.ndarray:
    """Lower and upper limit of the percentile interval, over the first axis."""
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
