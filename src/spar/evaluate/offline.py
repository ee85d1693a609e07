"""What can be known without a simulator: action error, predicted gain and acceptance on logged states."""

from __future__ import annotations

import numpy as np

from spar.data.episodes import Log
from spar.deploy.policy import Policy
from spar.method import topology
from spar.types import SparError

MAX_ROWS = 5000
BLOCK_ROWS = 8192  # acted on at a time
RESIDUAL_ROWS = 200_000  # of the log that its residuals are measured on, evenly spaced, where there are more


def measure(policy: Policy, log: Log, seed: int = 0) -> dict[str, float]:
    """Means over at most MAX_ROWS logged states of `log` (use held-out episodes):

    action_rmse: root mean squared difference of the anchor's and the logged action, in the user's units. acceptance: share of states
    where the gate applies the residual. predicted_gain: mean predicted gain of the policy over the anchor (0 where it defers).
    predicted_gain_accepted: the same where it is applied. deviation: mean |a - a_base| where it is applied, in units of delta_0.05.
    """
    index = np.sort(np.random.default_rng(seed).permutation(len(log))[:MAX_ROWS])
    obs, logged = log.observations[log.obs_index[index]], log.actions[index]
    decision = policy.act(obs)
    taken = decision.accepted
    gain = np.where(taken, decision.gain, 0.0)
    return {
        "action_rmse": float(np.sqrt(((policy.anchor_action(obs) - logged) ** 2).mean())),
        "acceptance": float(taken.mean()),
        "predicted_gain": float(gain.mean()),
        "predicted_gain_accepted": float(gain[taken].mean()) if taken.any() else 0.0,
        "deviation": float(decision.support[taken].mean()) if taken.any() else 0.0,
    }


def residuals(policy: Policy, log: Log) -> np.ndarray:
    """(N, act_dim) logged minus anchor action, both scaled to [-1, 1], on at most RESIDUAL_ROWS rows."""
    index = np.arange(len(log)) if len(log) <= RESIDUAL_ROWS else np.linspace(0, len(log) - 1, RESIDUAL_ROWS, dtype=np.int64)
    found = np.empty((len(index), log.spec.act_dim), np.float32)
    for start in range(0, len(index), BLOCK_ROWS):
        part = index[start : start + BLOCK_ROWS]
        anchor = policy.anchor_action(log.observations[log.obs_index[part]])
        found[start : start + len(part)] = policy.scaler.action_in(log.actions[part]) - policy.scaler.action_in(anchor)
    return found


def residual_geometry(policy: Policy, log: Log) -> dict[str, float]:
    """delta_rho (eq. 3) of the log's residuals, and in how many directions 95 % of their variance lies. Raises SparError where the policy
    is of another plant."""
    own, logged = (policy.obs_dim, policy.act_dim), (log.spec.obs_dim, log.spec.act_dim)
    if own != logged:
        raise SparError(f"{log.name}: has observations and actions of sizes {logged}, the policy's are {own}")
    found = residuals(policy, log)
    share = np.cumsum(topology.spectrum(found))
    return {"delta_rho": topology.delta_rho(found), "directions_with_95_percent_of_variance": int(np.searchsorted(share, 0.95) + 1)}
