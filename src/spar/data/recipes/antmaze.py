"""AntMaze: a goal-reaching ant (`goal_ant`) led along way-points, after D4RL's antmaze-*-diverse.

It starts anywhere, walks from goal to random goal until the time limit or until it has lain on its back for a while, with Gaussian noise
on its actions. Rewards and terminals are about the one goal of the evaluation task, whichever goal the ant was after: both are 1 on
every step that ends within its radius, and the trajectory goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from spar.data.recipes import collectors, goal_ant, mazes, rollouts, sac

HABITS = mazes.Habits(near=1.2, arrived=0.5, patience=150)
FALLEN = 50  # steps on its back after which a trajectory is cut


class Walker:
    """The actor's mode towards the navigator's way-point, plus noise. With `goal` it walks there and, arrived, stays on that course."""

    def __init__(
        self,
        envs: list[gymnasium.Env],
        actor: sac.Actor,
        habits: mazes.Habits,
        noise: float,
        goal: mazes.Cell | None,
        rng: np.random.Generator,
    ) -> None:
        self.actor, self.noise, self.goal, self.rng = actor, noise, goal, rng
        self.navigators = [mazes.Navigator(env.unwrapped.maze, habits, rng) for env in envs]
        self.fallen = np.zeros(len(envs), int)

    def begin(self, i: int, env: gymnasium.Env, seed: int) -> Any:
        obs = env.reset(seed=seed)[0]
        self.navigators[i].head_for(obs["achieved_goal"], self.goal)
        self.fallen[i] = 0
        return obs

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        targets = np.stack([self.navigators[i].target for i in live])
        action = self.actor.act(goal_ant.features(obs, targets))
        return np.clip(action + self.noise * self.rng.standard_normal(action.shape), -1.0, 1.0)

    def after(self, i: int, obs: np.ndarray) -> bool:
        if self.navigators[i].advance(obs[:2]) and self.goal is None:
            self.navigators[i].head_for(obs[:2])
        self.fallen[i] = self.fallen[i] + 1 if goal_ant.upright(obs[None])[0] < 0 else 0
        return bool(self.fallen[i] >= FALLEN)


@dataclass(frozen=True)
class Recipe:
    task: mazes.Task
    collector: str
    step: int  # the snapshot, by environment steps of training
    noise: float  # standard deviation of the Gaussian noise on the action
    rows: int
    seed: int
    level: str
    differs: tuple[str, ...]

    def columns(self, say: Callable[[str], None], snapshots: Path) -> tuple[rollouts.Columns, dict[str, str]]:
        """The dataset's columns and its file's attributes."""
        rng = np.random.default_rng(self.seed)
        copies = max(1, min(rollouts.COPIES, self.rows // (2 * self.task.limit)))
        envs = [mazes.robotics(self.task.env_id, max_episode_steps=self.task.limit) for _ in range(copies)]
        actor = collectors.load(collectors.path_of(snapshots / self.collector, self.step))
        columns = rollouts.roll(envs, Walker(envs, actor, HABITS, self.noise, None, rng), self.rows, rng, self.task.keys)
        columns["terminals"] = mazes.hits(columns, mazes.centre(envs[0], self.task.goal), self.task.radius)
        columns["rewards"] = columns["terminals"].astype(np.float32)
        say(f"{len(columns['rewards'])} rows, {int(columns['timeouts'].sum())} trajectories, {int(columns['terminals'].sum())} at the goal")
        return columns, self.task.attributes


def reference(recipe: Recipe, episodes: int, seed: int, snapshots: Path) -> dict[str, float]:
    """Shares of evaluation episodes in which uniformly random actions, and the collector led straight there without noise, succeed."""
    task, rng = recipe.task, np.random.default_rng(seed)
    envs = [mazes.robotics(task.env_id, **task.kwargs) for _ in range(episodes)]
    actor = collectors.load(collectors.path_of(snapshots / recipe.collector, recipe.step))
    habits = dataclasses.replace(HABITS, detour=1.0)
    return rollouts.contrast(envs, Walker(envs, actor, habits, 0.0, task.goal, rng), rng, task.keys)
