"""Mazes of gymnasium-robotics as grids: routes between cells, and a navigator that hands out way-points along them.

A cell is (row, column). Where several routes lead to a goal, one is drawn at random, so that the same place is left in different
directions.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from spar.data.recipes.rollouts import Columns
from spar.types import SparError

Cell = tuple[int, int]
Grid = tuple[tuple[Any, ...], ...]  # 1 is a wall


def robotics(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """`gymnasium.make` for the environments of gymnasium-robotics. Raises SparError when that is not installed."""
    try:
        return gymnasium.make(f"gymnasium_robotics:{env_id}", disable_env_checker=True, **kwargs)
    except ModuleNotFoundError:
        raise SparError(f"{env_id} needs gymnasium-robotics: `pip install '.[robotics]'` where spar's sources lie") from None


@dataclass(frozen=True)
class Task:
    """A maze with the one goal that every reward is about, as it is evaluated."""

    env_id: str
    keys: tuple[str, ...]  # of the dict observation, in the order of the log's columns
    start: Cell | None  # None: any free cell
    goal: Cell
    limit: int  # steps of an episode
    radius: float  # metres from the centre of the goal's cell within which a step is rewarded
    ends: bool  # whether reaching the goal ends an episode

    @property
    def kwargs(self) -> dict[str, Any]:
        """Arguments with which `gymnasium.make` gives the evaluation task."""
        grid = [list(row) for row in robotics(self.env_id).unwrapped.maze.maze_map]
        grid[self.goal[0]][self.goal[1]] = "g"
        if self.start is not None:
            grid[self.start[0]][self.start[1]] = "r"
        return {"maze_map": grid, "continuing_task": not self.ends, "max_episode_steps": self.limit}

    @property
    def attributes(self) -> dict[str, str]:
        """What the file says of it."""
        return {"env_id": self.env_id, "env_kwargs": json.dumps(self.kwargs), "observation_keys": ",".join(self.keys)}


@functools.cache
def routes(grid: Grid, start: Cell, goal: Cell, detour: float) -> tuple[tuple[Cell, ...], ...]:
    """Every route without a repeated cell from `start` (left out) to `goal` of at most `detour` times the shortest one's length."""
    distance = _distances(grid, goal)
    longest = int(detour * distance[start])
    found: list[tuple[Cell, ...]] = []

    def walk(path: tuple[Cell, ...]) -> None:
        if path[-1] == goal:
            found.append(path[1:])
            return
        for cell in _neighbours(grid, path[-1]):
            if cell not in path and len(path) + distance[cell] <= longest:
                walk((*path, cell))

    walk((start,))
    return tuple(found)


@functools.cache
def _distances(grid: Grid, goal: Cell) -> dict[Cell, int]:
    distance, frontier = {goal: 0}, [goal]
    for cell in frontier:
        for other in _neighbours(grid, cell):
            if other not in distance:
                distance[other] = distance[cell] + 1
                frontier.append(other)
    return distance


def _neighbours(grid: Grid, cell: Cell) -> list[Cell]:
    row, column = cell
    around = ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1))
    return [(r, c) for r, c in around if grid[r][c] != 1]


@dataclass(frozen=True)
class Habits:
    """How a navigator leads its walker; lengths in metres."""

    near: float  # distance at which a way-point counts as passed
    arrived: float  # and at which the goal counts as reached
    patience: int  # steps without passing one before it plans anew
    detour: float = 1.5  # it draws from the routes up to this many times the shortest


class Navigator:
    """Leads a walker along way-points: `target` is where to go; `advance` moves it on and says whether the goal has been reached."""

    def __init__(self, maze: Any, habits: Habits, rng: np.random.Generator) -> None:
        self.maze, self.habits, self.rng = maze, habits, rng
        self.grid: Grid = tuple(tuple(row) for row in maze.maze_map)
        self.free = [(r, c) for r, row in enumerate(self.grid) for c, kind in enumerate(row) if kind != 1]
        self.centres = np.stack([maze.cell_rowcol_to_xy(cell) for cell in self.free])  # (cells, 2)

    def head_for(self, xy: np.ndarray, goal: Cell | None = None) -> None:
        """Set out from `xy` for `goal`, by default a random other cell."""
        here = self.free[int(np.linalg.norm(self.centres - xy, axis=-1).argmin())]
        others = [cell for cell in self.free if cell != here]
        self.goal = others[self.rng.integers(len(others))] if goal is None else goal
        ways = routes(self.grid, here, self.goal, self.habits.detour)
        self.points = [self.maze.cell_rowcol_to_xy(cell) for cell in (ways[self.rng.integers(len(ways))] or (self.goal,))]
        self.waited = 0

    @property
    def target(self) -> np.ndarray:
        return self.points[0]

    def advance(self, xy: np.ndarray) -> bool:
        """The walker is at `xy` (2,) now; whether that is its goal."""
        distance, last = np.linalg.norm(self.target - xy), len(self.points) == 1
        self.waited += 1
        if last and distance <= self.habits.arrived:
            return True
        if not last and distance <= self.habits.near:
            self.points.pop(0)
            self.waited = 0
        elif self.waited > self.habits.patience or distance > 1.6 * self.maze.maze_size_scaling:
            self.head_for(xy, self.goal)  # stuck, or pushed off its route
        return False


def centre(env: gymnasium.Env, cell: Cell) -> np.ndarray:
    """Metres (2,) of a cell's centre."""
    return env.unwrapped.maze.cell_rowcol_to_xy(cell)


def hits(columns: Columns, goal: np.ndarray, radius: float) -> np.ndarray:
    """Whether each step led to within `radius` metres of `goal` (2,): (N,) bool."""
    return np.linalg.norm(columns["next_observations"][:, :2] - goal, axis=-1) <= radius
