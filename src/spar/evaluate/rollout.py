"""Episodes of a deployed policy in a gymnasium environment, many at a time in lockstep so that acting is batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np

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

    def __init__(self, env_id: str, spec: Spec) -> None:
        """Raises SparError when the environment cannot be made or does not fit the log."""
        self.env_id, self.spec = env_id, spec
        self.envs: list[gymnasium.Env] = []
        self._grow(1)

    def _make(self) -> gymnasium.Env:
        try:
            env = gymnasium.make(self.env_id)
        except Exception as error:  # noqa: BLE001  # gymnasium passes on whatever an environment's own imports and constructor raise
            raise SparError(f"environment '{self.env_id}' cannot be made: {str(error).splitlines()[0]}") from None
        if isinstance(env.observation_space, gymnasium.spaces.Dict):
            env = gymnasium.wrappers.FlattenObservation(env)
        shapes = env.observation_space.shape, env.action_space.shape
        if shapes != ((self.spec.obs_dim,), (self.spec.act_dim,)):
            raise SparError(
                f"environment '{self.env_id}' has observations {shapes[0]} and actions {shapes[1]}, "
                f"the log has ({self.spec.obs_dim},) and ({self.spec.act_dim},); name the environment that the log came from"
            )
        return env

    def _grow(self, count: int) -> None:
        while len(self.envs) < count:
            self.envs.append(self._make())

    def run(self, act: Act, episodes: int, seed: int) -> Episodes:
        """`episodes` full episodes of `act`."""
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
                lengths[i] += 1
                if not (terminated or truncated):
                    going.append(i)
            live = np.asarray(going, int)
        return Episodes(returns, lengths, accepted / int(lengths.sum()))

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []
