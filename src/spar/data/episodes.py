"""The one schema for logs: episodes with `terminated`, `truncated` and all N+1 observations.

    episode 0            episode 1
    s0 s1 s2 s3          s0 s1 s2          observations, lengths[e] + 1 of them
     a0 a1 a2             a0 a1            actions, rewards, terminated, truncated: lengths[e] of them

A successor is read inside its episode only; nothing here can pair a state with the first state of another episode.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np

from spar.data.scalers import Scaler
from spar.types import SparError, Spec, Transitions

BOX_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Log:
    """A checked log: T steps in E episodes.

    observations: (T + E, obs_dim) float32. actions: (T, act_dim) float32, inside the box [action_low, action_high].
    rewards: (T,) float32. terminated, truncated: (T,) bool; an episode's last step has one of them unless the log stops mid-way.
    lengths: (E,) int64, steps in each episode. episode_returns: (E,) float64, undiscounted, every logged reward counted; NaN where
    the episode is unfinished.

    Raises SparError, naming field and row, when the arrays do not fit each other, hold non-finite numbers, or leave the box.
    """

    name: str
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lengths: np.ndarray
    episode_returns: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    env_id: str | None = None
    source: str = ""  # the file, for messages; the name where there is none
    notes: tuple[str, ...] = ()  # what the reader had to decide, one line each

    def __post_init__(self) -> None:
        steps, episodes, source = int(self.lengths.sum()), len(self.lengths), self.source or self.name
        if steps == 0:
            raise SparError(f"{source}: the log is empty (no complete transition); give a log with at least one step")
        for field in ("actions", "rewards", "terminated", "truncated"):
            rows = len(getattr(self, field))
            if rows != steps:
                raise SparError(f"{source}: '{field}' has {rows} rows but the episodes have {steps} steps")
        if len(self.observations) != steps + episodes:
            raise SparError(f"{source}: 'observations' has {len(self.observations)} rows, need {steps} steps + {episodes} final ones")
        for field in ("observations", "actions", "rewards"):
            check_finite(source, field, getattr(self, field))
        check_box(source, "actions", self.actions, self.action_low, self.action_high)

    @property
    def spec(self) -> Spec:
        return Spec(self.observations.shape[1], self.actions.shape[1])

    def __len__(self) -> int:
        return len(self.actions)

    @cached_property
    def obs_index(self) -> np.ndarray:
        """(T,) index into `observations` of each step's own observation; its successor is the next row."""
        return np.arange(len(self)) + np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted returns of the finished episodes, (number of them,) float64."""
        return self.episode_returns[np.isfinite(self.episode_returns)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every array, 16 hex digits: equal logs have equal fingerprints, whatever file they came from."""
        digest = hashlib.sha256()
        for array in (self.observations, self.actions, self.rewards, self.terminated, self.truncated, self.lengths):
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def split(self, fraction: float, seed: int = 0) -> tuple[Log, Log | None]:
        """(training, held-out) logs of whole episodes; held-out is None when `fraction` is 0 or too small for one episode."""
        held = round(fraction * len(self.lengths))
        if held == 0:
            return self, None
        chosen = np.zeros(len(self.lengths), bool)
        chosen[np.random.default_rng(seed).permutation(len(self.lengths))[:held]] = True
        return self.pick(~chosen), self.pick(chosen)

    def pick(self, episodes: np.ndarray) -> Log:
        """The log with only the episodes where the mask `episodes` (E,) is set."""
        steps = np.repeat(episodes, self.lengths)
        return dataclasses.replace(
            self,
            observations=self.observations[np.repeat(episodes, self.lengths + 1)],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            terminated=self.terminated[steps],
            truncated=self.truncated[steps],
            lengths=self.lengths[episodes],
            episode_returns=self.episode_returns[episodes],
        )

    def scaler(self, standardise: bool = True) -> Scaler:
        return Scaler.fit(self.observations[self.obs_index], self.action_low, self.action_high, standardise)

    def transitions(self, scaler: Scaler, reward_shift: float = 0.0) -> Transitions:
        """All T rows on the device, standardised by `scaler`; `reward_shift` is added to every reward (-1 for AntMaze)."""
        observations = scaler.obs_in(self.observations)
        return Transitions(
            obs=jnp.asarray(observations[self.obs_index]),
            action=jnp.asarray(np.clip(scaler.action_in(self.actions), -1.0, 1.0)),
            reward=jnp.asarray(self.rewards + np.float32(reward_shift)),
            next_obs=jnp.asarray(observations[self.obs_index + 1]),
            terminated=jnp.asarray(self.terminated, jnp.float32),
        )


