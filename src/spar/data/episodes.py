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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spar.data.blocks import Bad, gather, heap, mapped
from spar.data.scalers import Scaler
from spar.types import SparError, Spec, Transitions


class Problem(NamedTuple):
    """Values of a column that forbid training."""

    field: str
    kind: str  # not finite, outside the box
    place: str  # of the first, as a person finds it in the file
    first: Bad


@dataclass(frozen=True)
class Log:
    """A checked log: T steps in E episodes.

    observations: (T + E, obs_dim) float32. actions: (T, act_dim) float32, inside the box [action_low, action_high].
    rewards: (T,) float32. terminated, truncated: (T,) bool; an episode's last step has one of them unless the log stops mid-way.
    lengths: (E,) int64, steps in each episode. episode_returns: (E,) float64, undiscounted, every logged reward counted; NaN where
    the episode is unfinished.

    The arrays may be memory-mapped. Values were checked by who built the log (`spar.data.rows.Rows.log`, a source's `read`).
    Raises SparError when the arrays do not fit each other.
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
    env_kwargs: str = ""  # JSON: arguments with which gymnasium makes the environment
    observation_keys: tuple[str, ...] = ()  # the parts of a dict observation that were joined, in this order; empty: all, alphabetically
    source: str = ""  # the file, for messages; the name where there is none
    notes: tuple[str, ...] = ()  # what the reader had to decide, one line each
    problems: tuple[Problem, ...] = ()  # found by a reader that was told not to stop at them; such a log must not train
    rows_left_out: int = 0  # rows of the source that have no known successor

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
        """SHA-256 over every array, 16 hex digits: equal logs have equal fingerprints, whatever file they came from. The action box, which
        decides how actions are scaled, counts where it is not [-1, 1] in every dimension."""
        digest = hashlib.sha256()
        arrays = [self.observations, self.actions, self.rewards, self.terminated, self.truncated, self.lengths]
        if not ((self.action_low == -1).all() and (self.action_high == 1).all()):
            arrays += [self.action_low, self.action_high]
        for array in arrays:
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def split(self, fraction: float, seed: int = 0) -> tuple[Log, Log | None]:
        """(training, held-out) logs of whole episodes; held-out is None when `fraction` is 0 or too small for one episode. Raises SparError
        where none would be left to train on."""
        held = round(fraction * len(self.lengths))
        if held == 0:
            return self, None
        if held >= len(self.lengths):
            what = f"holdout {fraction:g} of {len(self.lengths)} episodes leaves none to train on"
            raise SparError(f"{self.source or self.name}: {what}; hold out less, or give more episodes")
        chosen = np.zeros(len(self.lengths), bool)
        chosen[np.random.default_rng(seed).permutation(len(self.lengths))[:held]] = True
        return self.pick(~chosen), self.pick(chosen)

    def pick(self, episodes: np.ndarray) -> Log:
        """The log with only the episodes where the mask `episodes` (E,) is set; memory-mapped where this one is."""
        steps = np.flatnonzero(np.repeat(episodes, self.lengths))
        allocate = mapped if self.is_mapped else heap
        return dataclasses.replace(
            self,
            observations=gather(self.observations, np.flatnonzero(np.repeat(episodes, self.lengths + 1)), allocate),
            actions=gather(self.actions, steps, allocate),
            rewards=self.rewards[steps],
            terminated=self.terminated[steps],
            truncated=self.truncated[steps],
            lengths=self.lengths[episodes],
            episode_returns=self.episode_returns[episodes],
        )

    @property
    def is_mapped(self) -> bool:
        return isinstance(self.observations, np.memmap)

    @property
    def successors(self) -> np.ndarray:
        """(T, obs_dim), the observation after each step."""
        return self.observations[self.obs_index + 1]

    def scaler(self, standardise: bool = True) -> Scaler:
        return Scaler.fit(self.observations, self.obs_index, self.action_low, self.action_high, standardise)

    def transitions(self, scaler: Scaler, reward_shift: float = 0.0) -> Transitions:
        """All T rows on the device, standardised by `scaler`; `reward_shift` is added to every reward (-1 for AntMaze)."""
        return HostRows(self, scaler, reward_shift=reward_shift).on_device()

    def best(self, share: float) -> Log:
        """The share of the finished episodes, at least one, whose returns are highest; of equal ones (AntMaze's successes) the shorter."""
        finished = np.flatnonzero(np.isfinite(self.episode_returns))
        if len(finished) == 0:
            raise SparError(f"{self.source or self.name}: no finished episode, so there are no best ones to choose")
        order = finished[np.lexsort((self.lengths[finished], -self.episode_returns[finished]))]
        chosen = np.zeros(len(self.lengths), bool)
        chosen[order[: max(1, int(share * len(finished)))]] = True
        return self.pick(chosen)


class HostRows:
    """A log's rows left where they are, in host memory or in a memory-mapped file; a batch is gathered and scaled when asked for.

    A reward r becomes `reward_scale * r + reward_shift`. With `next_action` the batches have the logged successor action too, and an
    episode's last row, which has none, is left out unless it terminated (nothing reads it there).
    """

    def __init__(self, log: Log, scaler: Scaler, reward_scale: float = 1.0, reward_shift: float = 0.0, next_action: bool = False) -> None:
        self.log, self.scaler, self.next_action = log, scaler, next_action
        self.reward_scale, self.reward_shift = np.float32(reward_scale), np.float32(reward_shift)
        self.kept: np.ndarray | None = None
        if next_action:
            last = np.zeros(len(log), bool)
            last[np.cumsum(log.lengths) - 1] = True
            self.kept = np.flatnonzero(~last | log.terminated)
            if len(self.kept) == 0:
                raise SparError(f"{log.source or log.name}: no step has a logged successor action")

    def __len__(self) -> int:
        return len(self.log) if self.kept is None else len(self.kept)

    def take(self, index: np.ndarray) -> Transitions:
        """The rows `index` (any shape) as NumPy float32 arrays with those leading axes."""
        log, scaler = self.log, self.scaler
        index = index if self.kept is None else self.kept[index]
        at = log.obs_index[index]
        columns: list[Any] = [
            scaler.obs_in(log.observations[at]),
            np.clip(scaler.action_in(log.actions[index]), -1.0, 1.0),
            self.reward_scale * log.rewards[index] + self.reward_shift,
            scaler.obs_in(log.observations[at + 1]),
            log.terminated[index].astype(np.float32),
        ]
        if self.next_action:
            columns.append(np.clip(scaler.action_in(log.actions[np.minimum(index + 1, len(log) - 1)]), -1.0, 1.0))
        return Transitions(*columns)

    def on_device(self) -> Transitions:
        """All of them."""
        rows: Transitions = jax.tree.map(jnp.asarray, self.take(np.arange(len(self))))
        return rows
