"""The geometry of the residuals da = a - pi_base(s) on the log."""

from __future__ import annotations

import numpy as np

PAIRS = 20_000  # of logged actions whose distance is measured


def delta_rho(residuals: np.ndarray, rho: float = 0.05) -> float:
    """The smallest radius that holds a fraction 1 - rho of the residuals (N, A), by Euclidean norm (SPAR eq. 3)."""
    return float(np.quantile(np.linalg.norm(residuals, axis=-1), 1.0 - rho, method="inverted_cdf"))


def spectrum(residuals: np.ndarray) -> np.ndarray:
    """(A,) shares of the variance of residuals (N, A) along its principal directions, descending; all 0 where nothing varies."""
    variance = np.sort(np.linalg.eigvalsh(np.cov(residuals.T).reshape(residuals.shape[1], -1)))[::-1]
    return np.maximum(variance, 0.0) / max(float(variance.sum()), 1e-12)


def random_pairs(count: int, pairs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices (pairs,) of two different ones among `count`, drawn uniformly; of one alone, itself."""
    first = rng.integers(count, size=pairs)
    return first, (first + rng.integers(1, max(count, 2), size=pairs)) % count


def differences(actions: np.ndarray, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """x - y (pairs, A) of random pairs of logged actions (N, A); `delta_rho` of them is the effective diameter D_A (SPAR 3.2.1, Figure 4),
    whose supremum the paper defines before it cuts the tail."""
    first, second = random_pairs(len(actions), pairs, rng)
    return np.asarray(actions[first] - actions[second])
