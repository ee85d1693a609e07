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
        self.step, self.value, self.length = 0, 0.0, 0
        self.episodes: list[Episode] = []
        self.obs = self._finite(self.env.reset(seed=seed)[0])

    def live(self, policy: Policy, count: int) -> Transitions:
        """`count` steps of `policy` as NumPy float32 rows ready for training; a time limit is not stored as an end.

        Raises SparError when the environment returns a number that is not finite in float32.
        """
        policy.reset(int(self.rng.integers(2**31)))

        def act(_: int) -> np.ndarray:
            own = self.rows.scaler.action_in(policy.act(self.obs).action)
            return np.clip(own + self.noise * self.rng.standard_normal(own.shape, dtype=np.float32), -1.0, 1.0)

        return self._steps(count, act)

    def relive(self, rows: Transitions) -> None:
        """What an explorer of the same seed lived before, in one `live`, once more: environment and random numbers then stand where they
        stood. `rows` (n, ...) are what it returned.

        Raises SparError when an observation, a reward or an end does not come out as it did, before the environment is given any action
        that followed.
        """
        self.rng.integers(2**31)

        def act(i: int) -> np.ndarray:
            if not np.array_equal(self.rows.scaler.obs_in(self.obs), rows.obs[i]):
                raise self.differs()
            self.rng.standard_normal(rows.action[i].shape, dtype=np.float32)
            return np.asarray(rows.action[i])

        def check(i: int, lived: Transitions) -> None:
            if not all(np.array_equal(a, b[i]) for a, b in zip(lived[:5], rows[:5], strict=True)):
                raise self.differs()

        self._steps(len(rows.obs), act, check)

    def differs(self) -> SparError:
        """What is said of an environment that does not come out as it did."""
        return SparError(
            f"environment '{self.name}': step {self.step} does not come out as it did, so fine-tuning cannot go on as if it had never been "
            "cut off; add --new-episode to go on with a new episode"
        )

    def begin_anew(self, step: int, episodes: Sequence[Episode], times: int) -> None:
        """Go on after `step` steps and the finished `episodes` with a new episode and new random numbers, for the so many-th time."""
        self.rng = np.random.default_rng([self.seed, 1, step, times])
        self.step, self.value, self.length, self.episodes = step, 0.0, 0, list(episodes)
        self.obs = self._finite(self.env.reset(seed=int(self.rng.integers(2**31)))[0])

    def _steps(
        self, count: int, act: Callable[[int], np.ndarray], check: Callable[[int, Transitions], None] = lambda i, lived: None
    ) -> Transitions:
        """`check` sees every row before the next action is asked for."""
        scaler, found = self.rows.scaler, list[Transitions]()
        for i in range(count):
            action = act(i)
            seen, given, terminated, truncated, _ = self.env.step(scaler.action_out(action))
            self.step += 1
            following, reward = self._finite(seen), self._finite(given)
            scaled = self.rows.reward_scale * reward + self.rows.reward_shift
            lived: list[Any] = [scaler.obs_in(self.obs), action, scaled, scaler.obs_in(following), np.float32(terminated)]
            found.append(Transitions(*lived))
            check(i, found[-1])
            self.value, self.length, self.obs = self.value + float(given), self.length + 1, following
            if terminated or truncated:
                self.episodes.append(Episode(self.step, self.value, self.length, bool(terminated)))
                self.value, self.length, self.obs = 0.0, 0, self._finite(self.env.reset()[0])
        columns: list[Any] = [np.asarray(column, np.float32) for column in zip(*(row[:5] for row in found), strict=True)]
        return Transitions(*columns)

    def _finite(self, value: Any) -> np.ndarray:
        """A copy in float32, since an environment may go on writing into the array that it returned."""
        with np.errstate(over="ignore"):
            found = np.array(value, np.float32)
        if not np.isfinite(found).all():
            raise SparError(
                f"environment '{self.name}': an observation or reward at step {self.step} is not finite in float32; fine-tuning stops"
            )
        return found

    def close(self) -> None:
        self.env.close()
