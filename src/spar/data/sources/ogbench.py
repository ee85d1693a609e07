"""OGBench's NPZ files (Park et al. 2025), whose layout is not D4RL's although the names are.

`terminals` is 1 at the last row of each trajectory, a time limit; that row holds the trajectory's final observation, its action and
whatever else belongs to the row was never taken. With `next_observations` (N, obs_dim) in the file every row is a step. `masks` is 0 where
the task itself ended: that stops the bootstrap, the trajectory goes on. `qpos` serves only to find positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spar.data.blocks import Allocate, gather, heap
from spar.data.episodes import Log
from spar.data.rows import Rows
from spar.data.sources import columns, npz
from spar.types import SparError


def read(
    path: Path,
    name: str | None = None,
    env_id: str | None = None,
    strict: bool = True,
    allocate: Allocate = heap,
    goal: tuple[float, float] | None = None,
    radius: float | None = None,
) -> Log:
    """The log in the file `path`.

    With `goal` (x, y) and `radius`, in the maze's metres, rewards and masks are made as OGBench's singletask mazes make them: a step that
    starts within `radius` of the goal is rewarded 0 and ends the task, any other is rewarded -1. The position is the first two numbers of
    `qpos` where the file has it, of the observation elsewhere.
    Raises SparError with file, array and row for anything that cannot be trusted (with `strict` off, values are not looked at), and for a
    file without rewards when no goal is given.
    """
    path, source = Path(path), str(path)
    if (goal is None) != (radius is None):
        raise SparError(f"{source}: 'goal' and 'radius' belong together; give both")
    notes = []
    with npz.open_file(path) as file:
        found = {key: columns.column(source, key, file.array(key)) for key in ("observations", "actions", "terminals")}
        if "next_observations" in file.names:
            found["next_observations"] = columns.column(source, "next_observations", file.array("next_observations"))
        if goal is not None and radius is not None:
            position = file.numbers("qpos") if "qpos" in file.names else found["observations"]
            found["rewards"], task_ended = relabel(source, position, goal, radius)
            notes.append(f"rewards and terminations are those of reaching {goal} within {radius}")
        elif "rewards" in file.names:
            found["rewards"] = columns.column(source, "rewards", file.array("rewards"))
            if "masks" not in file.names:
                notes.append("the file has no 'masks': no step is read as terminated")
            masks = file.numbers("masks").reshape(-1) if "masks" in file.names else np.ones(len(found["rewards"]))
            odd = np.flatnonzero((masks != 0) & (masks != 1))
            if len(odd):
                raise SparError(f"{source}: 'masks' row {odd[0]} is {masks[odd[0]]}; masks are 0 or 1")
            task_ended = masks == 0
        else:
            raise SparError(
                f"{source}: 'rewards' is missing, as in all goal-conditioned files of OGBench; for a maze give goal=(x, y) and radius=... "
                "(its singletask mazes have 0.5, point mazes 1.0), for another task add the rewards and masks of its relabel_dataset"
            )
    rows = len(found["observations"])
    for key, column in {**found, "masks": task_ended}.items():
        if len(column) != rows:
            raise SparError(f"{source}: '{key}' has {len(column)} rows but 'observations' has {rows}")
    return _rows(source, found, task_ended, env_id, notes, allocate).log(name or path.stem, strict, allocate)


def is_ogbench(path: Path) -> bool:
    """Whether the NPZ file `path` has what only OGBench's have. Raises SparError where it is not a readable NPZ file."""
    with npz.open_file(path) as file:
        return {"observations", "terminals"} <= set(file.names) and (
            "rewards" not in file.names or bool({"masks", "qpos"} & set(file.names))
        )


def relabel(source: str, position: np.ndarray, goal: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(rewards, whether the task ended) of each row of `position` (N, at least 2), as `ogbench.relabel_utils` computes them for mazes."""
    if position.ndim != 2 or position.shape[1] < 2:
        raise SparError(f"{source}: positions have shape {position.shape}, a goal needs x and y; this is no maze with observed states")
    success = np.linalg.norm(position[:, :2] - np.asarray(goal), axis=-1) <= radius
    return success.astype(np.float32) - 1.0, success


def _rows(
    source: str, found: dict[str, np.ndarray], task_ended: np.ndarray, env_id: str | None, notes: list[str], allocate: Allocate
) -> Rows:
    last, following = found["terminals"], found.get("next_observations")
    if not last.any():
        raise SparError(f"{source}: 'terminals' is never set; mark the last row of each trajectory")
    if following is not None:
        if following.shape != found["observations"].shape:
            raise SparError(f"{source}: 'next_observations' has shape {following.shape}, 'observations' {found['observations'].shape}")
        return Rows(
            source, found["observations"], found["actions"], found["rewards"], task_ended, last, following,
            ends=np.flatnonzero(last), terminal_ends=False, env_id=env_id, notes=notes,
        )  # fmt: skip
    finished, last = last, last.copy()
    last[-1] = True  # of a trajectory that the file cuts short, the last row is as good as a final observation
    alone = last & np.append(True, last[:-1])
    if alone.any():
        notes.append(f"{alone.sum()} trajectories of a single row left out: they have no step")
    step = ~last
    ends = np.flatnonzero(step & np.append(last[1:], False))
    truncated = np.append(finished[1:], False)[step]
    return Rows(
        source, gather(found["observations"], np.flatnonzero(~alone), allocate), gather(found["actions"], np.flatnonzero(step), allocate),
        found["rewards"][step], task_ended[step], truncated, stacked=True, ends=(np.cumsum(step) - 1)[ends],
        terminal_ends=False, env_id=env_id, notes=notes,
    )  # fmt: skip
