"""Do the critics order what they are asked to order?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from spar.data.episodes import HostRows, Log
from spar.deploy.policy import Policy
from spar.diagnose.traces import Trace, play
from spar.types import SparError

CUT = 0.1  # a return is known where less than this of its discount lies beyond the end of an episode that did not terminate
ROWS = 5000
UNREPEATABLE = "the environment does not repeat an episode from its seed and actions; diagnose with --branches 0"
FEWEST = 10  # points below which no order is told


class Pairs(NamedTuple):
    """What was predicted and what came, (n,) each, in the units of the critics' rewards."""

    predicted: np.ndarray
    real: np.ndarray

    def summary(self) -> dict[str, Any]:
        """rank_correlation: Spearman's, None for fewer than FEWEST points or where one side is constant; interval: of it, 95 %, as if the
        points were independent."""
        found = rank_correlation(self.predicted, self.real)
        return {
            "points": len(self.real),
            "rank_correlation": found,
            "interval": interval(found, len(self.real)),
            "predicted_mean": float(self.predicted.mean()) if len(self.real) else None,
            "real_mean": float(self.real.mean()) if len(self.real) else None,
            "real_positive_share": float((self.real > 0).mean()) if len(self.real) else None,
        }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's, of (n,) and (n,); None where it is undefined or told by fewer than FEWEST points."""
    from scipy.stats import spearmanr

    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


def interval(correlation: float | None, points: int) -> tuple[float, float] | None:
    """95 % limits of Spearman's correlation by Fisher's transform, standard error sqrt(1.06 / (n - 3)) (Fieller et al. 1957)."""
    if correlation is None or abs(correlation) >= 1:
        return None
    half = 1.96 * np.sqrt(1.06 / (points - 3))
    low, high = np.tanh(np.arctanh(correlation) + np.array([-half, half]))
    return float(low), float(high)


def logged(policy: Policy, log: Log, rows: HostRows, discount: float, seed: int = 0) -> Pairs:
    """Q_rob(s, a) of logged pairs of `log` (held-out episodes) against the discounted return that followed, with rewards transformed as
    those of `rows`, on at most ROWS steps whose return is known."""
    rewards = rows.reward_scale * log.rewards + rows.reward_shift
    value, known, end = returns_to_go(rewards, log.lengths, discount, log.terminated), np.zeros(len(log), bool), 0
    for length in log.lengths:
        start, end = end, end + int(length)
        beyond = discount ** np.arange(length, 0, -1)
        ended_later = np.logical_or.accumulate(log.terminated[start:end][::-1])[::-1]
        known[start:end] = ended_later | (beyond < CUT)
    index = np.flatnonzero(known)
    index = np.sort(np.random.default_rng(seed).permutation(index)[:ROWS])
    s = policy.scaler.obs_in(log.observations[log.obs_index[index]])
    predicted = policy.q_rob(s, policy.scaler.action_in(log.actions[index])) if len(index) else np.zeros(0)
    return Pairs(predicted, value[index])


def returns_to_go(rewards: np.ndarray, lengths: np.ndarray, discount: float, terminated: np.ndarray | None = None) -> np.ndarray:
    """(T,) discounted sum of rewards (T,) from each step to the end of its episode, or to the next terminated step (T,): some logs go on
    behind one (AntMaze's), where no value reaches."""
    found = np.empty(len(rewards))
    end = len(rewards)
    for length in lengths[::-1]:
        total = 0.0
        for t in range(end - 1, end - int(length) - 1, -1):
            total = float(rewards[t]) + (0.0 if terminated is not None and terminated[t] else discount * total)
            found[t] = total
        end -= int(length)
    return found


def hidden(limit: int | None, discount: float) -> bool:
    """Whether a time limit hides more than CUT of what follows even from an episode's first step, so that real gains are too small."""
    return limit is not None and discount**limit >= CUT


def branched(
    envs: Sequence[gymnasium.Env], policy: Policy, traces: Sequence[Trace], rows: HostRows, discount: float, branches: int, seed: int = 0
) -> Pairs:
    """Predicted against real gain of one correction, at `branches` steps of `traces` that the gate accepted, drawn at random.

    Each step is reached twice by repeating the episode's actions; then the policy's action is taken once, and the anchor's the other time,
    the anchor acts from there to the end, and the real gain is the difference of the two discounted returns from that step on.
    Steps so late that the environment's time limit would hide more than CUT of what follows are left out, except where all are: critics
    look beyond that limit, so in such short episodes (pen's 100 steps at 0.99) the real gains come out too small.
    Raises SparError when repeating an episode leads elsewhere.
    """
    steps = [(e, t) for e, trace in enumerate(traces) for t in np.flatnonzero(trace.accepted)]
    limit = (envs[0].spec.max_episode_steps if envs[0].spec else None) or math.inf
    steps = [(e, t) for e, t in steps if discount ** (limit - t) < CUT] or steps
    chosen = [steps[i] for i in np.random.default_rng(seed).permutation(len(steps))[:branches]]
    courses = [(traces[e], int(t), corrected) for e, t in chosen for corrected in (True, False)]

    def act(live: np.ndarray, step: int, obs: np.ndarray) -> np.ndarray:
        actions = policy.anchor_action(obs)
        for row, i in enumerate(live):
            trace, at, corrected = courses[i]
            if step == at and not np.allclose(obs[row], trace.obs[at], rtol=1e-4, atol=1e-5):
                raise SparError(UNREPEATABLE)
            if step < at + corrected:
                actions[row] = trace.action[step]
        return actions

    rewards = play(envs, [trace.seed for trace, *_ in courses], act)
    found = []
    for (_, at, _), one in zip(courses, rewards, strict=True):
        if len(one) <= at:
            raise SparError(UNREPEATABLE)
        later = rows.reward_scale * one[at:] + rows.reward_shift
        found.append(float((later * discount ** np.arange(len(later))).sum()))
    both = np.asarray(found).reshape(-1, 2)
    return Pairs(np.asarray([traces[e].gain[t] for e, t in chosen]), both[:, 0] - both[:, 1])
