"""One seed's life in the environment: the deployed policy, its gate included, with Gaussian noise on the action that leaves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spar.data.episodes import HostRows
from spar.deploy.policy import Policy
from spar.evaluate.environments import EnvConfig
from spar.types import SparError, Transitions


class Episode(NamedTuple):
    """A finished exploring episode."""

    step: int  # environment steps lived when it ended
    value: float  # undiscounted return of raw rewards
    length: int
    terminated: bool  # False: a time limit cut it


class Explorer:
    """`rows` says how observations, actions and rewards are scaled: as in the log's training rows."""

    def __init__(self, env: EnvConfig, rows: HostRows, noise: float, seed: int) -> None:
        self.name, self.env, self.rows, self.noise, self.seed = env.id, env.make(), rows, noise, seed
        self.rng = np.random.default_rng([seed, 1])  # the environment draws from the seed itself
        self.obs, _ = self.env.reset(seed=seed)
        self.step, self.value, self.length = 0, 0.0, 0
        self.episodes: list[Episode] = []

    def live(self, policy: Policy, count: int) -> Transitions:
        """`count` steps of `policy` as NumPy float32 rows ready for training; a time limit is not stored as an end.

        Raises SparError when the environment returns a number that is not finite.
        """
        policy.reset(int(self.rng.integers(2**31)))

        def act(_: int) -> np.ndarray:
            own = self.rows.scaler.action_in(policy.act(self.obs).action)
            return np.clip(own + self.noise * self.rng.standard_normal(own.shape, dtype=np.float32), -1.0, 1.0)

        return self._steps(count, act)

    def relive(self, rows: Transitions) -> None:
        """What an explorer of the same seed lived before, in one `live`, once more: environment and random numbers then stand where they
        stood. `rows` (n, ...) are what it returned.

        Raises SparError when the environment does not come out as it did, before it is given any action that followed.
        """
        self.rng.integers(2**31)

        def act(i: int) -> np.ndarray:
            if not np.array_equal(self.rows.scaler.obs_in(self.obs), rows.obs[i]):
                raise self.differs()
            self.rng.standard_normal(rows.action[i].shape, dtype=np.float32)
            return np.asarray(rows.action[i])

        found = self._steps(len(rows.obs), act)
        if not all(np.array_equal(a, b) for a, b in zip(found[:5], rows[:5], strict=True)):
            raise self.differs()

    def differs(self) -> SparError:
        """What is said of an environment that does not come out as it did."""
        return SparError(
            f"environment '{self.name}': step {self.step} does not come out as it did, so fine-tuning cannot go on as if it had never been "
            "cut off; add --new-episode to go on with a new episode"
        )

    def begin_anew(self, step: int, episodes: Sequence[Episode], times: int) -> None:
        """Go on after `step` steps and the finished `episodes` with a new episode and new random numbers, for the so many-th time."""
        self.rng = np.random.default_rng([self.seed, 1, step, times])
        self.obs, _ = self.env.reset(seed=int(self.rng.integers(2**31)))
        self.step, self.value, self.length, self.episodes = step, 0.0, 0, list(episodes)

    def _steps(self, count: int, act: Callable[[int], np.ndarray]) -> Transitions:
        scaler, columns = self.rows.scaler, [list[np.ndarray | float]() for _ in range(5)]
        for i in range(count):
            action = act(i)
            following, reward, terminated, truncated, _ = self.env.step(scaler.action_out(action))
            self.step += 1
            if not (np.isfinite(following).all() and np.isfinite(reward)):
                raise SparError(f"environment '{self.name}': observation or reward of step {self.step} is not finite; fine-tuning stops")
            for column, value in zip(columns, (self.obs, action, float(reward), following, float(terminated)), strict=True):
                column.append(value)
            self.value, self.length, self.obs = self.value + float(reward), self.length + 1, following
            if terminated or truncated:
                self.episodes.append(Episode(self.step, self.value, self.length, bool(terminated)))
                self.value, self.length, self.obs = 0.0, 0, self.env.reset()[0]
        obs, actions, rewards, next_obs, ended = (np.asarray(column, np.float32) for column in columns)
        rewards = self.rows.reward_scale * rewards + self.rows.reward_shift
        found: list[Any] = [scaler.obs_in(obs), actions, rewards, scaler.obs_in(next_obs), ended]
        return Transitions(*found)

    def close(self) -> None:
        self.env.close()
