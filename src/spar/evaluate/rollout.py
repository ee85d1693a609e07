"""Episodes of a deployed policy in a gymnasium environment, many at a time in lockstep so that acting is batched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np

from spar.evaluate.environments import EnvConfig
from spar.types import SparError, Spec

Act = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (B, obs_dim) -> actions (B, act_dim), accepted (B,)


class Episodes(NamedTuple):
    """Undiscounted returns (E,), lengths (E,), and the share of all steps on which the residual was accepted."""

    returns: np.ndarray
    lengths: np.ndarray
    acceptance: float


class Evaluator:
    """A pool of copies of one environment.

    Episode e of seed s starts from `reset(seed=s + e)` for every policy, so that returns pair up.
    """

    def __init__(self, env: EnvConfig, spec: Spec) -> None:
        """Raises SparError when the environment cannot be made or does not fit the log."""
        env.check(spec)
        self.env = env
        self.envs: list[gymnasium.Env] = []

    def _grow(self, count: int) -> None:
        while len(self.envs) < count:
            self.envs.append(self.env.make())

    def run(self, act: Act, episodes: int, seed: int) -> Episodes:
        """`episodes` full episodes of `act`. Raises SparError for a reward that is not finite."""
        self._grow(episodes)
        obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs[:episodes])])
        returns, lengths, accepted = np.zeros(episodes), np.zeros(episodes, int), 0
        live = np.arange(episodes)
        while len(live):
            actions, took = act(obs[live])
            accepted += int(took.sum())
            going = []
            for i, action in zip(live, actions, strict=True):
                obs[i], reward, terminated, truncated, _ = self.envs[i].step(action)
                returns[i] += float(reward)
                if not math.isfinite(returns[i]):
                    raise SparError(f"environment '{self.env.id}': reward {reward} in step {lengths[i]} of episode {i} (seed {seed + i})")
                lengths[i] += 1
                if not (terminated or truncated):
                    going.append(i)
            live = np.asarray(going, int)
        return Episodes(returns, lengths, accepted / int(lengths.sum()))

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []
