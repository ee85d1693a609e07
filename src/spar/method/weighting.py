"""The unified weighting (SPAR 3.2.2): w = exp(A / T) or 1, times 1[A > 0] when hard, of the normalised advantage

    A = (Q_rob(s, a) - Q_rob(s, a_base)) / sigma_Q

over the anchor's action. Anchor and critics are frozen in Stage II, so all of this is computed once for every row of the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

SIGMA_FLOOR = 1e-6
MAX_LOGIT = 80.0  # a float32 exponential beyond this is infinite


@dataclass(frozen=True)
class Config:
    sensitivity: Literal["exp", "uniform"] = "exp"  # exp: Boltzmann weights; uniform: all equal
    filter: Literal["hard", "soft"] = "hard"  # hard: drop actions that are no better than the anchor's
    temperature: float = 1.0  # T
    sigma: Literal["batch", "ensemble", "none"] = "batch"  # sigma_Q: advantage's std over the log, critics' std at (s, a_base), or 1
    clip: float = 100.0  # ceiling of the weight of a logged action


def sigma_q(cfg: Config, advantage: jax.Array, ensemble_std: jax.Array) -> jax.Array:
    """sigma_Q for each of N rows, from their raw advantages (N,) and the critics' std at (s, a_base) (N,)."""
    if cfg.sigma == "ensemble":
        return jnp.maximum(ensemble_std, SIGMA_FLOOR)
    scale = jnp.std(advantage) if cfg.sigma == "batch" else jnp.ones(())
    return jnp.broadcast_to(jnp.maximum(scale, SIGMA_FLOOR), advantage.shape)


def weights(cfg: Config, advantage: jax.Array) -> jax.Array:
    """w of normalised advantages, elementwise, in [0, clip]."""
    ceiling = min(math.log(cfg.clip), MAX_LOGIT)
    w = jnp.exp(jnp.minimum(advantage / cfg.temperature, ceiling)) if cfg.sensitivity == "exp" else jnp.ones_like(advantage)
    return jnp.where(advantage > 0, w, 0.0) if cfg.filter == "hard" else w


def over_candidates(cfg: Config, advantage: jax.Array) -> jax.Array:
    """omega of eq. 9 from normalised advantages of K candidates, (K, B) -> (K, B): a softmax over each column, without a ceiling, which
    would make the best candidates equal. A column whose every candidate the hard filter drops stays 0."""
    logits = advantage / cfg.temperature if cfg.sensitivity == "exp" else jnp.zeros_like(advantage)
    kept = advantage > 0 if cfg.filter == "hard" else jnp.ones_like(advantage, bool)
    return jnp.where(kept.any(0), jax.nn.softmax(jnp.where(kept, logits, -jnp.inf), axis=0), 0.0)
