"""From step-aligned rows, as files hold them, to the one schema: where do episodes end, which row has a successor, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spar.data.blocks import (
    Allocate,
    Matrix,
    Place,
    as_flags,
    as_float32,
    cell,
    check_box,
    check_finite,
    first_non_finite,
    first_outside,
    gather,
    heap,
    spans,
)
from spar.data.episodes import Log, Problem
from spar.data.rounding import Rounding, note
from spar.types import SparError

JUMPED = "the successor is not the next row"


@dataclass
class Rows:
    """T steps in time order. Shapes fit each other; the values are not believed yet.

    obs (T, obs_dim), action (T, act_dim), reward (T,), terminated and truncated (T,) bool. A step's successor is the next row's `obs`
    inside an episode. At an episode's end it is `next_obs` (T, obs_dim) where the source has one for every row; else it is unknown, unless
    the source keeps all N + 1 observations of each episode and says where episodes end: then `stacked` is set and obs is (T + E, obs_dim),
    float32, just as the log wants it.
    """

    source: str  # for messages: the file
    obs: Matrix
    action: Matrix
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: Matrix | None = None
    ends: np.ndarray | None = None  # (E,) the last row of each episode, where the source states it; else the flags decide
    stacked: bool = False  # needs `ends`
    action_low: np.ndarray | None = None  # (act_dim,), -1 where not given
    action_high: np.ndarray | None = None
    env_id: str | None = None
    env_kwargs: str = ""
    observation_keys: tuple[str, ...] = ()
    episode_returns: np.ndarray | None = None  # (E,) where the source states them; else rewards are summed
    terminal_ends: bool = True  # False: a terminated step stops the bootstrap but not the episode (AntMaze)
    horizon: int | None = None  # steps after which an episode without a mark is cut
    jump: tuple[tuple[int, ...], float] | None = None  # (columns, distance): farther from one row to the next is another episode
    notes: list[str] = field(default_factory=list)  # what the reader had to decide, one line each
    place: Place = cell  # how messages name a cell, where the source's columns have names

    def __post_init__(self) -> None:
        self.terminated, self.truncated = np.asarray(self.terminated, bool), np.array(self.truncated, bool)
        width = self.action.shape[1]
        self.action_low = np.full(width, -1.0, np.float32) if self.action_low is None else np.asarray(self.action_low, np.float32)
        self.action_high = np.full(width, 1.0, np.float32) if self.action_high is None else np.asarray(self.action_high, np.float32)

    @property
    def columns(self) -> dict[str, Matrix]:
        found = {"observations": self.obs, "actions": self.action, "rewards": self.reward, "next_observations": self.next_obs}
        return {name: matrix for name, matrix in found.items() if matrix is not None}

    def problems(self) -> tuple[Problem, ...]:
        """What `check` would refuse, column by column."""
        assert self.action_low is not None and self.action_high is not None
        found = [(name, "not finite", first_non_finite(matrix)) for name, matrix in self.columns.items()]
        found.append(("actions", "outside the box", first_outside(self.action, self.action_low, self.action_high)))
        return tuple(Problem(name, kind, self.place(name, bad.row, bad.column), bad) for name, kind, bad in found if bad)

    def check(self) -> None:
        """Raises SparError at the first value that cannot be trusted, naming field and row of the source."""
        for name, matrix in self.columns.items():
            check_finite(self.source, name, matrix, self.place)
        assert self.action_low is not None and self.action_high is not None
        check_box(self.source, "actions", self.action, self.action_low, self.action_high, self.place)

    def note_rounding(self) -> None:
        """A note for each matrix in memory that float32 rounds too much; one still in its file is not read once more for that."""
        for name in ("observations", "actions"):
            matrix = self.columns[name]
            if not isinstance(matrix, np.ndarray) or np.can_cast(matrix.dtype, np.float32):
                continue
            rounding = Rounding()
            for span in spans(len(matrix), matrix.shape[1]):
                rounding.add(matrix[span])
            coarse = rounding.coarse()
            if coarse:
                self.notes.append(note([f"'{name}' column {one.column}" for one in coarse], coarse[0]))

    def mark_ends(self) -> np.ndarray:
        """(T,) bool, the last row of every episode; cuts that no flag marks are added to `truncated`, with a note."""
        if len(self.action) == 0:
            raise SparError(f"{self.source}: the log is empty (no rows)")
        if self.ends is not None:
            end = np.zeros(len(self.action), bool)
            end[self.ends] = True
            return end if self.next_obs is None else end | self._cut(self._differs() & ~end, JUMPED)
        if self.jump is not None and self.next_obs is None:
            self._cut(self._distance(*self.jump), "the position jumps farther than a step can")
        if self.next_obs is not None:
            self._cut(self._differs(), JUMPED)
        if self.horizon is not None:
            self._cut(self._overlong(self.horizon), f"an episode has at most {self.horizon} steps")
        end = self.truncated | self.terminated if self.terminal_ends else self.truncated.copy()
        if not end.any():
            raise SparError(
                f"{self.source}: no episode end: neither terminated (terminals) nor truncated (timeouts) is ever set; mark the ends"
            )
        return end

    def _cut(self, cut: np.ndarray, why: str) -> np.ndarray:
        """Truncate where `cut` (T,) says an episode ends and nothing else does; (T,) bool, where that was."""
        cut = cut & ~self.truncated
        if self.terminal_ends:
            cut &= ~self.terminated
        if cut.any():
            self.notes.append(f"{cut.sum()} unmarked episode ends ({why}), first at row {int(np.flatnonzero(cut)[0])}; split there")
            self.truncated |= cut
        return cut

    def _differs(self) -> np.ndarray:
        differs = np.zeros(len(self.obs), bool)
        for span in spans(len(self.obs) - 1, self.obs.shape[1]):
            after = slice(span.start + 1, span.stop + 1)
            assert self.next_obs is not None
            one, other = as_float32(self.next_obs[span]), as_float32(self.obs[after])
            differs[span] = ((one != other) & ~(np.isnan(one) & np.isnan(other))).any(-1)
        return differs

    def _distance(self, columns: tuple[int, ...], limit: float) -> np.ndarray:
        far = np.zeros(len(self.obs), bool)
        for span in spans(len(self.obs) - 1, self.obs.shape[1]):
            block = as_float32(self.obs[span.start : span.stop + 1])[:, list(columns)]
            far[span] = np.linalg.norm(np.diff(block, axis=0), axis=-1) > limit
        return far

    def _overlong(self, horizon: int) -> np.ndarray:
        end = self.truncated | self.terminated if self.terminal_ends else self.truncated
        starts = np.flatnonzero(np.append(True, end[:-1]))
        age = np.arange(len(end)) - np.repeat(starts, np.diff(np.append(starts, len(end))))
        return age % horizon == horizon - 1

    def log(self, name: str, strict: bool = True, allocate: Allocate = heap) -> Log:
        """The log of these rows. With `strict` off the values are not checked: to look at, not to train on.

        Without successors, the last row of a truncated or unfinished episode is left out, its observation becomes the episode's final
        one. A terminated row never needs its successor and is kept.
        """
        if strict:
            self.check()
        self.note_rounding()
        end, notes, truncated = self.mark_ends(), self.notes, self.truncated
        if not end[-1] or not (self.terminated | self.truncated)[-1]:
            notes.append("the last episode is unfinished: its rows train, its return is not counted")
        finished = end & (self.terminated | self.truncated)
        end[-1] = True
        ends = np.flatnonzero(end)
        starts = np.append(0, ends[:-1] + 1)
        returns = self._returns(starts, ends, finished)

        known = self.next_obs is not None or self.stacked
        dropped = np.zeros(len(end), bool) if known else end & ~self.terminated
        if dropped.any():
            notes.append(f"{dropped.sum()} rows without a successor left out (an episode cut by a time limit or the end of the file)")
        lengths = ends - starts + 1 - dropped[ends]
        real, kept = lengths > 0, np.flatnonzero(~dropped)
        shortened = ends[dropped[ends] & real]
        truncated[shortened - 1] = finished[shortened]  # the row before now ends the episode

        ends, lengths, returns = ends[real], lengths[real], returns[real]
        assert self.action_low is not None and self.action_high is not None
        return Log(
            name=name,
            observations=self.obs if self.stacked else self._observations(kept, ends, lengths, allocate),
            actions=self.action if self.stacked else gather(self.action, kept, allocate),
            rewards=as_float32(self.reward[kept]),
            terminated=self.terminated[kept],
            truncated=truncated[kept],
            lengths=lengths,
            episode_returns=returns,
            action_low=self.action_low,
            action_high=self.action_high,
            env_id=self.env_id,
            env_kwargs=self.env_kwargs,
            observation_keys=self.observation_keys,
            source=self.source,
            notes=tuple(notes),
            problems=() if strict else self.problems(),
            rows_left_out=int(dropped.sum()),
        )

    def _observations(self, kept: np.ndarray, ends: np.ndarray, lengths: np.ndarray, allocate: Allocate) -> np.ndarray:
        """(T + E, obs_dim): the `kept` rows, and after each episode's its final observation."""
        observations = gather(self.obs, np.insert(kept, np.cumsum(lengths), ends), allocate)
        if self.next_obs is not None:
            observations[np.cumsum(lengths + 1) - 1] = gather(self.next_obs, ends)
        return observations

    def _returns(self, starts: np.ndarray, ends: np.ndarray, finished: np.ndarray) -> np.ndarray:
        """(E,) float64 undiscounted returns, NaN where unfinished. What comes after a first terminated step does not count: the
        environment would have stopped there."""
        if self.episode_returns is not None:
            if len(self.episode_returns) != len(ends):
                stated = f"{len(self.episode_returns)} episode returns are stated, but the rows make {len(ends)} episodes"
                raise SparError(f"{self.source}: {stated}; the file is damaged")
            return np.asarray(self.episode_returns, np.float64)
        before = np.cumsum(self.terminated) - self.terminated
        counts = before == np.repeat(before[starts], ends - starts + 1)
        return np.where(finished[ends], np.add.reduceat(np.where(counts, self.reward, 0.0).astype(np.float64), starts), np.nan)


