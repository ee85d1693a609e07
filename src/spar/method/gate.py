"""Stage III: apply the residual only where the critics predict a robust gain (SPAR 3.3, eq. 12, Algorithm 5).

Written once for NumPy and JAX arrays alike: the deployed policy, which has no JAX, runs this very function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

Array = Any  # numpy.ndarray or jax.Array


@dataclass(frozen=True)
class Config:
    eta_abs: float = 1e-4  # accept only if the gain exceeds this; -inf with eta_rel -inf: always the residual, inf: always the anchor
    eta_rel: float = 0.01  # and gain / (|Q_rob(s, a_base)| + eps) exceeds this
    eps: float = 1e-8  # in that denominator
    candidates: int = 10  # K residuals to choose from (a deterministic residual has one)
    obs_margin: float = 1.0  # an observation farther outside the logged range than this many of its widths yields the anchor's action


ALWAYS_RESIDUAL = {"eta_abs": -math.inf, "eta_rel": -math.inf}
UNGATED = {**ALWAYS_RESIDUAL, "obs_margin": math.inf}  # the paper's policy without Stage III, which has no guard of observations either
ALWAYS_ANCHOR = {"eta_abs": math.inf, "eta_rel": math.inf}


class Verdict(NamedTuple):
    best: Array  # (B,) index of the best finite candidate
    accepted: Array  # (B,) bool
    gain: Array  # (B,) Q_rob(s, a_best) - Q_rob(s, a_base); not finite where the scores are not


def rectify(cfg: Config, q_anchor: Array, q_candidates: Array) -> Verdict:
    """The best of K candidates by its gain over the anchor: Q_rob (B,) and (K, B) -> verdict.

    Candidates must have been clipped to the action box before they were scored. A non-finite score is never accepted.
    """
    xp = q_candidates.__array_namespace__()
    gains = q_candidates - q_anchor[None]
    gains = xp.where(xp.isfinite(gains), gains, -xp.inf)
    best, gain = xp.argmax(gains, axis=0), xp.max(gains, axis=0)
    relative = gain / (xp.abs(q_anchor) + cfg.eps)
    accepted = xp.isfinite(gain) & (gain > cfg.eta_abs) & (relative > cfg.eta_rel)
    return Verdict(best, accepted, gain)
