"""A goal-reaching ant in an open field: what the AntMaze collectors are trained in, and how a walker of the maze sees its next way-point.

The body is the maze's own (gymnasium's ant.xml, five frames of 0.01 s a step). The policy sees neither its position nor its heading, only
the way-point relative to them, so what it learns in the open holds anywhere in a maze.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv

HORIZON = 6.0  # metres: way-points farther off look this far
REACHED = 0.5  # metres


def features(obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """What the policy sees: (B, 29) observations, xy first, and (B, 2) goals -> (B, 29).

    Height, the world's up in the body's frame, joint angles; linear velocity in the frame turned by the heading, angular velocity, joint
    velocities; direction of the goal in the frame turned by the heading and its distance over HORIZON, at most 1.
    """
    w, x, y, z = obs[:, 3:7].T
    up = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x**2 + y**2)], -1)
    heading = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2))
    away = goal - obs[:, :2]
    distance = np.linalg.norm(away, axis=-1, keepdims=True)
    direction = _turn(away / np.maximum(distance, 1e-6), -heading)
    velocity = np.concatenate([_turn(obs[:, 15:17], -heading), obs[:, 17:18]], -1)
    parts = [obs[:, 2:3], up, obs[:, 7:15], velocity, obs[:, 18:], direction, np.minimum(distance / HORIZON, 1.0)]
    return np.concatenate(parts, -1)


def upright(obs: np.ndarray) -> np.ndarray:
    """Cosine between the torso's up and the world's: (B, 29) -> (B,)."""
    return 1 - 2 * (obs[:, 4] ** 2 + obs[:, 5] ** 2)


def _turn(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * vectors[:, 0] - sin * vectors[:, 1], sin * vectors[:, 0] + cos * vectors[:, 1]], -1)


class GoalAnt(gymnasium.Env):
    """Reward: metres a second towards the goal, 0.5 for being upright, 0.05 |action|^2 off. A goal reached is followed by another.

    Ends when the torso leaves 0.2 to 1 m of height or tips over; goals lie 2 to 7 m away in any direction.
    """

    def __init__(self) -> None:
        self.ant = AntEnv(include_cfrc_ext_in_observation=False, exclude_current_positions_from_observation=False)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        self.action_space = self.ant.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        obs, _ = self.ant.reset(seed=int(self.np_random.integers(2**31)))
        yaw, pose = self.np_random.uniform(-np.pi, np.pi), self.ant.data.qpos.copy()
        pose[3:7] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        self.ant.set_state(pose, self.ant.data.qvel)
        obs[3:7] = pose[3:7]
        self.goal = self._draw(obs)
        return features(obs[None], self.goal[None])[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before = np.linalg.norm(self.goal - self.ant.data.qpos[:2])
        obs, _, _, _, _ = self.ant.step(action)
        distance = np.linalg.norm(self.goal - obs[:2])
        reward = (before - distance) / self.ant.dt + 0.5 - 0.05 * float(np.square(action).sum())
        fallen = not (np.isfinite(obs).all() and 0.2 <= obs[2] <= 1.0 and upright(obs[None])[0] > 0)
        if distance <= REACHED:
            self.goal = self._draw(obs)
        return features(obs[None], self.goal[None])[0], float(reward), fallen, False, {"reached": bool(distance <= REACHED)}

    def _draw(self, obs: np.ndarray) -> np.ndarray:
        angle, distance = self.np_random.uniform(-np.pi, np.pi), self.np_random.uniform(2.0, 7.0)
        return obs[:2] + distance * np.array([np.cos(angle), np.sin(angle)])
