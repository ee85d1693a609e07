"""What can be known without a simulator: action error, predicted gain and acceptance on logged states."""

from __future__ import annotations

import numpy as np

from spar.data.episodes import Log
from spar.deploy.policy import Policy

MAX_ROWS = 5000


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
