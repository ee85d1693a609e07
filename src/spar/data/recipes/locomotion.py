"""Hopper, HalfCheetah and Walker2d: snapshots of one SAC run acting as they did while they learned, each for an equal share of the rows.

medium is one snapshot near D4RL's level of the same name, medium-expert that one and the best, and medium-replay every snapshot up to the
medium one, in the order of learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from spar.data.recipes import collectors, rollouts


@dataclass(frozen=True)
class Recipe:
    env_id: str
    collector: str  # whose snapshots act
    steps: tuple[int, ...]  # the snapshots, by environment steps of training
    rows: int  # at least; episodes are whole
    seed: int
    level: str  # how the data's level compares to D4RL's
    differs: tuple[str, ...]

    def columns(self, say: Callable[[str], None], snapshots: Path) -> tuple[rollouts.Columns, dict[str, str]]:
        """The dataset's columns and its file's attributes."""
        share = -(-self.rows // len(self.steps))
        copies = max(1, min(rollouts.COPIES, share // 2000))
        envs = [gymnasium.make(self.env_id, disable_env_checker=True) for _ in range(copies)]
        parts = []
        for step in self.steps:
            rng = np.random.default_rng([self.seed, step])
            actor = collectors.load(collectors.path_of(snapshots / self.collector, step))
            parts.append(rollouts.roll(envs, rollouts.Stochastic(actor, envs[0].action_space.shape[0], rng), share, rng))
            say(f"snapshot of step {step}: {len(parts[-1]['rewards'])} rows")
        return rollouts.join(parts), {"env_id": self.env_id}
