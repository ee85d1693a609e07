"""The geometry of the residuals da = a - pi_base(s) on the log."""

from __future__ import annotations

import numpy as np


def delta_rho(residuals: np.ndarray, rho: float = 0.05) -> float:
    """The smallest radius that holds a fraction 1 - rho of the residuals (N, A), by Euclidean norm (SPAR eq. 3)."""
    return float(np.quantile(np.linalg.norm(residuals, axis=-1), 1.0 - rho, method="inverted_cdf"))


def spectrum(residuals: np.ndarray) -> np.ndarray:
    """(A,) shares of the variance of residuals (N, A) along its principal directions, descending; all 0 where nothing varies."""
    variance = np.sort(np.linalg.eigvalsh(np.cov(residuals.T).reshape(residuals.shape[1], -1)))[::-1]
    return np.maximum(variance, 0.0) / max(float(variance.sum()), 1e-12)