def from_rows(
    name: str,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    next_obs: np.ndarray | None = None,
    action_low: np.ndarray | float | None = None,
    action_high: np.ndarray | float | None = None,
    env_id: str | None = None,
) -> Log:
    """A log from arrays in time order: obs (T, obs_dim), action (T, act_dim) inside [action_low, action_high], the rest (T,).

    With `next_obs` (T, obs_dim) every row is kept, and a row whose successor is not the next row's observation ends an episode even where
    no flag says so. Without it, the last row of a truncated or unfinished episode has no successor: the row is left out, its observation
    becomes the episode's final one. Vectors may be (T, 1); flags are True or False, 1 or 0. A bound is one number, or one for each action.
    Raises SparError, naming field and row, for shapes that do not fit and values that cannot be trusted.
    """
    given = {"observations": obs, "actions": action, "rewards": reward, "terminated": terminated, "truncated": truncated}
    columns = {field_name: _array(name, field_name, column) for field_name, column in given.items()}
    if next_obs is not None:
        columns["next_observations"] = _array(name, "next_observations", next_obs)
        if columns["next_observations"].shape[1] != columns["observations"].shape[1]:
            widths = [columns[key].shape[1] for key in ("next_observations", "observations")]
            raise SparError(f"{name}: 'next_observations' has {widths[0]} columns, 'observations' {widths[1]}; give the same ones")
    for field_name, column in columns.items():
        if len(column) != len(columns["observations"]):
            raise SparError(f"{name}: '{field_name}' has {len(column)} rows but 'observations' has {len(columns['observations'])}")
    low, high = (
        None if found is None else bound(name, f"'{key}'", found, columns["actions"].shape[1])
        for key, found in (("action_low", action_low), ("action_high", action_high))
    )
    return Rows(
        name, columns["observations"], columns["actions"], columns["rewards"], columns["terminated"], columns["truncated"],
        columns.get("next_observations"), action_low=low, action_high=high, env_id=env_id,
    ).log(name)  # fmt: skip


