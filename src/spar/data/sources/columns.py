"""Flat step-aligned columns under D4RL's names, whatever container they come from (HDF5, NPZ), and what is known of each D4RL family.

Names: `observations` (N, obs_dim), `actions` (N, act_dim), `rewards` (N,), `terminals` (N,); optional `timeouts` (N,) and
`next_observations` (N, obs_dim). Vectors may be (N, 1), numbers float64, flags bool or 0/1 numbers.
Attributes, where the container can hold them: `env_id`, `env_kwargs` (JSON), `observation_keys`, `action_low`, `action_high`,
`terminals_end_episodes`, and `episode_lengths` (E,) where flags alone do not say where episodes end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spar.data.blocks import Matrix, as_flags, as_float32
from spar.data.episodes import Log
from spar.data.rows import Rows, bound
from spar.types import SparError

MATRICES = ("observations", "actions", "next_observations")
FLAGS = ("terminals", "timeouts")
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
RETURNS = "metadata/episode_returns"  # (E,), as the log that was written states them: rows it lacks may have earned some


@dataclass(frozen=True)
class Family:
    """How the files of a D4RL family must be read (Fu et al. 2020; the issues of their repository name the pitfalls). A name alone proves
    nothing: it counts where the sizes are the family's too."""

    pattern: str  # of a dataset's or an environment's name
    sizes: tuple[tuple[int, int], ...]  # (obs_dim, act_dim), D4RL's first, then those of its successors
    terminal_ends: bool = True  # AntMaze: a relabelled goal hit stops the bootstrap, the ant walks on
    terminals_are_ends: bool = False  # Kitchen: 'terminals' marks the end of a demonstration, not of the task
    horizon: int | None = None  # steps after which an episode is cut where the file has no 'timeouts'
    jump: tuple[tuple[int, ...], float] | None = None  # AntMaze v0: resets that no flag marks


ANTMAZE_JUMP = ((0, 1), 1.0)  # an ant moves a fraction of this in one step
ANTMAZE_SIZES = ((29, 8), (31, 8), (107, 8), (109, 8))  # an ant's 27 or 105 numbers after its position, or that and its goal
FAMILIES = (
    Family("ant_?maze.*u-?maze", ANTMAZE_SIZES, terminal_ends=False, horizon=700, jump=ANTMAZE_JUMP),
    Family("ant_?maze", ANTMAZE_SIZES, terminal_ends=False, horizon=1000, jump=ANTMAZE_JUMP),
    Family("kitchen", ((60, 9),), terminals_are_ends=True, horizon=280),
    Family("(adroithand)?pen", ((45, 24),), horizon=100),
    Family("(adroithand)?door", ((39, 28),), horizon=200),
    Family("(adroithand)?hammer", ((46, 26),), horizon=200),
    Family("(adroithand)?relocate", ((39, 30),), horizon=200),
    Family("hopper", ((11, 3),), horizon=1000),
    Family("halfcheetah|walker2d|walker", ((17, 6),), horizon=1000),
    Family("ant", ((111, 8), (27, 8), (105, 8)), horizon=1000),
    *(
        Family(f"(maze2d|pointmaze).*{size}(dense)?", ((4, 2), (6, 2), (8, 2)), horizon=h)
        for size, h in (("open", 150), ("umaze", 300), ("medium", 600), ("large", 800))
    ),
)
UNKNOWN = Family("", ())


def family_of(*names: str | None, sizes: tuple[int, int] | None = None) -> Family:
    """The family that the first telling name (of a dataset, a file, an environment) belongs to, of those with `sizes` (obs_dim, act_dim)
    where given; UNKNOWN where none tells."""
    for name in filter(None, names):
        for family in FAMILIES:
            fits = sizes is None or sizes in family.sizes
            if fits and re.match(rf"(mini_)?({family.pattern})([^a-z]|$)", name.lower().split("/")[-1]):
                return family
    return UNKNOWN


def column(source: str, key: str, found: Any, keep_matrix: bool = False) -> Matrix:
    """One column with shape and type checked: matrices (N, D), vectors (N,), flags (N,) bool. With `keep_matrix` a matrix stays the
    sliceable object `found` (not yet in memory)."""
    is_flag, is_matrix = key in FLAGS, key in MATRICES
    kind, shape = found.dtype.kind, tuple(found.shape or ())
    if kind not in ("biuf" if is_flag else "f"):
        discrete = "discrete actions are not supported; quantities must be floating point: convert them with .astype('float32')"
        raise SparError(f"{source}: '{key}' has type {found.dtype}; {discrete if key == 'actions' else 'it must be floating point'}")
    if (is_matrix and len(shape) != 2) or (not is_matrix and shape not in [shape[:1] or (0,), (*shape[:1], 1)]):
        raise SparError(f"{source}: '{key}' has shape {shape}, expected {'(rows, dimensions)' if is_matrix else '(rows,) or (rows, 1)'}")
    if is_matrix and shape[1] == 0:
        raise SparError(f"{source}: '{key}' has shape {shape}: no dimensions")
    if is_matrix and keep_matrix:
        return found
    try:
        array = np.asarray(found[()])
    except (OSError, ValueError) as error:
        raise SparError(f"{source}: '{key}' cannot be read ({str(error).splitlines()[0]}); the file is damaged") from None
    if is_matrix:
        return array
    array = array.reshape(-1)
    return as_flags(source, key, array) if is_flag else array


