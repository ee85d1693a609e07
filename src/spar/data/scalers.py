"""The one normalisation object: used in training, evaluation and the exported policy alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spar.data.blocks import gather, spans

STD_FLOOR = 1e-3  # CORL's and d3rlpy's; LAPO's code has 1e-6 for observations
ROUNDING = 1e-5  # of a value, that `out_of_range` forgives: float32 keeps seven digits


class Scaler(NamedTuple):
    """Observations to zero mean and unit variance; actions between the user's box [low, high] and [-1, 1]."""

    obs_mean: np.ndarray  # (obs_dim,)
    obs_std: np.ndarray  # (obs_dim,), the floor STD_FLOOR already added
    obs_low: np.ndarray  # (obs_dim,) smallest logged value
    obs_high: np.ndarray  # (obs_dim,) largest logged value
    action_low: np.ndarray  # (act_dim,)
    action_high: np.ndarray  # (act_dim,)
    obs_typical: np.ndarray  # (obs_dim,) the logged mean, whether or not observations are standardised: what stands in for a broken sensor

    @classmethod
    def fit(
        cls, observations: np.ndarray, index: np.ndarray, action_low: np.ndarray, action_high: np.ndarray, standardise: bool = True
    ) -> Scaler:
        """Statistics of the rows `index` (T,), nondecreasing, of `observations` (N, obs_dim), read in blocks; with `standardise` off,
        mean 0 and scale 1. Bounds between two float32 numbers become the nearer one."""
        dim = observations.shape[1]
        total, squares = np.zeros(dim), np.zeros(dim)
        low, high = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
        blocks = [index[span] for span in spans(len(index), dim)]
        for part in blocks:
            rows = gather(observations, part)
            total += rows.sum(0, dtype=np.float64)
            low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
        typical = total / len(index)
        mean, std = np.zeros(dim), np.ones(dim)
        if standardise:
            mean = typical
            for part in blocks:
                squares += ((gather(observations, part) - mean) ** 2).sum(0)
            std = np.sqrt(squares / len(index)) + STD_FLOOR
        return cls(*(np.asarray(column, np.float32) for column in (mean, std, low, high, action_low, action_high, typical)))

    def fault(self) -> str | None:
        """What makes it unusable, if anything."""
        dims = {"obs": len(np.ravel(self.obs_mean)), "action": len(np.ravel(self.action_low))}
        for name, value in self._asdict().items():
            if np.shape(value) != (dims[name.split("_")[0]],):
                return f"'scaler/{name}' has shape {np.shape(value)}, expected ({dims[name.split('_')[0]]},)"
            if not np.isfinite(value).all():
                return f"'scaler/{name}' holds non-finite numbers"
        if not (self.obs_std > 0).all():
            return "'scaler/obs_std' is not positive everywhere"
        if not ((self.obs_low <= self.obs_high).all() and (self.action_low < self.action_high).all()):
            return "a lower bound in 'scaler/' is not below its upper one"
        with np.errstate(over="ignore"):
            widths = [self.obs_high - self.obs_low, 2 * (self.action_high - self.action_low)]
        return None if all(np.isfinite(width).all() for width in widths) else "bounds in 'scaler/' lie too far apart for float32"

    def obs_in(self, obs: np.ndarray) -> np.ndarray:
        """(..., obs_dim) in the user's units -> standardised float32."""
        return ((np.asarray(obs, np.float32) - self.obs_mean) / self.obs_std).astype(np.float32)

    def action_in(self, action: np.ndarray) -> np.ndarray:
        """(..., act_dim) in the user's box -> [-1, 1] float32."""
        span = self.action_high - self.action_low
        return (2 * (np.asarray(action, np.float32) - self.action_low) / span - 1).astype(np.float32)

    def action_out(self, action: np.ndarray) -> np.ndarray:
        """(..., act_dim) in [-1, 1] -> the user's box, clipped to it."""
        scaled = self.action_low + (np.asarray(action, np.float32) + 1) * 0.5 * (self.action_high - self.action_low)
        return np.clip(scaled, self.action_low, self.action_high).astype(np.float32)

    def out_of_range(self, obs: np.ndarray, margin: float) -> np.ndarray:
        """(B, obs_dim) -> (B,) bool: farther outside the logged range, in any dimension, than `margin` times its width; where that is 0,
        than STD_FLOOR. None is with an infinite margin."""
        if np.isinf(margin):
            return np.zeros(len(obs), bool)
        width = self.obs_high - self.obs_low
        slack = np.where(width > 0, margin * width, STD_FLOOR) + ROUNDING * np.maximum(np.abs(self.obs_low), np.abs(self.obs_high))
        return ((obs < self.obs_low - slack) | (obs > self.obs_high + slack)).any(-1)