def _array(source: str, field_name: str, found: Any) -> np.ndarray:
    """What a user gave as (T, D) or (T,) numbers, or (T,) bool for a flag. Raises SparError where it is something else."""
    is_flag, is_matrix = field_name in ("terminated", "truncated"), field_name.endswith(("observations", "actions"))
    array = _numbers(source, f"'{field_name}'", found, "flags (True or False, 1 or 0)" if is_flag else "numbers")
    if array.ndim != 2 if is_matrix else array.shape not in ((array.size,), (array.size, 1)):
        expected = "(rows, dimensions)" if is_matrix else "(rows,) or (rows, 1)"
        raise SparError(f"{source}: '{field_name}' has shape {array.shape}, expected {expected}")
    if is_matrix:
        if array.shape[1] == 0:
            raise SparError(f"{source}: '{field_name}' has shape {array.shape}: no dimensions")
        return array
    return as_flags(source, field_name, array.reshape(-1)) if is_flag else array.reshape(-1)


def bound(source: str, what: str, found: Any, width: int) -> np.ndarray:
    """(width,) float32, of one number for each of `width` actions, or one for all. Raises SparError, naming `what`, for anything else."""
    array = _numbers(source, what, found, "numbers")
    if array.ndim and array.size != width:
        raise SparError(f"{source}: {what} has {array.size} numbers, 'actions' {width} dimensions")
    return np.broadcast_to(as_float32(array).reshape(-1), width)


def _numbers(source: str, what: str, found: Any, expected: str) -> np.ndarray:
    try:
        array = np.asarray(found)
    except (TypeError, ValueError):
        raise SparError(f"{source}: {what} is no array; give {expected} in rows of equal length") from None
    if array.dtype.kind not in "biuf":
        raise SparError(f"{source}: {what} {'is None' if found is None else f'has type {array.dtype}'}; it must be {expected}")
    return array