def check_finite(name: str, field: str, array: np.ndarray) -> None:
    """Raises SparError at the first non-finite cell of `array` (rows first)."""
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        column = f", column {where[1]}" if len(where) > 1 else ""
        value = array[where]
        raise SparError(f"{name}: '{field}' row {where[0]}{column} is {value} ({(~finite).sum()} such cells); drop or repair those rows")


def check_box(name: str, field: str, actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Raises SparError at the first action outside [low, high]."""
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise SparError(f"{name}: the action box [{low}, {high}] must be finite with low < high in every dimension")
    slack = BOX_TOLERANCE * (high - low)
    outside = (actions < low - slack) | (actions > high + slack)
    if outside.any():
        row, column = (int(i) for i in np.argwhere(outside)[0])
        raise SparError(
            f"{name}: '{field}' row {row}, column {column} is {actions[row, column]:.6g}, outside [{low[column]:.6g}, {high[column]:.6g}] "
            f"({outside.sum()} such cells); give the true bounds or rescale"
        )


def from_rows(
    name: str,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    next_obs: np.ndarray | None = None,
    action_low: np.ndarray | None = None,
    action_high: np.ndarray | None = None,
    env_id: str | None = None,
    source: str | None = None,
) -> Log:
    """A log from step-aligned rows in time order: obs (T, obs_dim), action (T, act_dim), the rest (T,).

    With `next_obs` every row is kept, and a row whose successor is not the next row's observation ends an episode even where no flag
    says so. Without it, the last row of a truncated or unfinished episode has no successor: the row is dropped, its observation
    becomes the episode's final one. A terminated row never needs its successor and is kept.
    """
    source = source or name
    terminated, truncated = np.asarray(terminated, bool), np.array(truncated, bool)
    notes = []
    if not (terminated | truncated).any():
        raise SparError(f"{source}: no episode end: neither 'terminals' nor 'timeouts' is ever set; mark where episodes end")
    obs = np.ascontiguousarray(obs, np.float32)
    if next_obs is not None:
        next_obs = np.ascontiguousarray(next_obs, np.float32)
        check_finite(source, "next_observations", next_obs)
        jump = np.append((next_obs[:-1] != obs[1:]).any(-1), False) & ~terminated & ~truncated
        if jump.any():
            first = int(np.flatnonzero(jump)[0])
            notes.append(f"{jump.sum()} unmarked episode ends (the successor is not the next row), first at row {first}; split there")
            truncated |= jump
    end = terminated | truncated
    if not end[-1]:
        notes.append("the last episode is unfinished: its rows train, its return is not counted")
    finished = end.copy()
    end[-1] = True
    ends = np.flatnonzero(end)
    starts = np.append(0, ends[:-1] + 1)
    returns = np.where(finished[ends], np.add.reduceat(np.asarray(reward, np.float64), starts), np.nan)

    dropped = end & ~terminated if next_obs is None else np.zeros(len(end), bool)
    if dropped.any():
        notes.append(f"{dropped.sum()} rows without a successor left out (an episode cut by a time limit or the end of the file)")
    lengths = ends - starts + 1 - dropped[ends]
    real, kept = lengths > 0, ~dropped
    shortened = ends[dropped[ends] & real]
    truncated[shortened - 1] = finished[shortened]  # the row before now ends the episode
    final = np.where(dropped[ends], ends, len(obs) + np.arange(len(ends)))  # a left-out row's observation is its episode's last one
    pool = np.concatenate([obs, (obs if next_obs is None else next_obs)[ends]])
    order = np.insert(np.flatnonzero(kept), np.cumsum(lengths), final)
    order = order[~np.isin(order, ends[~real])]
    return Log(
        name=name,
        observations=pool[order],
        actions=np.ascontiguousarray(action[kept], np.float32),
        rewards=np.ascontiguousarray(reward[kept], np.float32),
        terminated=terminated[kept],
        truncated=truncated[kept],
        lengths=lengths[real],
        episode_returns=returns[real],
        action_low=np.full(action.shape[1], -1.0, np.float32) if action_low is None else np.asarray(action_low, np.float32),
        action_high=np.full(action.shape[1], 1.0, np.float32) if action_high is None else np.asarray(action_high, np.float32),
        env_id=env_id,
        source=source,
        notes=tuple(notes),
    )