def to_rows(source: str, columns: Mapping[str, Matrix], attributes: Mapping[str, Any], names: tuple[str | None, ...]) -> Rows:
    """Rows of checked `columns`; `names` (most telling first) decide the family, if the sizes are its own.

    Raises SparError when columns disagree in length or width.
    """
    rows = len(columns["observations"])
    if rows == 0:
        raise SparError(f"{source}: the file is empty: 'observations' has no rows")
    for key, found in columns.items():
        if len(found) != rows and key != RETURNS:
            raise SparError(f"{source}: '{key}' has {len(found)} rows but 'observations' has {rows}")
    following = columns.get("next_observations")
    if following is not None and following.shape != columns["observations"].shape:
        raise SparError(
            f"{source}: 'next_observations' has shape {tuple(following.shape)}, 'observations' {tuple(columns['observations'].shape)}"
        )
    env_id = str(attributes["env_id"]) if "env_id" in attributes else None
    width, notes = columns["actions"].shape[1], []
    family = family_of(*names, env_id, sizes=(columns["observations"].shape[1], width))
    terminals, timeouts = columns["terminals"], columns.get("timeouts")
    timeouts = np.zeros(rows, bool) if timeouts is None else timeouts
    if family.terminals_are_ends and "terminals_end_episodes" not in attributes:  # which our own files state
        terminals, timeouts = np.zeros(rows, bool), timeouts | terminals
        notes.append("'terminals' marks the end of a demonstration here, not of the task: read as a time limit")
    low, high = (
        bound(source, f"attribute '{key}'", attributes[key], width) if key in attributes else None for key in ("action_low", "action_high")
    )
    terminal_ends = family.terminal_ends
    if "terminals_end_episodes" in attributes:
        terminal_ends = bool(_numbers(source, attributes, "terminals_end_episodes")[:1].any())
    return Rows(
        source=source,
        obs=columns["observations"],
        action=columns["actions"],
        reward=columns["rewards"],
        terminated=terminals,
        truncated=timeouts,
        next_obs=following,
        ends=_ends(source, attributes["episode_lengths"], rows) if "episode_lengths" in attributes else None,
        action_low=low,
        action_high=high,
        env_id=env_id,
        env_kwargs=str(attributes.get("env_kwargs", "")),
        observation_keys=tuple(filter(None, str(attributes.get("observation_keys", "")).split(","))),
        episode_returns=columns.get(RETURNS),
        terminal_ends=terminal_ends,
        horizon=family.horizon if following is None and not timeouts.any() else None,
        jump=family.jump,
        notes=notes,
    )


def _numbers(source: str, attributes: Mapping[str, Any], key: str) -> np.ndarray:
    """(n,) float32."""
    found = np.asarray(attributes[key])
    if found.dtype.kind not in "biuf":
        raise SparError(f"{source}: attribute '{key}' must be numbers, not {found.dtype}")
    return as_float32(found).reshape(-1)


def _ends(source: str, lengths: Any, rows: int) -> np.ndarray:
    """(E,) the last row of each episode."""
    lengths = np.asarray(lengths).reshape(-1)
    if lengths.dtype.kind not in "iu" or not (lengths > 0).all() or lengths.sum() != rows:
        raise SparError(f"{source}: attribute 'episode_lengths' must be positive and add up to the {rows} rows of 'observations'")
    return np.cumsum(lengths.astype(np.int64)) - 1


def from_log(log: Log) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(columns, attributes) that `to_rows` turns back into an equal log, bit for bit."""
    columns = {
        "observations": log.observations[log.obs_index],
        "actions": log.actions,
        "rewards": log.rewards,
        "terminals": log.terminated,
        "timeouts": log.truncated,
        "next_observations": log.successors,
        RETURNS: log.episode_returns,
    }
    ends = np.cumsum(log.lengths) - 1
    inside = log.terminated.copy()
    inside[ends] = False
    told = np.flatnonzero(log.truncated if inside.any() else log.truncated | log.terminated)
    attributes: dict[str, Any] = {"action_low": log.action_low, "action_high": log.action_high}
    attributes |= {"terminals_end_episodes": not inside.any()}
    stops_midway = len(ends) > 1 and not (log.truncated | log.terminated)[-1]
    attributes |= {} if np.array_equal(told, ends[:-1] if stops_midway else ends) else {"episode_lengths": log.lengths}
    attributes |= {"env_id": log.env_id} if log.env_id else {}
    attributes |= {"env_kwargs": log.env_kwargs} if log.env_kwargs else {}
    attributes |= {"observation_keys": ",".join(log.observation_keys)} if log.observation_keys else {}
    return columns, attributes
