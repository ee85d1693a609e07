"""PointMaze: a planner over the cells and a proportional-derivative controller, with noise; nothing is trained.

After D4RL's maze2d: the point walks from goal to random goal without a reset, `timeouts` marks where a goal was reached (or given up) and
the next one drawn, nothing terminates, and the reward is about one fixed goal. Where several routes lead to a goal, all are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from spar.data.recipes import mazes, rollouts

GAIN, DAMPING = 10.0, 1.0  # of the controller: action = GAIN (target - position) - DAMPING velocity
WANDERING = mazes.Habits(near=0.3, arrived=0.3, patience=100)
DIRECT = mazes.Habits(near=0.3, arrived=0.0, patience=100, detour=1.0)


class Walker:
    """Walks to `goal` and stays there; without one to random goals in turn, each at most `limit` steps."""

    def __init__(
        self, envs: list[gymnasium.Env], habits: mazes.Habits, noise: float, limit: int, goal: mazes.Cell | None, rng: np.random.Generator
    ) -> None:
        self.noise, self.limit, self.goal, self.rng = noise, limit, goal, rng
        self.navigators = [mazes.Navigator(env.unwrapped.maze, habits, rng) for env in envs]
        self.ages, self.at = np.zeros(len(envs), int), [np.empty(0)] * len(envs)

    def begin(self, i: int, env: gymnasium.Env, seed: int) -> Any:
        fresh = self.goal is not None or not len(self.at[i])
        obs = env.reset(seed=seed)[0] if fresh else {"observation": self.at[i]}
        self.navigators[i].head_for(obs["observation"][:2], self.goal)
        self.ages[i] = 0
        return obs

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        targets = np.stack([self.navigators[i].target for i in live])
        push = GAIN * (targets - obs[:, :2]) - DAMPING * obs[:, 2:]
        return np.clip(push + self.noise * self.rng.standard_normal(push.shape), -1.0, 1.0)

    def after(self, i: int, obs: np.ndarray) -> bool:
        self.at[i] = obs
        self.ages[i] += 1
        return self.navigators[i].advance(obs[:2]) or (self.goal is None and self.ages[i] >= self.limit)


@dataclass(frozen=True)
class Recipe:
    task: mazes.Task
    noise: float  # standard deviation of the Gaussian noise on the action
    rows: int
    seed: int
    level: str
    differs: tuple[str, ...]

    def columns(self, say: Callable[[str], None], snapshots: Path) -> tuple[rollouts.Columns, dict[str, str]]:
        """The dataset's columns and its file's attributes."""
        rng = np.random.default_rng(self.seed)
        copies = max(1, min(rollouts.COPIES, self.rows // 2000))
        envs = [mazes.robotics(self.task.env_id, max_episode_steps=self.rows + self.task.limit) for _ in range(copies)]
        walker = Walker(envs, WANDERING, self.noise, self.task.limit, None, rng)
        columns = rollouts.roll(envs, walker, self.rows, rng, self.task.keys)
        columns["rewards"] = mazes.hits(columns, mazes.centre(envs[0], self.task.goal), self.task.radius).astype(np.float32)
        say(f"{len(columns['rewards'])} rows, {int(columns['timeouts'].sum())} walks")
        return columns, self.task.attributes


def reference(recipe: Recipe, episodes: int, seed: int) -> dict[str, float]:
    """Mean returns of uniformly random actions and of the planner without noise on the shortest route, in the evaluation task."""
    task, rng = recipe.task, np.random.default_rng(seed)
    envs = [mazes.robotics(task.env_id, **task.kwargs) for _ in range(episodes)]
    return rollouts.contrast(envs, Walker(envs, DIRECT, 0.0, task.limit, task.goal, rng), rng, task.keys)
